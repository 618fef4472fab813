"""From seconds per round to the figures of a row, and from rows to geometric means."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from bench.cases import Case
from bench.record import Row
from bench.stats import paired_ratios, summarize
from bench.traffic import bytes_moved, copy_bytes

BATCH_NORMS = ("bn", "bn-compiled")

Times = Mapping[str, Mapping[int, float]]
"""Implementation -> round -> seconds per step, for one case."""


def fill(row: Row, case: Case, times: Times) -> None:
    """Write median, spread, ratios and bandwidth of ``row``'s implementation into it."""
    own = times[row.implementation]
    summary = summarize(list(own.values()))
    row.median, row.low, row.high, row.samples = summary
    anchor = "sklearn" if case.phase == "em" else "bn"
    if row.implementation != "copy":
        relative = _relative(own, times.get(anchor, {}))
        if relative is not None:
            row.relative, row.relative_low, row.relative_high = relative
            candidates = ("sklearn",) if case.phase == "em" else BATCH_NORMS
            fastest = [_relative(times[n], times[anchor]) for n in candidates if n in times]
            row.ratio = relative[0] / min(r[0] for r in fastest if r is not None)
    moved = copy_bytes(case) if row.implementation == "copy" else bytes_moved(case)
    if case.shape.kind != "latency":
        row.gbps = moved / summary.median / 1e9
    if "copy" in times:
        copy = copy_bytes(case) / summarize(list(times["copy"].values())).median
        row.percent_of_copy = 100 * moved / summary.median / copy


def _relative(
    own: Mapping[int, float], anchor: Mapping[int, float]
) -> tuple[float, float, float] | None:
    ratios = paired_ratios(dict(own), dict(anchor))
    return summarize(ratios)[:3] if ratios else None


class Mean(NamedTuple):
    """Geometric mean of the ratios to the fastest BatchNorm over image cases, and the worst."""

    implementation: str
    phase: str
    dtype: str
    layout: str
    cases: int
    ratio: float
    worst: float
    worst_shape: str


def geometric_means(rows: list[Row]) -> list[Mean]:
    """Per implementation, phase, dtype and layout (and over both), at K = 3, G = 1, no EM steps."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        base = (row.num_components, row.groups, row.em_iters) == (3, 1, 0)
        if row.ours and row.kind == "image" and base and row.phase != "em" and row.ratio:
            for layout in (row.layout, "both"):
                key = (row.implementation, row.phase, row.dtype, layout)
                groups.setdefault(key, []).append(row)
    means = []
    for key, members in groups.items():
        ratios = [row.ratio for row in members if row.ratio]
        worst = max(members, key=lambda row: row.ratio or 0)
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        means.append(Mean(*key, len(ratios), mean, max(ratios), worst.shape))
    return means
