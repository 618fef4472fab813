"""tools/check_triton.py fails on a spill, and on nothing else that lies on the stack."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

TOOL = Path(__file__).parents[2] / "tools/check_triton.py"


@pytest.mark.parametrize(("stack", "spills"), [(0, 0), (8, 0), (8, 2)])
def test_a_spill_is_an_error_a_frame_is_not(stack, spills, capsys) -> None:
    spec = importlib.util.spec_from_file_location("check_triton", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    kernel = SimpleNamespace(
        name="moments", tile="64x64", grid=(1, 2), warps=4, registers=64, stack=stack,
        spills=spills, shared=0,
    )  # fmt: skip
    assert tool.report("a layer", 90, [kernel]) == (spills > 0)
    assert ("SPILL" in capsys.readouterr().out) == (spills > 0)
