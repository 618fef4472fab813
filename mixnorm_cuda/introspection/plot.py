"""Plots of a layer's mixture. matplotlib is imported only when a figure is made."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from mixnorm_cuda.introspection.activations import Activations, gaussian_log_density, observe

_ONE_COLOR = "#5f6b7a"
_COMPONENT_COLORS = ("#00798c", "#edae49", "#d1495b", "#6a4c93", "#2e933c", "#8d6e63")
_BINS = 90


def plot_mixture(layer: nn.Module, x: Tensor, channel: int | None = None) -> Any:
    """One channel of ``layer`` on ``x``: before normalization on the left, after on the right.

    On the left, the histogram's parts are the components' shares of the positions (by
    responsibility) and the curves the mixture of the running statistics; on the right, the same
    parts after normalization (eval, without γ and β), beside the Gaussian of the same mean and
    standard deviation.

    Args:
        layer: a mixture layer, or a BatchNorm to compare with. Left as it is.
        x: ``[N, C, *S]``, an input of the layer, on its device.
        channel: which channel; None: the one that a mixture describes best in comparison with one
            Gaussian.

    Returns:
        A ``matplotlib.figure.Figure``; save it with ``savefig``, or hand it to TensorBoard's
        ``add_figure``.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no such channel, or the layer keeps no running statistics.
        TypeError: ``layer`` is of another kind.
    """
    from matplotlib.figure import Figure

    recorded = observe(layer, x)
    channels = recorded.mean.shape[1]
    if channel is None:
        channel = recorded.most_mixed_channel()
    if not 0 <= channel < channels:
        raise ValueError(f"channel={channel}: expected one of the {channels} channels, from 0")
    figure = Figure(figsize=(9.2, 3.0), layout="tight")
    left, right = figure.subplots(1, 2)
    draw_before(left, recorded, channel, type(layer).__name__)
    draw_after(right, recorded, channel, type(layer).__name__)
    return figure


def draw_before(axis: Any, recorded: Activations, channel: int, name: str) -> None:
    """The channel before normalization, with the fitted mixture, on a matplotlib ``axis``."""
    _stacked_histogram(axis, recorded.before[:, channel], recorded.responsibilities(channel))
    _fitted_mixture(axis, recorded, channel)
    axis.set_title(f"{name}: before normalization")
    axis.set_xlabel(f"activation of channel {channel}")
    _finish(axis)


def draw_after(axis: Any, recorded: Activations, channel: int, name: str) -> None:
    """The channel after normalization, beside one Gaussian, on a matplotlib ``axis``."""
    _stacked_histogram(axis, recorded.after[:, channel], recorded.responsibilities(channel))
    _matched_gaussian(axis, recorded.after[:, channel])
    axis.set_title(f"{name}: after normalization")
    axis.set_xlabel("normalized activation, before scale and shift")
    _finish(axis)


def _finish(axis: Any) -> None:
    axis.legend(loc="upper right", fontsize=8)
    axis.set_yticks([])
    axis.spines[["left", "right", "top"]].set_visible(False)


def _stacked_histogram(axis: Any, values: Tensor, shares: Tensor) -> None:
    low, high = (torch.quantile(values, q).item() for q in (0.001, 0.999))
    if low == high:
        low, high = low - 0.5, high + 0.5
    components = shares.shape[1]
    inside = (values >= low) & (values <= high)
    kept = values[inside].numpy()
    # Weights make the whole histogram's area one, so that densities can be drawn over it.
    width = (high - low) / _BINS
    weights = shares[inside] / (len(values) * width)
    axis.hist(
        [kept] * components,
        bins=_BINS,
        range=(low, high),
        weights=[column.numpy() for column in weights.unbind(dim=1)],
        stacked=True,
        color=_component_colors(components),
        alpha=0.45,
    )
    axis.set_xlim(low, high)


def _component_colors(components: int) -> list[str]:
    if components == 1:
        return [_ONE_COLOR]
    return list(itertools.islice(itertools.cycle(_COMPONENT_COLORS), components))


def _fitted_mixture(axis: Any, recorded: Activations, channel: int) -> None:
    values = _grid(axis)
    densities = recorded.log_densities(channel, values).exp()
    top = axis.get_ylim()[1]
    if recorded.num_components > 1:
        colors = _component_colors(recorded.num_components)
        for number, (part, color) in enumerate(zip(densities.T, colors, strict=True), start=1):
            axis.plot(values, part, color=color, linewidth=1.2, label=f"component {number}")
    label = "fitted mixture" if recorded.num_components > 1 else "fitted Gaussian"
    axis.plot(values, densities.sum(dim=1), color="black", linewidth=1.4, label=label)
    axis.set_ylim(0.0, 1.1 * min(max(top, densities.sum(dim=1).max().item()), 2.0 * top))


def _matched_gaussian(axis: Any, values: Tensor) -> None:
    grid = _grid(axis)
    density = gaussian_log_density(grid, values.mean(), values.var()).exp()
    label = f"Gaussian of the same\nmean and deviation ({values.std():.2f})"
    axis.plot(grid, density, color="black", linewidth=1.0, linestyle="--", label=label)


def _grid(axis: Any) -> Tensor:
    low, high = axis.get_xlim()
    return torch.linspace(low, high, 400)
