"""The result as text: one line a row, geometric means, and everything that was left out."""

from collections import Counter
from collections.abc import Iterable, Sequence

from bench.metrics import geometric_means
from bench.record import Result, Row

FEW = 3
"""Cases named in one line of what was left out; the JSON names all."""

COLUMNS = ("", "time", "±", "× BN", "GB/s", "% copy", "saved", "peak", "check")


def table(columns: Sequence[str], lines: Iterable[Sequence[str]], markdown: bool = False) -> str:
    """Aligned columns, the first to the left; as a Markdown table if wanted."""
    cells = [list(columns), *(list(line) for line in lines)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]

    def joined(line: list[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    rule = (
        "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
        if markdown
        else "  ".join("-" * width for width in widths)
    )
    return "\n".join([joined(cells[0]), rule, *map(joined, cells[1:])])


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def ratio(row: Row) -> str:
    """Time over the fastest BatchNorm's, with half the interval of its rounds."""
    if row.ratio is None:
        return "-"
    if not row.relative or row.relative_low is None or row.relative_high is None:
        return number(row.ratio, 2)
    spread = row.ratio * (row.relative_high - row.relative_low) / (2 * row.relative)
    return f"{row.ratio:.2f} ± {spread:.2f}" if spread else number(row.ratio, 2)


def of_x(size: int | None, row: Row) -> str:
    """Bytes as multiples of x."""
    return "-" if size is None else f"{size / row.x_bytes:.2f} x"


def cells(row: Row) -> list[str]:
    """A row's columns after the first; no speed when its check is red."""
    if row.check == "red":
        return ["refused", *["-"] * (len(COLUMNS) - 3), f"RED {row.note}"]
    spread = "-"
    if row.median is not None and row.low is not None and row.high is not None:
        spread = f"{50 * (row.high - row.low) / row.median:.0f} %"
    return [
        seconds(row.median), spread, ratio(row), number(row.gbps, 1),
        number(row.percent_of_copy), of_x(row.saved_bytes, row), of_x(row.peak_bytes, row),
        row.check or "-",
    ]  # fmt: skip


def text(result: Result) -> str:
    """The whole result for a terminal."""
    lines: list[list[str]] = []
    last = None
    for row in result.rows:
        if row.case != last:
            size = " × ".join(map(str, row.size))
            lines.append([f"{row.case}  [{size}]", *[""] * (len(COLUMNS) - 1)])
            last = row.case
        lines.append([f"  {row.implementation}", *cells(row)])
    parts = [heading(result), grouped_table(lines)]
    means = means_table(result)
    if means:
        parts.append(
            "Geometric means over the image cases of time / fastest BatchNorm of the same case "
            f"(K = 3, G = 1, no EM step)\n{means}"
        )
    if result.left_out:
        parts.append("Left out\n" + "\n".join(f"  {line}" for line in left_out(result)))
    for row in result.failed():
        parts.append(f"RED: {row.case}, {row.implementation}: {row.note}; errors {row.errors}")
    return "\n\n".join(parts)


def grouped_table(lines: list[list[str]]) -> str:
    """A table whose case lines run across the columns instead of widening the first."""
    rows = [line for line in lines if line[1]]
    aligned = iter(table(COLUMNS, rows).splitlines())
    out = [next(aligned), next(aligned)]
    for line in lines:
        out.append(next(aligned) if line[1] else f"\n{line[0]}")
    return "\n".join(out)


def heading(result: Result) -> str:
    e = result.environment
    driver = f", driver {e['driver']}, CUDA {e['cuda']}" if "driver" in e else ""
    torch_version = e["versions"].get("torch")
    first = (
        f"{e['device']} ({e['capability']}){driver}; torch {torch_version}, {e['threads']} threads"
    )
    peak = number(result.peak_copy_gbps, 1)
    second = f"commit {e['commit']}, {e['date']}; copy of a large tensor: {peak} GB/s"
    busy = e.get("load_at_start")
    if e["device_type"] == "cpu" and busy is not None and busy > 0.5:
        second += f"\nThe machine was busy (load {busy:.1f} before the run): expect wide spreads."
    return f"{first}\n{second}"


def means_table(result: Result, markdown: bool = False) -> str:
    means = geometric_means(result.rows)
    if not means:
        return ""
    columns = ("", "phase", "dtype", "layout", "cases", "mean", "worst", "worst case")
    lines = [
        (m.implementation, m.phase, m.dtype, m.layout, str(m.cases),
         f"{m.ratio:.2f}", f"{m.worst:.2f}", m.worst_shape)
        for m in means
    ]  # fmt: skip
    return table(columns, lines, markdown)


def left_out(result: Result) -> list[str]:
    """One line per implementation and reason, with the cases when they are few."""
    counted = Counter((item["implementation"], item["reason"]) for item in result.left_out)
    lines = []
    for (implementation, reason), count in counted.items():
        who = "every implementation" if implementation == "*" else implementation
        cases = [
            item["case"]
            for item in result.left_out
            if (item["implementation"], item["reason"]) == (implementation, reason)
        ]
        where = "; ".join(cases) if count <= FEW else f"{count} cases"
        if implementation == "*" and count > FEW:
            where = "; ".join(cases[:FEW]) + f"; and {count - FEW} more"
        lines.append(f"{who}: {reason} ({where})")
    return lines
