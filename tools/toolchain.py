"""What there is to compile and to compile with. Used by setup.py and by the checks; no torch."""

import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# One binary for each data-centre generation; PTX of the last serves what comes after it.
DEFAULT_CUDA_ARCHS = ("8.0", "9.0", "10.0")

# setuptools, ninja and nvcc each look for a compiler in their own way; one answer for all.
_CXX_NAMES = ("c++", "g++", "clang++")
_CC_NAMES = ("cc", "gcc", "clang")


def read_sources(root: Path = ROOT) -> dict[str, list[str]]:
    """csrc/sources.txt as {group: [path relative to the root]}."""
    sources: dict[str, list[str]] = {}
    for number, line in enumerate((root / "csrc/sources.txt").read_text().splitlines(), start=1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        if len(fields) != 2:
            raise ValueError(f"csrc/sources.txt:{number}: expected 'group path', got {line!r}")
        group, path = fields
        if not (root / "csrc" / path).is_file():
            raise ValueError(f"csrc/sources.txt:{number}: no file csrc/{path}")
        sources.setdefault(group, []).append(f"csrc/{path}")
    return sources


def _executable(command: str | None) -> bool:
    words = shlex.split(command or "")
    return bool(words) and shutil.which(words[0]) is not None


def find_compiler(variable: str) -> str | None:
    """The C++ ("CXX") or C ("CC") compiler: the environment variable's, or one on PATH.

    A variable that names nothing executable means that there is no compiler: what the user asked
    for is not replaced by another.
    """
    chosen = os.environ.get(variable)
    if chosen:
        return chosen if _executable(chosen) else None
    names = _CXX_NAMES if variable == "CXX" else _CC_NAMES
    return next((name for name in names if _executable(name)), None)


def has_python_headers() -> bool:
    return (Path(sysconfig.get_path("include")) / "Python.h").is_file()


def find_cuda_home() -> Path | None:
    """The CUDA toolkit's root: CUDA_HOME, CUDA_PATH, or where the nvcc on PATH really lives.

    That nvcc may be a link or a wrapper script, so it is asked: a dry run prints the root.
    """
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            home = Path(os.environ[variable])
            return home if _executable(str(home / "bin/nvcc")) else None
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        return None
    dry_run = _output([nvcc, "--dryrun", "-c", "-x", "cu", os.devnull])
    top = re.search(r"^#\$ TOP=(.+)$", dry_run, re.MULTILINE)
    home = Path(top[1].strip()) if top else Path(nvcc).resolve().parent.parent
    home = home.resolve()
    return home if (home / "bin/nvcc").is_file() else None


def nvcc_version(cuda_home: Path) -> str | None:
    """The toolkit's release, such as "13.0"; None when nvcc does not run."""
    release = re.search(r"release (\d+\.\d+)", _output([str(cuda_home / "bin/nvcc"), "--version"]))
    return release[1] if release else None


def default_cuda_archs(cuda_home: Path) -> list[str]:
    """Those of DEFAULT_CUDA_ARCHS that this nvcc compiles for, the last one with PTX."""
    known = _output([str(cuda_home / "bin/nvcc"), "--list-gpu-arch"]).split()
    archs = [arch for arch in DEFAULT_CUDA_ARCHS if f"compute_{arch.replace('.', '')}" in known]
    return [*archs[:-1], f"{archs[-1]}+PTX"] if archs else []


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
