"""Three pictures of a result: ratio to BatchNorm, percent of a copy, scaling with K, M and C."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.record import Result, Row

COLOURS = {
    "bn": "#555555",
    "bn-compiled": "#aaaaaa",
    "mode-norm": "#cc79a7",
    "reference": "#e69f00",
    "reference-compiled": "#f0c060",
    "cpu": "#0072b2",
    "triton": "#009e73",
    "cuda": "#0072b2",
}
"""Okabe and Ito's colours, told apart with every kind of colour vision."""

MARKERS = {"contiguous": "o", "channels_last": "D"}


def draw(result: Result, folder: Path) -> list[Path]:
    """Write the PNGs that ``result`` has rows for beside its JSON; return their paths.

    Without matplotlib nothing is drawn, and a line says so.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        print("No plots: matplotlib is not installed (pip install matplotlib)")
        return []
    mpl.use("Agg")
    mpl.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
         "axes.titlelocation": "left", "axes.titlesize": 10, "legend.frameon": False}
    )  # fmt: skip
    pictures: dict[str, Callable[[Result], Any]] = {
        "ratio": ratio_figure, "copy": copy_figure, "scaling": scaling_figure
    }  # fmt: skip
    paths = []
    for name, picture in pictures.items():
        figure = picture(result)
        if figure is not None:
            paths.append(folder / f"{result.stem}-{name}.png")
            figure.savefig(paths[-1], dpi=110, bbox_inches="tight")
    return paths


def ratio_figure(result: Result) -> Any:
    rows = [r for r in _base_rows(result) if r.implementation not in ("copy", "bn", "bn-compiled")]
    figure = _dots(
        rows,
        lambda r: r.ratio,
        _ratio_spread,
        "time of training forward + backward / fastest BatchNorm of the same case",
        f"Mixture normalization next to BatchNorm (fp32, K = 3)\n{_place(result)}",
    )
    if figure is not None:
        axes = figure.axes[0]
        axes.axvline(1, color=COLOURS["bn"], linewidth=1)
        axes.text(1, 1.0, " BatchNorm", transform=axes.get_xaxis_transform(), va="bottom",
                  color=COLOURS["bn"])  # fmt: skip
        _readable_log_axis(axes)
    return figure


def copy_figure(result: Result) -> Any:
    rows = [r for r in _base_rows(result) if r.implementation != "copy"]
    figure = _dots(
        rows,
        lambda r: r.percent_of_copy,
        _bandwidth_spread,
        "percent of the bandwidth of a copy of the same tensor, counting 8 times its bytes",
        f"How much of the copy bandwidth is used (training forward + backward, fp32, K = 3)\n"
        f"{_place(result)}",
    )
    if figure is not None:
        axes = figure.axes[0]
        axes.set_xlim(0, min(max(105.0, axes.get_xlim()[1]), 200.0))
        axes.axvline(100, color=COLOURS["bn"], linewidth=1)
    return figure


def scaling_figure(result: Result) -> Any:
    """Nanoseconds per element over K, M and C, on log-log axes; flat is linear cost."""
    base = [r for r in result.rows if r.phase == "train" and r.dtype == "fp32" and r.median]
    base = [r for r in base if r.layout == "contiguous" and r.groups == 1 and r.em_iters == 0]
    panels: list[tuple[str, Callable[[Row], int], list[Row]]] = [
        ("components K", lambda r: r.num_components, _k_sweep(base)),
        ("positions M (C = 128)", _positions, _series(base, "scaling.N")),
        ("channels C (M = 16,384)", lambda r: r.size[1], _series(base, "scaling.C")),
    ]
    if all(len({x(r) for r in rows}) < 2 for _, x, rows in panels):
        return None
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(11, 3.6), layout="constrained")
    all_axes = figure.subplots(1, 3, sharey=True)
    figure.suptitle(f"Cost per element of x, training forward + backward, fp32\n{_place(result)}",
                    x=0.01, ha="left", fontsize=10)  # fmt: skip
    for axes, (label, x, rows) in zip(all_axes, panels, strict=True):
        for name in _names(rows):
            points = sorted((x(r), r) for r in rows if r.implementation == name)
            xs = [point[0] for point in points]
            ys, lows, highs = (
                [1e9 * (getattr(r, f) or math.nan) / math.prod(r.size) for _, r in points]
                for f in ("median", "low", "high")
            )
            axes.plot(xs, ys, marker="o", markersize=4, color=_colour(name), label=name)
            axes.fill_between(xs, lows, highs, color=_colour(name), alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(label)
        ticks = sorted({x(r) for r in rows})
        axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
        axes.minorticks_off()
        axes.grid(axis="y", color="#eeeeee")
    all_axes[0].set_ylabel("ns per element")
    _readable_log_axis(all_axes[0], "y")
    handles: dict[str, Any] = {}
    for axes in all_axes:
        handles |= {h.get_label(): h for h in axes.lines}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def _base_rows(result: Result) -> list[Row]:
    """Forward + backward of real shapes at the base setting."""
    return [
        r
        for r in result.rows
        if r.kind in ("image", "signal", "volume") and r.phase == "train" and r.dtype == "fp32"
        and (r.num_components, r.groups, r.em_iters) == (3, 1, 0)
    ]  # fmt: skip


def _ratio_spread(row: Row) -> tuple[float, float]:
    centre = row.relative or math.nan
    return (row.relative_low or centre) / centre, (row.relative_high or centre) / centre


def _bandwidth_spread(row: Row) -> tuple[float, float]:
    centre = row.median or math.nan
    return centre / (row.high or centre), centre / (row.low or centre)


def _dots(
    rows: list[Row],
    value: Callable[[Row], float | None],
    spread: Callable[[Row], tuple[float, float]],
    label: str,
    title: str,
) -> Any:
    """One line per shape, one dot per implementation and layout, whiskers for the spread."""
    rows = [r for r in rows if value(r) is not None and r.median]
    if not rows:
        return None
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shapes = list(dict.fromkeys(r.shape for r in rows))[::-1]
    names = _names(rows)
    figure: Any = Figure(figsize=(9, 1.4 + 0.42 * len(shapes)), layout="constrained")
    axes = figure.subplots()
    for r in rows:
        centre = value(r) or math.nan
        ends = [centre * factor for factor in spread(r)]
        offset = 0.14 if r.layout == "contiguous" else -0.14
        y = shapes.index(r.shape) + offset
        axes.plot(ends, [y, y], color=_colour(r.implementation), linewidth=1, alpha=0.5)
        face = _colour(r.implementation) if r.layout == "contiguous" else "white"
        axes.plot(centre, y, MARKERS[r.layout], markersize=5.5, markerfacecolor=face,
                  markeredgecolor=_colour(r.implementation))  # fmt: skip
    axes.set_yticks(range(len(shapes)), shapes)
    axes.set_ylim(-0.6, len(shapes) - 0.4)
    axes.set_xlabel(label)
    axes.set_title(title, pad=16)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    handles = [Line2D([], [], marker="s", linestyle="", color=_colour(n), label=n) for n in names]
    handles += [
        Line2D([], [], marker=MARKERS[layout], linestyle="", markeredgecolor="black", label=layout,
               markerfacecolor="black" if layout == "contiguous" else "white")
        for layout in dict.fromkeys(r.layout for r in rows)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _readable_log_axis(axes: Any, which: str = "x") -> None:
    """A log axis with plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _series(rows: Sequence[Row], prefix: str) -> list[Row]:
    return [r for r in rows if r.shape.startswith(prefix) and r.implementation != "copy"]


def _k_sweep(rows: Sequence[Row]) -> list[Row]:
    """The rows of the one shape that was run with the most numbers of components."""
    counts: dict[str, set[int]] = {}
    for r in rows:
        counts.setdefault(r.shape, set()).add(r.num_components)
    shape = max(counts, key=lambda name: len(counts[name]), default=None)
    return [r for r in rows if r.shape == shape and r.implementation != "copy"]


def _positions(row: Row) -> int:
    return math.prod(row.size) // row.size[1]


def _names(rows: Sequence[Row]) -> list[str]:
    present = {r.implementation for r in rows}
    return [name for name in COLOURS if name in present]


def _colour(name: str) -> str:
    return COLOURS.get(name, "#000000")


def _place(result: Result) -> str:
    e = result.environment
    return f"{e['device']}, torch {e['versions'].get('torch')}, commit {e['commit']}"
