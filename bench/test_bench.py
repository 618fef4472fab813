"""pytest-benchmark over the same cases, implementations, checks and byte counts.

``pytest bench/ --benchmark-autosave`` records a run, ``--benchmark-compare`` holds the next one
against it; ``extra_info`` has GB/s and percent of a copy of the same tensor.
"""

from functools import partial
from itertools import product

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.__main__ import chosen
from bench.baselines import BatchNorm, Copy, Sklearn
from bench.cases import Case, fits, full_plan, quick_plan, shows_heavy
from bench.check import check, expected
from bench.inputs import make_inputs
from bench.layers import Implementation, run_step
from bench.ours import ours
from bench.runner import trainable_input
from bench.stats import summarize
from bench.timing import timer_for
from bench.traffic import bytes_moved, copy_bytes

COPY_ROUNDS = 5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = metafunc.config.getoption
    device = option("bench_device") or ("cuda" if torch.cuda.is_available() else "cpu")
    named = option("--cases")
    plan = chosen(full_plan() if named else quick_plan(), named, option("--filter"))
    plan = [case for case in plan if named or fits(case, device)]
    implementations: list[Implementation] = [BatchNorm(), Sklearn(), *ours()]
    pairs = [
        (case, implementation)
        for case, implementation in product(plan, implementations)
        if implementation.serves(case.phase) and not implementation.compiled
        if not implementation.heavy or named or shows_heavy(case, quick=True)
    ]
    metafunc.parametrize("device", [device])
    metafunc.parametrize(
        ("case", "implementation"),
        [
            pytest.param(*pair, id=f"{pair[0].id}-{pair[1].name}".replace(" ", "-"))
            for pair in pairs
        ],
    )


def test_step(
    benchmark: BenchmarkFixture, case: Case, implementation: Implementation, device: str
) -> None:
    """One step of the case, after its check; skipped with the reason where it cannot run."""
    inputs = make_inputs(case, torch.device(device))
    reason = implementation.why_not(case, inputs.x)
    if reason is not None:
        pytest.skip(f"{implementation.name}: {reason}")
    layer = implementation.layer(case, inputs)
    if implementation.ours:
        result = check(case, layer, inputs, expected(case, inputs))
        assert result.passed, f"no speed for a wrong result: {result}"

    timer = timer_for(inputs.x.device, case.shape.kind == "latency")
    step = partial(run_step, case, layer, trainable_input(case, inputs.x), inputs.dy)
    copy_layer = Copy().layer(case, inputs)
    copy = timer.prepare([lambda: copy_layer.forward(inputs.x)])
    bandwidth = copy_bytes(case) / summarize([copy() for _ in range(COPY_ROUNDS)]).median
    benchmark.group = case.id

    def synchronized() -> None:
        step()
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark(synchronized)
    if benchmark.stats is None:  # --benchmark-disable
        return
    rate = bytes_moved(case) / benchmark.stats.stats.median
    benchmark.extra_info |= {
        "gbps": round(rate / 1e9, 3),
        "percent_of_copy": round(100 * rate / bandwidth, 1),
        "bytes": bytes_moved(case),
        "device": device,
    }
