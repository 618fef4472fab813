"""``python -m bench``: measure, print the table, write JSON, CSV and plots."""

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import STARTED, environment, plots, report, timing
from bench.baselines import baselines
from bench.budget import Budget
from bench.cases import Case, fits, full_plan, quick_plan
from bench.layers import Implementation
from bench.ours import BACKENDS, ours
from bench.progress import progress
from bench.record import Result, save
from bench.runner import VISITS, Runner
from bench.traffic import peak_copy_bandwidth
from mixnorm_cuda import dispatch

QUICK_SECONDS = 72.0
"""Leaves time for the tables and plots within 90 s, on a busy machine too."""

FULL_SECONDS = {"cuda": 500.0, "cpu": 1500.0}
"""Nine minutes with imports and plots on a GPU; a CPU takes longer for the same plan."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    p.add_argument("--quick", action="store_true", help="a cut through the grid in 90 seconds")
    p.add_argument("--cases", help="shapes by name or pattern, comma-separated: 'resnet50*,tiny*'")
    p.add_argument("--filter", help="pattern on 'shape setting', such as '*train fp32*K=3'")
    p.add_argument("--backend", help=f"only these of ours, comma-separated: {','.join(BACKENDS)}")
    p.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    p.add_argument("--budget", type=float, help="seconds for measuring, imports included")
    p.add_argument(
        "--out", type=Path, default=Path("out/bench"), help="folder (default: %(default)s)"
    )
    p.add_argument("--commit", help="commit to record where there is no git checkout")
    p.add_argument("--list", action="store_true", help="print the cases and leave")
    return p


def chosen(plan: list[Case], cases: str | None, pattern: str | None) -> list[Case]:
    """The cases of ``plan`` that both patterns admit."""
    names = [name.strip() for name in cases.split(",")] if cases else ["*"]
    return [
        case
        for case in plan
        if any(fnmatch.fnmatch(case.shape.name, name) for name in names)
        and fnmatch.fnmatch(case.id, pattern or "*")
    ]


def main(argv: list[str]) -> int:
    """Run the benchmark. Returns 1 if a check was red, 2 for arguments that choose nothing."""
    p = parser()
    a = p.parse_args(argv)
    device = torch.device(a.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        p.error("--device cuda: torch finds no CUDA device here")
    backends = tuple(a.backend.split(",")) if a.backend else BACKENDS
    unknown = sorted(set(backends) - set(BACKENDS))
    if unknown:
        p.error(f"--backend {','.join(unknown)}: expected some of {', '.join(BACKENDS)}")
    if a.budget is not None and not a.budget > 0:
        p.error(f"--budget {a.budget}: expected a number of seconds above 0")
    plan = chosen(quick_plan() if a.quick else full_plan(), a.cases, a.filter)
    if not plan:
        p.error(f"--cases {a.cases} --filter {a.filter}: no case of the plan matches; see --list")
    if a.list:
        print(listing(plan, device))
        return 0

    if device.type == "cpu":
        timing.keep_freed_memory()
    implementations: list[Implementation] = [*baselines(), *ours(backends)]
    budget = Budget(a.budget or (QUICK_SECONDS if a.quick else FULL_SECONDS[device.type]), STARTED)
    result = Result(
        environment.describe(device, a.commit),
        {"quick": a.quick, "cases": a.cases, "filter": a.filter, "backend": a.backend,
         "budget_s": budget.seconds},
    )  # fmt: skip
    too_large = [] if a.cases else [case for case in plan if not fits(case, device.type)]
    result.left_out = [
        {"case": c.id, "implementation": "*", "reason": "too large for a CPU run; --cases names it"}
        for c in too_large
    ]
    plan = [case for case in plan if case not in set(too_large)]
    bandwidth = peak_copy_bandwidth(timing.timer_for(device, latency=False), device)
    result.peak_copy_gbps = bandwidth / 1e9
    runner = Runner(
        plan, implementations, device, budget, quick=a.quick,
        seconds_per_visit=0.4 if a.quick else 1.0,
        heavy_everywhere=a.backend is not None or not (a.quick or any_fused(backends, device)),
    )  # fmt: skip
    status = 0
    with progress(VISITS * len(plan)) as begin:
        try:
            runner.run(lambda case: begin(case.id))
        except KeyboardInterrupt:
            status = 130
    result.rows = runner.rows()
    result.left_out += runner.left_out
    print(report.text(result))
    path = save(result, a.out)
    drawn = plots.draw(result, a.out)
    print(f"\nWritten: {path}, .csv" + "".join(f", {name.name}" for name in drawn))
    return status or (1 if result.failed() else 0)


def any_fused(backends: Sequence[str], device: torch.device) -> bool:
    """Whether a backend other than the reference is usable; if not, the reference is the news."""
    x = torch.empty(2, 3, 4, 4, device=device)
    return any(dispatch.why_not(b, x, 3, 1) is None for b in backends if b != "reference")


def listing(plan: list[Case], device: torch.device) -> str:
    """The cases with the origin of their shapes."""
    lines = []
    for case in plan:
        size = " × ".join(map(str, case.shape.size))
        where = "" if fits(case, device.type) else "  (GPU; --cases names it on a CPU)"
        lines.append((case.shape.name, size, case.setting, case.shape.origin + where))
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, [*widths, 0], strict=True)).rstrip()
        for line in lines
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
