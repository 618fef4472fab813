"""A benchmark result as data: rows, what was left out and why; JSON in both directions, and CSV."""

import csv
import dataclasses
import datetime
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cases import Case

SCHEMA = 1


@dataclass
class Row:
    """One implementation on one case. Times in seconds; None where nothing was measured."""

    case: str
    shape: str
    size: list[int]
    kind: str
    phase: str
    dtype: str
    layout: str
    num_components: int
    groups: int
    em_iters: int
    implementation: str
    ours: bool
    check: str = ""
    """``"ok"`` or ``"red"`` for ours, ``""`` for baselines."""
    note: str = ""
    errors: dict[str, float] = field(default_factory=dict)
    """Relative errors against the float64 reference."""
    median: float | None = None
    low: float | None = None
    high: float | None = None
    samples: int = 0
    relative: float | None = None
    """Time over eager BatchNorm's (EM: scikit-learn's), round by round; the median of that."""
    relative_low: float | None = None
    relative_high: float | None = None
    ratio: float | None = None
    """Time over the case's fastest BatchNorm (EM: scikit-learn)."""
    gbps: float | None = None
    percent_of_copy: float | None = None
    saved_bytes: int | None = None
    peak_bytes: int | None = None
    x_bytes: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.case, self.implementation


def row_for(case: Case, implementation: str, ours: bool) -> Row:
    return Row(
        case=case.id, shape=case.shape.name, size=list(case.shape.size), kind=case.shape.kind,
        phase=case.phase, dtype=case.dtype_name, layout=case.layout,
        num_components=case.num_components, groups=case.num_groups, em_iters=case.em_iters,
        implementation=implementation, ours=ours, x_bytes=case.bytes,
    )  # fmt: skip


@dataclass
class Result:
    """A run: where it ran, its rows, and every (implementation, case) without one."""

    environment: dict[str, Any]
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    """``case``, ``implementation`` and ``reason``."""
    peak_copy_gbps: float | None = None

    @property
    def stem(self) -> str:
        """File name: device and date, and whether it is less than a full run."""
        device = re.sub(r"\((R|TM)\)|[^A-Za-z0-9]+", " ", self.environment["device"])
        slug = "-".join(device.lower().split())
        kind = "" if self.kind == "full" else f"-{self.kind}"
        return f"{self.environment['device_type']}-{slug}-{self.environment['date'][:10]}{kind}"

    @property
    def kind(self) -> str:
        """ "quick", "part" (of the cases or of the backends), or "full"."""
        if self.settings.get("quick"):
            return "quick"
        chosen = any(self.settings.get(option) for option in ("cases", "filter", "backend"))
        return "part" if chosen else "full"

    @property
    def date(self) -> datetime.datetime:
        return datetime.datetime.fromisoformat(self.environment["date"])

    def failed(self) -> list[Row]:
        """Rows of ours that are wrong: no speed is stated for them."""
        return [row for row in self.rows if row.check == "red"]


def save(result: Result, folder: Path) -> Path:
    """Write ``<stem>.json`` and ``<stem>.csv``; return the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.stem}.json"
    content = {"schema": SCHEMA, **dataclasses.asdict(_rounded(result))}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    names = [f.name for f in dataclasses.fields(Row)]
    environment = {
        "device": result.environment["device"],
        "driver": result.environment.get("driver", ""),
        "torch": result.environment["versions"].get("torch"),
        "mixnorm_cuda": result.environment["versions"].get("mixnorm_cuda"),
        "commit": result.environment["commit"],
        "date": result.environment["date"],
    }
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*names, *environment])
        writer.writeheader()
        for row in content["rows"]:
            writer.writerow({**row, **environment})
    return path


def load(path: Path) -> Result:
    """Read a JSON written by `save`.

    Raises:
        ValueError: the file is not a result of this schema.
    """
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
        raise ValueError(f"{path}: expected a benchmark result of schema {SCHEMA}")
    rows = [Row(**row) for row in content.pop("rows")]
    return Result(rows=rows, **content)


def _rounded(result: Result) -> Result:
    """Floats cut to five digits: no timing has more."""

    def cut(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.5g}")
        if isinstance(value, dict):
            return {name: cut(inner) for name, inner in value.items()}
        return value

    rows = [
        Row(**{f.name: cut(getattr(row, f.name)) for f in dataclasses.fields(Row)})
        for row in result.rows
    ]
    return dataclasses.replace(result, rows=rows, peak_copy_gbps=cut(result.peak_copy_gbps))
