"""Runs a study's trainings, in slices and by several processes at once."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from examples import runs
from examples.checkpoint import CheckpointError
from examples.data import ImageData
from examples.log import read_csv
from examples.study.grid import Study, folder_name
from examples.training import Evaluation, Run

try:
    import fcntl
except ImportError:  # not a POSIX system: then one process at a time
    fcntl = None  # type: ignore[assignment]

_STUDY = "study.json"


def open_study(folder: Path, study: Study, data: ImageData, slice_: dict[str, Any]) -> None:
    """Make ``folder`` this study's, and note who works on it now.

    Raises:
        CheckpointError: the folder holds another study, or one on other data.
    """
    path = folder / _STUDY
    identity = {
        "study": study.name,
        "data": data.describe(),
        "channel_means": data.mean.flatten().tolist(),
    }
    slices: list[dict[str, Any]] = []
    if path.exists():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found, slices = content["identity"], content["slices"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: damaged ({error})") from error
        if found != identity:
            differing = ", ".join(
                f"{key} {found.get(key)!r} (asked for: {identity[key]!r})"
                for key in identity
                if found.get(key) != identity[key]
            )
            raise CheckpointError(
                f"{path}: of another study, with {differing}; nothing was changed: choose another "
                "--out folder"
            )
    if slice_ not in slices:
        slices.append(slice_)
    partial = path.with_name(f"{_STUDY}.{os.getpid()}")
    content = {"identity": identity, "slices": slices}
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)


def slices(folder: Path) -> list[dict[str, Any]]:
    """Who worked on the study, as given to :func:`open_study`."""
    content = json.loads((folder / _STUDY).read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = content["slices"]
    return found


def finished(folder: Path, spec: runs.Spec) -> Run | None:
    """The whole curve of ``spec``, if it is there."""
    log = folder / folder_name(spec) / runs.LOG
    if not log.exists():
        return None
    rows = read_csv(log)
    if not rows or rows[-1].step < spec.recipe.steps:
        return None
    steps = tuple(row.step for row in rows)
    accuracy = tuple(row.accuracy for row in rows)
    return Run(spec.norm, spec.learning_rate, spec.seed, steps, accuracy, rows[-1].seconds)


def work(
    folder: Path,
    study: Study,
    data: ImageData,
    *,
    stop: Callable[[], bool],
    on_step: Callable[[runs.Spec, Evaluation | None], None] = lambda spec, evaluation: None,
    on_run: Callable[[runs.Spec, Run], None] = lambda spec, run: None,
) -> None:
    """Train what is not finished, until all is or ``stop()``. Other processes may do the same."""
    for spec in study.specs():
        if stop():
            return
        place = folder / folder_name(spec)
        if finished(folder, spec) is not None:
            continue
        place.mkdir(exist_ok=True)
        with _claimed(place) as ours:
            if not ours or finished(folder, spec) is not None:
                continue
            training = runs.open_training(place, spec, data)
            runs.advance(
                place,
                training,
                spec,
                data,
                stop=stop,
                on_step=functools.partial(on_step, spec),
            )
            if training.ended:
                # The curve is all that a study needs; weights of hundreds of runs fill a disk.
                (place / runs.CHECKPOINT).unlink()
                on_run(spec, training.run(spec.norm, spec.seed))


@contextlib.contextmanager
def _claimed(place: Path) -> Iterator[bool]:
    """Whether no other process trains here. A claim ends with its process, however that ends."""
    if fcntl is None:
        yield True
        return
    with (place / "claim").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
