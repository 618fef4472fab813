"""Runs the tests of the Triton kernels in a process whose Triton interprets them on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixnorm_cuda.kernels.triton import availability

FOLDER = Path(__file__).parent / "triton"

WHY_NOT = availability._missing(True)
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


# Two processes of about the same length.
LONGEST = "test_kernels.py"
OTHERS = sorted(path.name for path in FOLDER.glob("test_*.py") if path.name != LONGEST)


@pytest.mark.parametrize("files", [(LONGEST,), OTHERS], ids=["kernels", "others"])
def test_interpreted(files: tuple[str, ...]) -> None:
    paths = [FOLDER / file for file in files]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *paths],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(result.stdout[-2000:])
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
