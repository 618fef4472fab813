"""A copy of the project that a test may build, break and throw away."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md")
FOLDERS = ("csrc", "mixnorm_cuda", "tools")

# What would make the outcome depend on the machine that runs the tests.
_SWITCHES = ("MIXNORM_NATIVE", "FORCE_CUDA", "TORCH_CUDA_ARCH_LIST", "CC", "CXX")


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


class Project:
    def __init__(self, root: Path) -> None:
        self.root = root
        for name in FILES:
            if (ROOT / name).is_file():
                shutil.copy(ROOT / name, root / name)
        ignore = shutil.ignore_patterns("*.so", "__pycache__")
        for name in FOLDERS:
            shutil.copytree(ROOT / name, root / name, ignore=ignore)
        (root / "README.md").touch()

    def keep_sources(self, *lines: str) -> None:
        """Compile only these: what a mode builds is the question here, not all that it builds."""
        (self.root / "csrc/sources.txt").write_text("\n".join(lines) + "\n")

    def python(self, *arguments: str, folder: Path | None = None, **environment: str) -> Outcome:
        """Run this interpreter in the project or in ``folder``.

        No CUDA toolkit is found unless CUDA_HOME is given.
        """
        inherited = {k: v for k, v in os.environ.items() if k not in _SWITCHES}
        # Scripts of this environment, ninja among them.
        inherited["PATH"] = os.pathsep.join(
            [str(Path(sys.executable).parent), inherited.get("PATH", "")]
        )
        defaults = {"CUDA_HOME": str(self.root / "no-toolkit"), "PYTHONPATH": "", "MAX_JOBS": "2"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder or self.root,
            env=inherited | defaults | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def wheel(self, **environment: str) -> tuple[Outcome, list[Path]]:
        outcome = self.python(
            *("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-v"),
            *("--disable-pip-version-check", "-w", "dist", "."),
            **environment,
        )
        return outcome, sorted((self.root / "dist").glob("*.whl"))
