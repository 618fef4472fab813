"""``python -m bench.readme``: write the tables of README.md from the results that are committed."""

import argparse
import sys
from pathlib import Path

from bench.compiled_code import compiled_section, matrix_section
from bench.metrics import geometric_means
from bench.ours import BACKENDS
from bench.predictions import predictions_section
from bench.record import Result, Row, load
from bench.report import heading, means_table, number, of_x, ratio, seconds, table

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
RESULTS = HERE / "results"
BEGIN, END = "<!-- begin {}: python -m bench.readme -->", "<!-- end {} -->"
COMPILED = HERE / "compiled"
DEVICES = {"cpu": "CPU", "cuda": "GPU"}


def latest(
    results: list[tuple[Path, Result]], device_type: str, kinds: tuple[str, ...]
) -> tuple[Path, Result] | None:
    """The newest result on a kind of device, of the first of ``kinds`` that there is."""
    here = [r for r in results if r[1].environment["device_type"] == device_type]
    for kind in kinds:
        found = [r for r in here if r[1].kind == kind]
        if found:
            return max(found, key=lambda r: r[1].date)
    return None


def status_table(results: list[tuple[Path, Result]]) -> str:
    """Which backend's kernels ran where, at which commit, with the check that they passed."""
    lines = []
    for backend in BACKENDS:
        cells = []
        for device_type in DEVICES:
            runs = [r for _, r in results if r.environment["device_type"] == device_type]
            with_rows = [r for r in runs if any(row.implementation == backend for row in r.rows)]
            newest = max(with_rows, key=lambda r: r.date, default=None)
            cells.append(_ran(newest, backend, device_type))
        lines.append([f"`{backend}`", *cells])
    return table(("backend", *DEVICES.values()), lines, markdown=True)


def _ran(result: Result | None, backend: str, device_type: str) -> str:
    if result is None:
        return f"never run on a {DEVICES[device_type]} so far"
    e = result.environment
    rows = [row for row in result.rows if row.implementation == backend]
    red = sum(row.check == "red" for row in rows)
    outcome = f"{len(rows)} cases right" if not red else f"**{red} of {len(rows)} cases wrong**"
    return f"{outcome}; commit `{e['commit']}`, {e['date'][:10]}, {e['device']}"


def result_section(path: Path, result: Result) -> str:
    """Heading, geometric means, the base setting's rows and the plots of one result."""
    rows = [r for r in result.rows if _base(r)]
    columns = ("case", "layout", "implementation", "time", "× BN", "GB/s", "% copy", "saved")
    lines = [
        (r.shape, r.layout, r.implementation, _time(r), ratio(r), number(r.gbps, 1),
         number(r.percent_of_copy), of_x(r.saved_bytes, r))
        for r in rows
    ]  # fmt: skip
    parts = [f"`{path.name}`: " + heading(result).replace("\n", "; ") + "."]
    if geometric_means(result.rows):
        parts += [
            "Geometric means of time / fastest BatchNorm over the image cases:",
            means_table(result, markdown=True),
        ]
    if lines:
        parts += [
            "Training forward + backward, fp32, K = 3, G = 1, no EM step:",
            table(columns, lines, markdown=True),
        ]
    return "\n\n".join([*parts, *_pictures(path)])


def _pictures(path: Path) -> list[str]:
    names = {
        "ratio": "ratio to BatchNorm per case",
        "copy": "percent of the copy bandwidth per case",
        "scaling": "scaling with K, M and C",
    }
    pictures = {path.with_name(f"{path.stem}-{name}.png"): alt for name, alt in names.items()}
    return [f"![{alt}](results/{p.name})" for p, alt in pictures.items() if p.exists()]


def part_section(path: Path, result: Result) -> str:
    """Heading and every row of ours of a run over chosen cases: other settings, phases, sizes."""
    lines = [
        (r.case, r.implementation, _time(r), ratio(r), number(r.gbps, 1),
         number(r.percent_of_copy))
        for r in result.rows
        if r.ours
    ]  # fmt: skip
    columns = ("case", "implementation", "time", "× BN", "GB/s", "% copy")
    return "\n\n".join(
        [f"`{path.name}`: " + heading(result).replace("\n", "; ") + ".",
         table(columns, lines, markdown=True), *_pictures(path)]
    )  # fmt: skip


def _base(row: Row) -> bool:
    setting = (row.phase, row.dtype, row.num_components, row.groups, row.em_iters)
    return setting == ("train", "fp32", 3, 1, 0) and row.kind != "scaling"


def _time(row: Row) -> str:
    return f"refused: {row.note}" if row.check == "red" else seconds(row.median)


def rendered(readme: str, results: list[tuple[Path, Result]]) -> str:
    """``readme`` with its generated sections replaced.

    Raises:
        ValueError: a section's markers are missing.
    """
    sections = {
        "status": status_table(results),
        "compiled": compiled_section(COMPILED / "triton.json"),
        "compiled cuda": compiled_section(COMPILED / "cuda.json"),
        "compiled cuda per channel": compiled_section(COMPILED / "cuda_per_channel.json"),
        "compiled cuda matrix": matrix_section(COMPILED / "cuda_matrix.json"),
        "predictions": predictions_section(COMPILED),
    }
    for device_type, name in DEVICES.items():
        found = latest(results, device_type, ("full", "quick"))
        sections[device_type] = (
            result_section(*found) if found else f"Never run on a {name} so far: no figure."
        )
        part = latest(results, device_type, ("part",))
        if part is not None:
            sections[device_type] += "\n\nA run over chosen cases:\n\n" + part_section(*part)
    for name, content in sections.items():
        begin, end = BEGIN.format(name), END.format(name)
        head, opened, rest = readme.partition(begin)
        _, closed, tail = rest.partition(end)
        if not opened or not closed:
            raise ValueError(f"README has no section between {begin!r} and {end!r}")
        readme = f"{head}{begin}\n{content}\n{end}{tail}"
    return readme


def main(argv: list[str]) -> int:
    """Rewrite README.md; with ``--check`` only say whether it is up to date (1: it is not)."""
    parser = argparse.ArgumentParser(prog="python -m bench.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if out of date")
    a = parser.parse_args(argv)
    results = [(path, load(path)) for path in sorted(RESULTS.glob("*.json"))]
    before = README.read_text()
    after = rendered(before, results)
    if a.check:
        print("bench/README.md is up to date" if before == after else "run python -m bench.readme")
        return int(before != after)
    README.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
