"""What a training writes while it runs: a CSV file, and TensorBoard's where it is installed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from examples.training import Evaluation


def write_csv(path: Path, evaluations: Sequence[Any], kind: type[Any] = Evaluation) -> None:
    """The whole curve, of dataclasses of ``kind``: after a resume no row is missing or double."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(kind)])
        writer.writerows(vars(entry).values() for entry in evaluations)
    partial.replace(path)


def read_csv(path: Path) -> list[Evaluation]:
    names = [field.name for field in fields(Evaluation)][1:]
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Evaluation(int(row["step"]), *(float(row[name]) for name in names))
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
        for name, value in vars(evaluation).items():
            if name != "step":
                self._writer.add_scalar(name, value, evaluation.step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
