"""tools/gpu_inspect.sh says what failed, whatever it was; the steps that it profiles run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixnorm_cuda import dispatch

ROOT = Path(__file__).parents[2]
TOOLS = ("compute-sanitizer", "ncu")


def run(tmp_path: Path, **exit_codes: int) -> subprocess.CompletedProcess:
    """With stand-ins for the tools, which note their arguments; those not named are missing."""
    for name, code in exit_codes.items():
        tool = tmp_path / name.replace("_", "-")
        tool.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\nexit {code}\n')
        tool.chmod(0o755)
    system = "/usr/bin:/bin"
    environment = {"PATH": f"{tmp_path}:{system}", "OUT_DIR": str(tmp_path), "HOME": "/"}
    return subprocess.run(
        ["bash", ROOT / "tools/gpu_inspect.sh"], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
class TestScript:
    def test_runs_every_tool(self, tmp_path):
        done = run(tmp_path, compute_sanitizer=0, ncu=0)
        assert done.returncode == 0, done.stdout + done.stderr
        calls = (tmp_path / "calls").read_text().splitlines()
        assert [call.split()[1] for call in calls[:3]] == ["memcheck", "racecheck", "synccheck"]
        assert calls[3].endswith("python3 tools/cuda_steps.py")
        assert len(calls) == 4

    @pytest.mark.parametrize("failing", TOOLS)
    def test_a_failure_is_named(self, tmp_path, failing):
        codes = {name.replace("-", "_"): 9 * (name == failing) for name in TOOLS}
        done = run(tmp_path, **codes)
        assert done.returncode == 1
        name = "ncu" if failing == "ncu" else "racecheck"
        assert f"{name}: exit status 9" in done.stdout

    def test_a_missing_tool_is_named(self, tmp_path):
        done = run(tmp_path, compute_sanitizer=0)
        assert done.returncode == 1
        assert "ncu: ncu is not installed" in done.stdout


def test_steps_to_profile_run():
    reason = dispatch.BACKENDS["emulated"].missing()
    if reason is not None:
        pytest.skip(reason)
    command = [sys.executable, "tools/cuda_steps.py", "--emulated"]
    done = subprocess.run(
        [*command, "--divide", "256"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for family in ("small", "resident", "a mixture per channel"):
        assert family in done.stdout
