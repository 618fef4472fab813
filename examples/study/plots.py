"""A study's figures: a question's curves, and every difference to BN with its interval."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

from examples.plots import NORM_COLORS, STYLE
from examples.report import Comparison, Spread

_DIFFERENCES = (
    "accuracy less BN's of the same seed, points\nfilled: mean of the curve; hollow: at the end"
)


def save_answer(comparisons: Sequence[Comparison], title: str, path: Path) -> None:
    """Mean curves with their 95 % intervals on the left, the final differences on the right."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(9.2, 3.8), width_ratios=(3, 2), layout="constrained"
        )
        colors = dict(
            zip([c.norm for c in comparisons], itertools.cycle(NORM_COLORS), strict=False)
        )
        for comparison in comparisons:
            steps = comparison.runs[0].steps
            accuracy = torch.tensor([run.accuracy for run in comparison.runs])
            spreads = [Spread.of(column.tolist()) for column in accuracy.unbind(dim=1)]
            mean = [spread.mean for spread in spreads]
            half = [spread.half_interval() for spread in spreads]
            color = colors[comparison.norm]
            left.plot(steps, mean, color=color, linewidth=1.4, label=comparison.norm)
            lower, upper = (
                [m + sign * h for m, h in zip(mean, half, strict=True)] for sign in (-1, 1)
            )
            left.fill_between(steps, lower, upper, color=color, alpha=0.12, linewidth=0)
        left.set_xlabel("training step")
        left.set_ylabel("test accuracy (%)")
        left.legend(loc="lower right", fontsize=7)
        others = [c for c in comparisons if c.norm != c.baseline]
        _differences(right, others, [colors[c.norm] for c in others])
        right.tick_params(labelleft=False)  # the legend's colors say it
        figure.suptitle(title, fontsize=9)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def save_overview(
    blocks: Sequence[tuple[str, Sequence[Comparison]]], title: str, path: Path
) -> None:
    """One row per norm and question: final accuracy less BN's, with the 95 % interval."""
    counts = [sum(c.norm != c.baseline for c in comparisons) for _, comparisons in blocks]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(blocks), 1, figsize=(7.5, 0.24 * sum(counts) + 0.45 * len(blocks) + 0.6),
            height_ratios=[count + 1 for count in counts], sharex=True, squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for axis, (name, comparisons) in zip(axes[:, 0], blocks, strict=True):
            others = [c for c in comparisons if c.norm != c.baseline]
            _differences(axis, others, [NORM_COLORS[1]] * len(others))
            axis.set_title(name, fontsize=8, loc="left")
            axis.set_xlabel("")
        axes[-1, 0].set_xlabel(_DIFFERENCES)
        figure.suptitle(title, fontsize=9)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _differences(axis: Axes, comparisons: Sequence[Comparison], colors: Sequence[str]) -> None:
    axis.axvline(0, color=NORM_COLORS[0], linewidth=0.8)
    for row, (comparison, color) in enumerate(zip(comparisons, colors, strict=True)):
        of_curve, final = comparison.curve_gain(), comparison.final_gain()
        for gain, shift, fill in ((of_curve, -0.14, color), (final, 0.14, "white")):
            half = gain.half_interval()
            axis.errorbar(
                gain.mean,
                row + shift,
                xerr=None if math.isnan(half) else half,
                fmt="o",
                color=color,
                mfc=fill,
                markersize=4,
                capsize=2,
            )
    axis.set_yticks(range(len(comparisons)), [c.norm for c in comparisons], fontsize=7)
    axis.set_ylim(len(comparisons) - 0.5, -0.5)
    axis.set_xlabel(_DIFFERENCES)
