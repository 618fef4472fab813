"""From runs to the table: accuracy along the way, and steps to the baseline's best accuracy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from examples.training import Run

QUARTERS = (0.25, 0.5, 0.75, 1.0)


# Student's t, the 97.5 % point, for 1 to 30 degrees of freedom; beyond, the normal's is within 4 %.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; the latter is NaN for one value, both for none."""

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(
            statistics.fmean(values) if values else math.nan,
            statistics.stdev(values) if len(values) > 1 else math.nan,
            len(values),
        )

    def text(self, digits: int = 1, sign: str = "") -> str:
        if not self.count:
            return "–"
        std = "" if math.isnan(self.std) else f" ± {self.std:.{digits}f}"
        return f"{self.mean:{sign}.{digits}f}{std}"

    def half_interval(self) -> float:
        """Half the 95 % confidence interval of the mean (Student's t); NaN below two values."""
        if self.count < 2:
            return math.nan
        t = _T[self.count - 2] if self.count - 2 < len(_T) else 1.96
        return t * self.std / math.sqrt(self.count)

    def interval_text(self, digits: int = 1, sign: str = "") -> str:
        return Spread(self.mean, self.half_interval(), self.count).text(digits, sign)


def accuracy_at(run: Run, fraction: float) -> float:
    """Test accuracy at the first evaluation that is not before ``fraction`` of the steps."""
    wanted = fraction * run.steps[-1]
    return next(a for s, a in zip(run.steps, run.accuracy, strict=True) if s >= wanted)


def steps_to(run: Run, accuracy: float) -> int | None:
    """The first evaluated step with at least ``accuracy``; None if there is none."""
    reached = (s for s, a in zip(run.steps, run.accuracy, strict=True) if a >= accuracy)
    return next(reached, None)


@dataclass(frozen=True)
class Comparison:
    """The runs of one norm beside the baseline's, at one learning rate, paired by seed.

    ``steps_to_best`` holds for each seed the steps until this norm first reaches the best
    accuracy that the baseline's run of the same seed ever reaches; None where it never does.
    """

    learning_rate: float
    norm: str
    baseline: str
    runs: tuple[Run, ...]
    baseline_runs: tuple[Run, ...]
    steps_to_best: tuple[int | None, ...]

    @property
    def reached(self) -> tuple[int, ...]:
        return tuple(steps for steps in self.steps_to_best if steps is not None)

    def saved(self) -> Spread:
        """Percent fewer steps than the baseline needed, over the seeds that reached its best."""
        own = zip(self.steps_to_best, self.baseline_runs, strict=True)
        return Spread.of(
            [
                100.0 * (1.0 - steps / (steps_to(base, max(base.accuracy)) or steps))
                for steps, base in own
                if steps is not None
            ]
        )

    def final_gain(self) -> Spread:
        """Percentage points of final accuracy over the baseline's run of the same seed."""
        return Spread.of(
            [
                run.accuracy[-1] - base.accuracy[-1]
                for run, base in zip(self.runs, self.baseline_runs, strict=True)
            ]
        )

    def curve_gain(self) -> Spread:
        """Points of accuracy over the baseline's run of the same seed, mean of all evaluations.

        It says who learns faster with far less chance in it than one evaluation.
        """
        return Spread.of(
            [
                statistics.fmean(run.accuracy) - statistics.fmean(base.accuracy)
                for run, base in zip(self.runs, self.baseline_runs, strict=True)
            ]
        )

    def steps_text(self) -> str:
        if not self.reached:
            return f"not reached (0/{len(self.runs)})"
        return f"{Spread.of(self.reached).text(0)} ({len(self.reached)}/{len(self.runs)})"

    def verdict(self) -> str:
        """What was measured, in a sentence."""
        start = f"{self.norm} at learning rate {self.learning_rate:g}: {self.baseline}'s best"
        end = f"; final accuracy {self.final_gain().text(sign='+')} points."
        missed = len(self.runs) - len(self.reached)
        if not self.reached:
            return f"{start} reached by no seed{end}"
        saved = self.saved()
        direction = "fewer" if saved.mean >= 0 else "more"
        change = f"{Spread(abs(saved.mean), saved.std, saved.count).text(0)} % {direction} steps"
        if missed:
            return (
                f"{start} not reached by {missed} of {len(self.runs)} seeds "
                f"(where reached: {change}){end}"
            )
        return f"{start} reached in {change}{end}"


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Pair every norm's runs with the baseline's: norm ``bn`` if present, else the first.

    Raises:
        ValueError: a seed that not all norms have at some learning rate.
    """
    grid: dict[float, dict[str, dict[int, Run]]] = {}
    for run in runs:
        grid.setdefault(run.learning_rate, {}).setdefault(run.norm, {})[run.seed] = run
    comparisons = []
    for learning_rate, norms in grid.items():
        baseline = "bn" if "bn" in norms else next(iter(norms))
        seeds = sorted(norms[baseline])
        for norm, by_seed in norms.items():
            if sorted(by_seed) != seeds:
                raise ValueError(
                    f"runs of {norm} at learning rate {learning_rate:g} have seeds "
                    f"{sorted(by_seed)}; {baseline} has {seeds}"
                )
            own = tuple(by_seed[seed] for seed in seeds)
            base = tuple(norms[baseline][seed] for seed in seeds)
            steps = tuple(
                steps_to(run, max(other.accuracy)) for run, other in zip(own, base, strict=True)
            )
            comparisons.append(Comparison(learning_rate, norm, baseline, own, base, steps))
    return comparisons


def table(comparisons: Sequence[Comparison]) -> str:
    """The table as text, with the definition of its last column and a verdict per comparison."""
    baseline = comparisons[0].baseline
    header = ["learning rate", "norm"]
    header += [f"{100 * quarter:.0f} %" for quarter in QUARTERS]
    header += ["best", f"steps to {baseline}'s best", "seconds"]
    rows = [header]
    for comparison in comparisons:
        rows.append(
            [
                f"{comparison.learning_rate:g}",
                comparison.norm,
                *(
                    Spread.of([accuracy_at(run, quarter) for run in comparison.runs]).text()
                    for quarter in QUARTERS
                ),
                Spread.of([max(run.accuracy) for run in comparison.runs]).text(),
                comparison.steps_text(),
                Spread.of([run.seconds for run in comparison.runs]).text(),
            ]
        )
    verdicts = [c.verdict() for c in comparisons if c.norm != c.baseline]
    return "\n".join([*_aligned(rows), "", definition(baseline), *verdicts])


def definition(baseline: str) -> str:
    return (
        f"Test accuracy in percent at 25/50/75/100 % of the steps. Steps to {baseline}'s best: per "
        f"seed, the first evaluated\nstep at which a run has at least the best accuracy that "
        f"{baseline} ever has with that seed (in brackets: seeds that\nget there; the others do "
        "not enter the mean). All figures: mean ± standard deviation over the seeds."
    )


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return [lines[0], "  ".join("─" * width for width in widths), *lines[1:]]
