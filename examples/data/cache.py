"""Decoded images kept on disk, so that a set of JPEGs is decoded once and not by every run."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch

from examples.data.images import ImageData, Split


def cached(path: Path, folder: Path, load: Callable[[], ImageData]) -> ImageData:
    """``load()``, or what it returned before for the same file of the same size and time.

    Only a file, such as a tar, is kept: a folder's images can change without the folder's own time.
    """
    if not path.is_file():
        return load()
    status = path.stat()
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    target = folder / f"decoded-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
    if target.is_file():
        # Written in one move, by this function: whole if it is there.
        return _restore(torch.load(target, weights_only=True))
    data = load()
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    torch.save(dataclasses.asdict(data), partial)
    partial.replace(target)
    return data


def _restore(content: dict[str, object]) -> ImageData:
    train, test = (Split(**content.pop(name)) for name in ("train", "test"))  # type: ignore[arg-type]
    return ImageData(**content, train=train, test=test)  # type: ignore[arg-type]
