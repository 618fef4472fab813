"""tools/tune_triton.py, with a stand-in for the timer."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from mixnorm_cuda.kernels.triton import autotune, config

TOOL = Path(__file__).parents[3] / "tools/tune_triton.py"


@pytest.fixture
def tool(monkeypatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tune_triton", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PRODUCTS", (((2, 32, 2, 2), 3, "float32"),))
    monkeypatch.setattr(module, "LAYERS", (((2, 2, 2, 1), 1, "bfloat16"),))
    monkeypatch.setattr(autotune, "CANDIDATES", {"resident_threads": (256,)})

    def milliseconds(call):
        """Of products, `tl.dot` is faster; of the rest, fewer threads in the evaluation."""
        call()
        fewer = config.budget_of("evaluate").resident_threads == 256
        return 5.0 - (config.budget_of("moments").dot_components == 1) - fewer

    monkeypatch.setattr(autotune, "milliseconds", milliseconds)
    return module


def test_times_products_and_operators(tool, tmp_path, device):
    out = tmp_path / "new" / "tuning.json"
    assert tool.main(["--out", str(out), "--device", device, "--seconds", "600"]) == 0
    found = json.loads(out.read_text())
    sizes = {"dtype": "float32", "channels": 32, "num_components": 3}
    assert found["products"] == [{**sizes, "multiply-adds": 5.0, "tl.dot": 4.0}]
    changed = {row["operator"]: row["changed"] for row in found["tuned"]}
    assert changed == {
        "forward": {}, "backward": {}, "evaluate": {"evaluate.resident_threads": 256}
    }  # fmt: skip
    assert {row["table_ms"] - row["fastest_ms"] for row in found["tuned"]} == {0.0, 1.0}


def test_when_time_is_up_what_there_is_stays(tool, tmp_path, device):
    out = tmp_path / "tuning.json"
    tool.main(["--out", str(out), "--device", device, "--seconds", "0"])
    found = json.loads(out.read_text())
    assert len(found["products"]) == 1
    assert found["tuned"] == []
