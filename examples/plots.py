"""The plots: accuracy over the steps, and what a normalization layer does to one channel."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no display is needed, and none is touched
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from examples.report import Comparison
from mixnorm_cuda.introspection import Activations, draw_after, draw_before

STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
NORM_COLORS = (
    "#5f6b7a", "#d1495b", "#00798c", "#edae49", "#6a4c93", "#2e933c", "#8d6e63", "#c77dff",
)  # fmt: skip


def save_accuracy_curves(comparisons: Sequence[Comparison], title: str, path: Path) -> None:
    """One panel per learning rate: mean over the seeds with a band of one standard deviation.

    The vertical axis is the error's logarithm, labelled as accuracy: near the end curves that
    differ by tenths of a percent stay apart. A circle marks where the mean curve first reaches
    the best value of the baseline's mean curve.
    """
    rates = list(dict.fromkeys(c.learning_rate for c in comparisons))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(rates), figsize=(4.6 * len(rates), 3.8), sharey=True, squeeze=False
        )
        for axis, rate in zip(axes[0], rates, strict=True):
            _accuracy_panel(axis, [c for c in comparisons if c.learning_rate == rate])
            axis.set_title(f"learning rate {rate:g}")
            axis.set_xlabel("training step")
        _label_as_accuracy(axes[0][0], comparisons)
        axes[0][0].legend(loc="upper left")
        figure.suptitle(title, fontsize=10)
        figure.tight_layout()
        figure.savefig(path)
        plt.close(figure)


def _errors(comparison: Comparison) -> Tensor:
    # Half a test image's worth of error keeps a perfect score on a logarithmic axis.
    accuracy = torch.tensor([run.accuracy for run in comparison.runs], dtype=torch.float64)
    return (100.0 - accuracy).clamp_min(0.05)


def _accuracy_panel(axis: Axes, comparisons: Sequence[Comparison]) -> None:
    baseline = next(c for c in comparisons if c.norm == c.baseline)
    target = _errors(baseline).mean(dim=0).min().item()
    label = f"best of {baseline.norm}'s mean"
    axis.axhline(target, color=NORM_COLORS[0], linewidth=0.8, linestyle=":", label=label)
    for comparison, color in zip(comparisons, itertools.cycle(NORM_COLORS), strict=False):
        steps = comparison.runs[0].steps
        error = _errors(comparison)
        mean = error.mean(dim=0)
        std = error.std(dim=0) if len(error) > 1 else torch.zeros_like(mean)
        axis.plot(steps, mean, color=color, linewidth=1.8, label=comparison.norm)
        lower = torch.maximum(mean - std, mean / 4)
        axis.fill_between(steps, lower, mean + std, color=color, alpha=0.18, linewidth=0)
        for run in error:
            axis.plot(steps, run, color=color, linewidth=0.5, alpha=0.4)
        reached = (mean <= target).nonzero()
        if len(reached):
            first = int(reached[0])
            axis.plot(steps[first], mean[first], "o", color=color, markersize=6, mfc="white")


def _label_as_accuracy(axis: Axes, comparisons: Sequence[Comparison]) -> None:
    errors = torch.cat([_errors(c).flatten() for c in comparisons])
    axis.set_yscale("log")
    axis.set_ylim(min(100.0, 1.1 * errors.max().item()), 0.8 * errors.min().item())
    ticks = (80, 60, 40, 20, 10, 5, 3, 2, 1, 0.5, 0.2, 0.1)
    top, bottom = axis.get_ylim()
    axis.set_yticks([tick for tick in ticks if bottom <= tick <= top], minor=False)
    axis.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:g} %"))
    axis.set_ylabel("test accuracy")


def save_activations(
    recordings: Mapping[str, Activations], channel: int, title: str, path: Path
) -> None:
    """One channel in each network, a column each: before normalization above, after below.

    Above, the histogram's parts are the components' shares of the positions (by responsibility)
    and the curves the fitted mixture; below, the same parts after normalization, beside the
    Gaussian of the same mean and standard deviation.
    """
    columns = len(recordings)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, columns, figsize=(4.6 * columns, 5.6), squeeze=False)
        for column, (name, recorded) in enumerate(recordings.items()):
            draw_before(axes[0, column], recorded, channel, name)
            draw_after(axes[1, column], recorded, channel, name)
        figure.suptitle(title, fontsize=10)
        figure.tight_layout()
        figure.savefig(path)
        plt.close(figure)
