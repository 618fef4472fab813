"""``python -m bench.compare OLD NEW``: what got slower beyond the noise of both runs.

Times are compared as multiples of eager BatchNorm's in the same rounds (EM: scikit-learn's), so
that a machine that is slower today slows both sides. Where a run has no such figure, and for
BatchNorm itself, plain times are compared; those of BatchNorm are told but are no regression.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from bench.record import Result, Row, load
from bench.report import table
from bench.stats import Summary

RESOLUTION = 0.03
"""Smallest relative spread believed: placement in memory differs from run to run."""


class Change(NamedTuple):
    """One row in both runs: the factor by which it got slower, and the noise around 1."""

    case: str
    implementation: str
    ours: bool
    old: float
    new: float
    unit: str
    noise: float

    @property
    def factor(self) -> float:
        return self.new / self.old

    @property
    def slower(self) -> bool:
        return self.factor > 1 + self.noise

    @property
    def faster(self) -> bool:
        return 1 / self.factor > 1 + self.noise


def changes(old: Result, new: Result) -> list[Change]:
    """Every row that both runs have a time for."""
    before = {row.key: row for row in old.rows if row.median is not None}
    return [
        _change(before[row.key], row)
        for row in new.rows
        if row.median is not None and row.key in before
    ]


def broken(old: Result, new: Result) -> list[str]:
    """Rows that were right and are wrong now."""
    right = {row.key for row in old.rows if row.median is not None}
    return [
        f"{row.case}, {row.implementation}: {row.note}" for row in new.failed() if row.key in right
    ]


def missing(old: Result, new: Result) -> list[str]:
    """Rows of ours with a time in ``old`` and none in ``new``."""
    present = {row.key for row in new.rows}
    return [
        f"{row.case}, {row.implementation}"
        for row in old.rows
        if row.ours and row.median is not None and row.key not in present
    ]


def _change(old: Row, new: Row) -> Change:
    sides = [_relative(row) for row in (old, new)]
    unit = "× bn" if old.phase != "em" else "× sklearn"
    anchored = old.implementation in ("bn", "sklearn", "copy")
    if anchored or any(side is None for side in sides):
        sides, unit = [_time(row) for row in (old, new)], "ms"
    a, b = (side for side in sides if side is not None)
    noise = max(a.spread, RESOLUTION) + max(b.spread, RESOLUTION)
    return Change(new.case, new.implementation, new.ours, a.median, b.median, unit, noise)


def _relative(row: Row) -> Summary | None:
    if row.relative is None or row.relative_low is None or row.relative_high is None:
        return None
    return Summary(row.relative, row.relative_low, row.relative_high, row.samples)


def _time(row: Row) -> Summary:
    if row.median is None or row.low is None or row.high is None:
        raise ValueError(f"{row.case}, {row.implementation}: has no time")
    return Summary(1e3 * row.median, 1e3 * row.low, 1e3 * row.high, row.samples)


def _lines(found: list[Change]) -> str:
    ordered = sorted(found, key=lambda c: -abs(c.factor - 1))
    return table(
        ("", "implementation", "old", "new", "", "change", "noise"),
        [
            (c.case, c.implementation, f"{c.old:.3g}", f"{c.new:.3g}", c.unit,
             f"{100 * (c.factor - 1):+.0f} %", f"± {100 * c.noise:.0f} %")
            for c in ordered
        ],
    )  # fmt: skip


def main(argv: list[str]) -> int:
    """Print the comparison. Returns 1 when something of ours got slower or wrong, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("old", type=Path, help="JSON of the earlier run")
    parser.add_argument("new", type=Path, help="JSON of the later run")
    a = parser.parse_args(argv)
    try:
        old, new = load(a.old), load(a.new)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for side in ("device", "threads"):
        if old.environment[side] != new.environment[side]:
            parser.error(
                f"{side} differs: {old.environment[side]!r} and {new.environment[side]!r}; times "
                "of different machines say nothing about the code"
            )
    print(f"old: commit {old.environment['commit']}, {old.environment['date']}")
    print(f"new: commit {new.environment['commit']}, {new.environment['date']}")
    compared = changes(old, new)
    if not compared:
        parser.error("the two runs have no row in common")
    slower = [c for c in compared if c.slower and c.ours]
    drifted = [c for c in compared if (c.slower or c.faster) and not c.ours]
    faster = [c for c in compared if c.faster and c.ours]
    for title, found in (("Slower", slower), ("Faster", faster)):
        if found:
            print(f"\n{title} beyond the noise\n{_lines(found)}")
    if drifted:
        print(f"\nBaselines that differ: the machine or a library changed\n{_lines(drifted)}")
    wrong, gone = broken(old, new), missing(old, new)
    for title, names in (("Wrong now", wrong), ("Not in the new run", gone)):
        if names:
            print(f"\n{title}\n" + "\n".join(f"  {name}" for name in names))
    ours = sum(c.ours for c in compared)
    print(f"\n{ours} rows of ours compared: {len(slower)} slower, {len(faster)} faster,"
          f" {len(wrong)} wrong, {len(gone)} missing")  # fmt: skip
    return 1 if slower or wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
