"""What "auto" tries first on a GPU, from measurements."""

import copy
import dataclasses
import json

import pytest
import torch

from bench import preference as bench_preference
from bench.cases import Case, Shape
from bench.record import Result, Row, row_for
from mixnorm_cuda import dispatch
from mixnorm_cuda.kernels import preference
from tests.bench.runs import ENVIRONMENT

SMALL = Case(Shape("small", (4, 16, 6, 5), "a test"))
LARGE = Case(Shape("large", (64, 64, 56, 56), "a test"))


def rows(case: Case, triton: float, cuda: float, check: str = "ok") -> list[Row]:
    return [
        dataclasses.replace(row_for(case, name, ours=True), check=check, median=seconds)
        for name, seconds in (("triton", triton), ("cuda", cuda))
    ]


def result(date: str, *found: list[Row], capability: str = "sm_90", **settings) -> Result:
    environment = copy.deepcopy(ENVIRONMENT)
    environment |= {"device_type": "cuda", "capability": capability, "date": date}
    return Result(environment, settings, [row for case in found for row in case])


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs what results say, as if on a GPU of a compute capability."""

    def install(*results: Result, capability: int = 9) -> dict:
        path = tmp_path / "measured.json"
        content = bench_preference.find(list(results))
        path.write_text(json.dumps(content))
        monkeypatch.setattr(preference, "FASTER", preference.read(path))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
        return content

    return install


def test_class_of_shape_gets_the_faster_backend(installed):
    content = installed(result("2000-01-01", rows(SMALL, 3.0, 1.0), rows(LARGE, 1.0, 2.0)))
    small, large = torch.empty(SMALL.shape.size), torch.empty(LARGE.shape.size, device="meta")
    assert preference.preferred(small, 3, 1) == ("cuda", "triton")
    assert preference.preferred(large, 3, 1) == ("triton", "cuda")
    found = content["devices"][0]["classes"]
    assert found["small, float, few components, joint"] == {
        "faster": "cuda", "times": 3.0, "cases": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("x", "components", "groups"),
    [
        (torch.empty(4, 16, 6, 5).half(), 3, 1),
        (torch.empty(4, 16, 6, 5), 8, 1),
        (torch.empty(4, 16, 6, 5), 3, 16),
        (torch.empty(400, 160, 6, 5), 3, 1),
    ],
    ids=["half", "many components", "per channel", "larger"],
)
def test_class_that_was_not_measured_takes_triton_first(installed, x, components, groups):
    installed(result("2000-01-01", rows(SMALL, 3.0, 1.0)))
    assert preference.preferred(x, components, groups) == ("triton", "cuda")


def test_another_capability_takes_triton_first(installed):
    installed(result("2000-01-01", rows(SMALL, 3.0, 1.0)), capability=8)
    assert preference.preferred(torch.empty(SMALL.shape.size), 3, 1) == ("triton", "cuda")


def test_geometric_mean_of_a_class_decides(installed):
    other = Case(Shape("other", (4, 16, 5, 5), "a test"))
    content = installed(result("2000-01-01", rows(SMALL, 1.0, 4.0), rows(other, 3.0, 1.0)))
    (found,) = content["devices"][0]["classes"].values()
    assert found["faster"] == "triton"
    assert found["cases"] == 2
    assert found["times"] == pytest.approx((4 / 3) ** 0.5, abs=1e-3)


def test_newest_full_result_counts_and_wrong_rows_do_not(installed):
    x = torch.empty(SMALL.shape.size)
    old, new = rows(SMALL, 3.0, 1.0), rows(SMALL, 1.0, 3.0)
    installed(result("2000-01-02", new), result("2000-01-01", old))
    assert preference.preferred(x, 3, 1) == ("triton", "cuda")
    installed(result("2000-01-01", old), result("2000-01-02", new, quick=True))
    assert preference.preferred(x, 3, 1) == ("cuda", "triton")
    installed(result("2000-01-01", rows(SMALL, 3.0, 1.0, check="red")))
    assert preference.preferred(x, 3, 1) == ("triton", "cuda")


def test_results_of_a_cpu_do_not_count():
    cpu = result("2000-01-01", rows(SMALL, 3.0, 1.0))
    cpu.environment["device_type"] = "cpu"
    assert bench_preference.find([cpu]) == {"devices": []}


def test_committed_file_is_what_the_committed_results_say():
    paths = sorted(bench_preference.RESULTS.glob("cuda-*.json"))
    content = bench_preference.find([bench_preference.load(path) for path in paths])
    assert json.loads(preference.MEASURED.read_text()) == content


def test_auto_asks(installed, monkeypatch):
    """`select` tries the backends in the order that was found."""
    installed(result("2000-01-01", rows(SMALL, 3.0, 1.0)))
    asked = []
    monkeypatch.setattr(dispatch, "why_not", lambda name, *_: asked.append(name) or "not here")

    class OnGpu:
        device = torch.device("cuda:0")
        shape = SMALL.shape.size

        def numel(self):
            return 4 * 16 * 6 * 5

        def element_size(self):
            return 4

    monkeypatch.setattr(dispatch, "_warn_once", lambda message: None)
    assert dispatch.select("auto", OnGpu(), 3, 1) is dispatch.REFERENCE
    assert asked == ["cuda", "triton"]
