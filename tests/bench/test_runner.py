"""Runs on small cases: what is measured, refused, left out, and held to a budget."""

import time

import pytest
import torch

from bench import runner as runner_module
from bench import timing
from bench.baselines import BatchNorm, Copy
from bench.budget import Budget
from bench.cases import Case, Shape
from bench.ours import MixtureNorm
from bench.report import text
from bench.runner import Runner
from tests.bench.runs import CPU, measure


def test_rows_have_every_figure(case):
    result = measure([case], Copy(), BatchNorm(), MixtureNorm("reference"))
    copy, bn, ours = result.rows
    assert [r.implementation for r in result.rows] == ["copy", "bn", "reference"]
    assert result.left_out == []
    assert ours.check == "ok"
    assert bn.check == ""
    assert bn.ratio == pytest.approx(1)
    assert ours.ratio > 0
    assert copy.ratio is None
    assert copy.percent_of_copy == pytest.approx(100)
    for row in result.rows:
        assert 0 < row.low <= row.median <= row.high
        assert row.samples >= runner_module.MIN_ROUNDS
    moved = 8 * 4 * 16 * 30 * 4
    assert ours.gbps == pytest.approx(moved / ours.median / 1e9)
    assert ours.percent_of_copy == pytest.approx(100 * ours.gbps / (copy.gbps), rel=1e-6)
    assert ours.saved_bytes >= case.bytes
    assert bn.saved_bytes >= case.bytes


def test_the_ratio_is_paired_by_round(case, monkeypatch):
    """Rounds that only one of the two took do not count, however long they were."""
    times = {"bn": {0: 2.0, 1: 9.0, 2: 1.0}, "reference": {0: 1.0, 1: 3.0, 2: 1.0, 3: 70.0}}
    monkeypatch.setattr(timing, "interleave", lambda *args: times)
    result = measure([case], BatchNorm(), MixtureNorm("reference"))
    assert [r.ratio for r in result.rows] == [1.0, 0.5]
    assert [r.median for r in result.rows] == [2.0, 2.0]


def test_a_wrong_kernel_is_refused(cpu_backend, case):
    cpu_backend(output=lambda y: y * 1.001)
    result = measure([case], BatchNorm(), MixtureNorm("cpu"))
    row = next(r for r in result.rows if r.implementation == "cpu")
    assert row.check == "red"
    assert row.median is None
    assert row.ratio is None
    assert result.failed() == [row]
    line = next(line for line in text(result).splitlines() if line.startswith("  cpu"))
    assert "refused" in line
    assert "RED" in line
    assert not any(unit in line for unit in (" ms", " µs", " s "))


def test_a_kernel_that_raises_is_refused_and_the_others_measured(cpu_backend, case):
    def broken(y):
        raise RuntimeError("illegal memory access")

    cpu_backend(output=broken)
    result = measure([case], BatchNorm(), MixtureNorm("cpu"))
    row = next(r for r in result.rows if r.implementation == "cpu")
    assert row.check == "red"
    assert "illegal memory access" in row.note
    assert next(r for r in result.rows if r.implementation == "bn").median is not None


def test_out_of_memory_is_left_out_with_its_reason(cpu_backend, case):
    def too_large(y):
        raise torch.OutOfMemoryError("tried to allocate 1 TiB")

    cpu_backend(output=too_large)
    result = measure([case], BatchNorm(), MixtureNorm("cpu"))
    assert [r.implementation for r in result.rows] == ["bn"]
    assert result.failed() == []
    assert "tried to allocate 1 TiB" in result.left_out[0]["reason"]


def test_an_unavailable_backend_is_left_out_with_its_reason(case):
    result = measure([case], BatchNorm(), MixtureNorm("triton"))
    assert [r.implementation for r in result.rows] == ["bn"]
    (item,) = result.left_out
    assert item["implementation"] == "triton"
    assert item["reason"] == MixtureNorm("triton").why_not(case, torch.empty(4, 16, 6, 5))
    assert f"triton: {item['reason']}" in text(result)


def test_a_baseline_that_raises_is_left_out(case, monkeypatch):
    monkeypatch.setattr(BatchNorm, "layer", lambda *args: 1 / 0)
    result = measure([case], Copy(), BatchNorm())
    assert "ZeroDivisionError" in result.left_out[0]["reason"]
    assert result.failed() == []


def test_the_budget_holds_and_says_what_fell(cpu_backend, case):
    cpu_backend(output=lambda y: time.sleep(0.3) or y)
    plan = [Case(Shape(f"s{i}", (4, 16, 6, 5), "a test")) for i in range(20)]
    start = time.monotonic()
    result = measure(plan, BatchNorm(), MixtureNorm("cpu"), seconds=1.0)
    assert time.monotonic() - start < 6  # all twenty: a minute
    fell = {item["case"] for item in result.left_out}
    measured = {r.case for r in result.rows}
    assert plan[-1].id in fell
    assert fell | measured == {c.id for c in plan}
    assert all("budget of 1 s" in item["reason"] for item in result.left_out)


class Compiling(BatchNorm):
    """A baseline whose compilation takes ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(compile_it=True)
        self._seconds = seconds

    def why_not(self, case, x):
        return None

    def layer(self, case, inputs):
        time.sleep(self._seconds)
        return BatchNorm().layer(case, inputs)


def test_compiling_is_rationed(case):
    """40 % of 10 s admit two compilations of 1.6 s, with room for a busy machine."""
    plan = [case, case.vary(layout="channels_last"), case.vary(phase="forward")]
    result = measure(plan, BatchNorm(), Compiling(1.6), seconds=10.0)
    assert [r.case for r in result.rows if r.implementation == "bn-compiled"] == [
        c.id for c in plan[:2]
    ]
    (item,) = result.left_out
    assert (item["case"], item["implementation"]) == (plan[2].id, "bn-compiled")
    assert "torch.compile's share" in item["reason"]


def test_a_compilation_longer_than_its_share_is_interrupted(case):
    start = time.monotonic()
    result = measure([case], BatchNorm(), Compiling(10), seconds=2.0)
    assert time.monotonic() - start < 6
    assert [r.implementation for r in result.rows] == ["bn"]
    assert "torch.compile's share" in result.left_out[0]["reason"]


def test_a_plan_too_long_for_its_budget_comes_back_to_its_first_cases(cpu_backend):
    """A second visit, a whole plan later, is what makes the stated spread honest."""
    cpu_backend(seconds=0.01)
    plan = [Case(Shape(f"s{i}", (4, 16, 6, 5), "a test")) for i in range(90)]
    runner = Runner(
        plan, [BatchNorm(), MixtureNorm("cpu")], CPU, Budget(4.0, time.monotonic()),
        seconds_per_visit=0.01,
    )  # fmt: skip
    order = []
    runner.run(lambda case: order.append(plan.index(case)))
    assert order[: order.index(0, 1)] == list(range(order.index(0, 1)))
    visits = {
        round_ // runner_module.ROUND_STRIDE
        for entry in runner._entries[plan[0]]
        for round_ in entry.times
    }
    assert visits >= {0, 1}
