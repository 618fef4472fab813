"""A training on disk: what it is (its configuration) and how far it got."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

_FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to another training."""


def save(path: Path, configuration: dict[str, Any], state: dict[str, Any]) -> None:
    """Write all or nothing: a stop while writing leaves the checkpoint that was there."""
    partial = path.with_name(path.name + ".partial")
    content = {"format": _FORMAT, "configuration": configuration, "state": state}
    torch.save(content, partial)
    partial.replace(path)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(configuration, state), on the CPU.

    Raises:
        CheckpointError: ``path`` is missing, damaged or something else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged archive or pickle fails in whatever way the damage happens to spell.
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.PickleError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged, or not a checkpoint ({first})") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of format {_FORMAT}")
    return content["configuration"], content["state"]


def read_matching(path: Path, configuration: dict[str, Any]) -> dict[str, Any]:
    """The state at ``path``, whose configuration has to be ``configuration``.

    Raises:
        CheckpointError: as :func:`read`, or naming what differs.
    """
    found, state = read(path)
    differing = [
        f"{key} {found.get(key)!r} (asked for: {configuration.get(key)!r})"
        for key in sorted(found.keys() | configuration.keys())
        if found.get(key) != configuration.get(key)
    ]
    if differing:
        raise CheckpointError(
            f"{path}: of another training, with {', '.join(differing)}; nothing was changed: "
            "choose another --out folder, or remove this one"
        )
    return state
