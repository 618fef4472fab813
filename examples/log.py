"""What a training writes while it runs: a CSV file, and TensorBoard's where it is installed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from examples.training import Evaluation

COLUMNS = tuple(field.name for field in fields(Evaluation))


def write_csv(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """The whole curve: after a resume no row is missing, and none is there twice."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([getattr(entry, name) for name in COLUMNS] for entry in evaluations)
    partial.replace(path)


def read_csv(path: Path) -> list[Evaluation]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Evaluation(int(row["step"]), *(float(row[name]) for name in COLUMNS[1:]))
            for row in csv.DictReader(file)
        ]


class TensorBoard:
    """Scalars for TensorBoard; does nothing where the package tensorboard is missing."""

    def __init__(self, folder: Path, after_step: int) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        # What a stopped run wrote past its checkpoint is computed, and written, again.
        self._writer = SummaryWriter(str(folder), purge_step=after_step + 1)

    def write(self, evaluation: Evaluation) -> None:
        if self._writer is None:
            return
        for name in COLUMNS[1:]:
            self._writer.add_scalar(name, getattr(evaluation, name), evaluation.step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
