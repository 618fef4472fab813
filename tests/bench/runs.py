"""Results to test with: measured on small cases, or simulated."""

import copy
import random
import time

import torch

from bench.budget import Budget
from bench.cases import Case, Shape
from bench.metrics import fill
from bench.record import Result, row_for
from bench.runner import Runner

CPU = torch.device("cpu")
ENVIRONMENT = {
    "device": "test", "device_type": "cpu", "capability": "", "threads": 1, "commit": "abc",
    "date": "2000-01-01T00:00:00+00:00", "versions": {}, "load_at_start": 0.0,
}  # fmt: skip


def measure(plan, *implementations, seconds=30.0, visit_seconds=0.02) -> Result:
    runner = Runner(
        plan, implementations, CPU, Budget(seconds, time.monotonic()),
        seconds_per_visit=visit_seconds, heavy_everywhere=True,
    )  # fmt: skip
    runner.run()
    return Result(dict(ENVIRONMENT), {}, runner.rows(), runner.left_out)


CASES = [Case(Shape(f"s{i}", (4, 16, 6, 5), "a test")) for i in range(40)]


def simulated(seed: int, factor: float = 1.0, machine: float = 1.0, noise: float = 0.05) -> Result:
    """A run with lognormal noise; ``factor`` slows our kernel on the first case."""
    draw = random.Random(seed)
    rows = []
    for case in CASES:
        slow = factor if case is CASES[0] else 1.0
        times = {
            name: {i: machine * cost * draw.lognormvariate(0, noise) for i in range(12)}
            for name, cost in (("copy", 1e-4), ("bn", 1e-3), ("cpu", 2e-3 * slow))
        }
        for name in times:
            row = row_for(case, name, ours=name == "cpu")
            row.check = "ok" if row.ours else ""
            fill(row, case, times)
            rows.append(row)
    return Result(copy.deepcopy(ENVIRONMENT), {}, rows)
