"""``python -m bench.predictions``: what the CUDA kernels' plans and counts predict for an H200.

Writes ``compiled/plans.json``: the launches that the image cases would get there, fp32, K = 3,
G = 1. Needs the emulated kernels (``make emulation``), whose plan is the kernels' own. The tables
that `bench.readme` makes of it, together with the counts of compiled code, are bounds: launches,
barriers, partial waves and latencies that do not overlap come on top.
"""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.cases import LAYOUTS, SHAPES, Shape
from bench.compiled_code import (
    H200_BYTES_PER_S,
    H200_CACHE,
    H200_LANES_PER_S,
    H200_MULTIPROCESSORS,
    H200_SHARED_MEMORY,
    PASSES,
)
from bench.report import number, table
from mixnorm_cuda.kernels.native import loader, ops

PLANS = Path(__file__).resolve().parent / "compiled" / "plans.json"
COMPONENTS = 3
DIRECTIONS = {"forward": ("moments", "normalize"), "backward": ("output_sums", "input_gradient")}
"""The sweeps of each: the second reads again what the first has read."""
COUNTED = {"4 positions": "contiguous", "4 channels": "channels_last", "1 element": "odd rows"}
"""What a thread takes at once, and the layout under which its instructions are counted."""
BATCH_NORM_PASSES = {"forward": 3, "backward": 5}


class Bound(NamedTuple):
    """Of one direction of a case, in seconds; ``cached`` where a second sweep reads the cache."""

    memory: float
    cached: float
    em_step: float
    """Of one EM step, from memory."""


def find_plans() -> list[dict[str, str]]:
    """The launches of the image cases within the limits of an H200."""
    loader.require("emulated")
    emulated = torch.ops.mixnorm_emulated
    emulated.emulate(H200_MULTIPROCESSORS, H200_SHARED_MEMORY, True, True)
    try:
        return [
            {
                "shape": shape.name,
                "layout": layout,
                **{direction: _planned(shape, layout, direction) for direction in DIRECTIONS},
            }
            for shape in SHAPES
            if shape.kind == "image"
            for layout in LAYOUTS
        ]
    finally:
        emulated.emulate(0, 0, True, True)


def _planned(shape: Shape, layout: str, direction: str) -> str:
    return ops.cuda_plan(
        torch.empty(1).expand(shape.size),
        COMPONENTS,
        1,
        channels_last=layout == "channels_last",
        backward=direction == "backward",
        emulated=True,
    )


class Plan(NamedTuple):
    """What a prediction takes from a plan's line."""

    kernels: str
    access: str
    blocks: int
    positions: int
    """Of a tile."""
    tiles: int
    """Of a block, at most."""
    kept: int
    """Of them, on chip."""


def read(line: str) -> Plan:
    """
    Raises:
        ValueError: the line is no plan.
    """
    found = re.match(
        r"(\w+), (?:.*, )?(\d \w+) at once, (\d+) blocks.*, tiles of (\d+) positions, "
        r"(\d+) a block \((\d+) kept on chip\)",
        line,
    )
    if found is None:
        raise ValueError(f"line is {line!r}, expected what cuda_plan says")
    kernels, access, *numbers = found.groups()
    return Plan(kernels, access, *map(int, numbers))


def bound(shape: Shape, direction: str, plan: Plan, counts: dict[str, Any]) -> Bound:
    """The sum of each sweep's larger bound: bytes over the bandwidth, instructions over the issue
    rate of the multiprocessors that have as much to do as the busiest. A second sweep has fewer of
    both for the tiles that were kept.

    ``counts``: layout -> kernel -> instructions an element.
    """
    size, share = 4, shape.elements / H200_LANES_PER_S
    waves = -(-plan.blocks // H200_MULTIPROCESSORS)
    busiest = waves * plan.tiles * plan.positions * shape.channels
    imbalance = max(1.0, H200_MULTIPROCESSORS * busiest / shape.elements)
    kept = plan.kept / plan.tiles
    first, second = DIRECTIONS[direction]
    instructions: dict[str, float] = counts[COUNTED[plan.access]]

    def sweep(passes: float, issued: float) -> float:
        memory = passes * shape.elements * size / H200_BYTES_PER_S
        return max(memory, issued * share * imbalance)

    def again(kernel: str, cached: bool = False) -> float:
        """A sweep of this kernel over what another has swept before."""
        fewer = f"{kernel}, kept"
        least = PASSES[fewer]
        passes = least if cached else kept * least + (1 - kept) * PASSES[kernel]
        return sweep(passes, kept * instructions[fewer] + (1 - kept) * instructions[kernel])

    once = sweep(PASSES[first], instructions[first])
    return Bound(once + again(second), once + again(second, cached=True), again("moments"))


def predictions_section(folder: Path) -> str:
    """The image cases beside BatchNorm's bytes, and what is asked for beside what is predicted."""
    plans = json.loads((folder / "plans.json").read_text())
    counts: dict[str, Any] = {}
    for row in json.loads((folder / "cuda.json").read_text())["rows"]:
        if row["dtype"] == "float32":
            counts.setdefault(row["layout"], {})[row["kernel"]] = row["instructions"]
    shapes = {shape.name: shape for shape in SHAPES}
    lines, ratios, cached_ratios, on_chip, em_ratios = [], [], [], [], []
    for case in plans:
        shape = shapes[case["shape"]]
        size = 4 * shape.elements
        cached = 2 * size <= H200_CACHE  # x and dy
        chosen = {name: read(case[name]) for name in DIRECTIONS}
        bounds = {name: bound(shape, name, chosen[name], counts) for name in DIRECTIONS}
        ours = sum(b.memory for b in bounds.values())
        theirs = sum(BATCH_NORM_PASSES.values()) * size / H200_BYTES_PER_S
        ratio = ours / theirs
        best = ratio
        if cached:
            best = sum(b.cached for b in bounds.values()) / (5 * size / H200_BYTES_PER_S)
        ratios.append(ratio)
        cached_ratios.append(best)
        if 4e6 <= size <= 26e6:
            copies = [
                passes * size / H200_BYTES_PER_S / bounds[name].memory
                for name, passes in (("forward", 2), ("backward", 3))
            ]
            on_chip.append(copies)
            em_ratios.append((ours + 2 * bounds["forward"].em_step) / ours)
        if case["layout"] == "contiguous":
            lines.append(
                (shape.name, number(size / 1e6, 1), *map(_said, chosen.values()),
                 number(ours * 1e6, 1), number(theirs * 1e6, 1), number(ratio, 2),
                 number(best, 2) if cached else "-", "not measured")
            )  # fmt: skip
    forward, backward = (_mean([copies[i] for copies in on_chip]) for i in range(2))
    asked = [
        ("training, geometric mean over the image cases, × BN", "0.90",
         f"{_mean(ratios):.2f}; {_mean(cached_ratios):.2f} beside a BN whose second sweep is "
         "cached"),
        ("4 to 26 MB, % of copy counting 2B and 3B", "80",
         f"{100 * forward:.0f} forward, {100 * backward:.0f} backward"),
        ("there two EM steps, × none", "1.15", f"{_mean(em_ratios):.2f}"),
        ("above 100 MB, streaming, % of copy", "90", _streaming(counts)),
        ("latency cases under CUDA graphs, × BN", "1.20", "not by counts; one launch each way"),
    ]  # fmt: skip
    columns = ("case", "MB", "forward", "backward", "bound, µs", "BN's, µs", "× BN",
               "× BN, cached", "on a GPU")  # fmt: skip
    return "\n\n".join([
        table(columns, lines, markdown=True),
        "What is asked for on an H200 at K = 3 in fp32, in both layouts:",
        table(
            ("", "asked for", "predicted", "measured"),
            [(*line, "not measured") for line in asked],
            markdown=True,
        ),
    ])  # fmt: skip


def _said(plan: Plan) -> str:
    kept = round(100 * plan.kept / plan.tiles)
    single = ", single elements" if plan.access == "1 element" else ""
    return f"{plan.kernels}{f', {kept} % kept' if kept else ''}{single}"


def _mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _streaming(counts: dict[str, Any]) -> str:
    """Of the bytes' time in each direction, by the counts of both layouts."""
    said = []
    for direction, kernels in DIRECTIONS.items():
        shares = []
        for layout in LAYOUTS:
            bytes_of = {k: 4 * PASSES[k] / H200_BYTES_PER_S for k in kernels}
            spent = sum(max(bytes_of[k], counts[layout][k] / H200_LANES_PER_S) for k in kernels)
            shares.append(sum(bytes_of.values()) / spent)
        said.append(f"{100 * min(shares):.0f} {direction}")
    return ", ".join(said)


def main() -> int:
    plans = find_plans()
    PLANS.write_text(json.dumps(plans, indent=1) + "\n")
    print(f"{PLANS.name}: {len(plans)} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
