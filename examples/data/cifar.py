"""CIFAR-10 and CIFAR-100 as their authors publish them: Python pickles, in a folder or a tar."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from examples.data.files import FileTree
from examples.data.images import DataError, ImageData, Split


@dataclass(frozen=True)
class _Edition:
    name: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    label_names: bytes

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.meta)


_EDITIONS = (
    _Edition(
        "CIFAR-10",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch",
        "batches.meta",
        b"labels",
        b"label_names",
    ),
    _Edition("CIFAR-100", ("train",), "test", "meta", b"fine_labels", b"fine_label_names"),
)
LAYOUT = "CIFAR-10's Python pickles (data_batch_1 to data_batch_5, test_batch and batches.meta)"


def is_cifar(names: list[PurePosixPath]) -> bool:
    return _edition(names) is not None


def _edition(names: list[PurePosixPath]) -> _Edition | None:
    present = {name.name for name in names}
    return next((edition for edition in _EDITIONS if present & set(edition.files)), None)


def load_cifar(tree: FileTree, names: list[PurePosixPath]) -> ImageData:
    """Read all batches. ``names`` must satisfy :func:`is_cifar`.

    Raises:
        DataError: a batch is missing, damaged, or holds something else.
    """
    edition = _edition(names)
    assert edition is not None
    by_file = {name.name: name for name in names}
    missing = [file for file in edition.files if file not in by_file]
    if missing:
        raise DataError(
            f"{tree.path}: {', '.join(missing)} missing; expected {edition.name}'s Python "
            f"pickles {', '.join(edition.files)} (is it unpacked in full?)"
        )
    wanted = [by_file[file] for file in edition.files]
    contents = {name.name: _unpickle(tree, name, content) for name, content in tree.read(wanted)}
    train = [_split(tree, edition, file, contents[file]) for file in edition.train]
    return ImageData.of(
        edition.name,
        tuple(label.decode() for label in contents[edition.meta][edition.label_names]),
        Split(
            torch.cat([split.images for split in train]),
            torch.cat([split.labels for split in train]),
        ),
        _split(tree, edition, edition.test, contents[edition.test]),
    )


def _split(tree: FileTree, edition: _Edition, file: str, batch: dict[bytes, Any]) -> Split:
    pixels, labels = batch.get(b"data"), batch.get(edition.labels)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.ndim != 2
        or pixels.shape[1] != 3 * 32 * 32
        or not isinstance(labels, list)
        or len(labels) != len(pixels)
    ):
        raise DataError(
            f"{tree.path}: {file} is not a batch of {edition.name}; expected uint8 data "
            f"[N, 3072] and as many {edition.labels.decode()}"
        )
    return Split(torch.from_numpy(pixels.reshape(-1, 3, 32, 32)), torch.tensor(labels))


class _ArraysOnly(pickle.Unpickler):
    """A pickle may name any callable; these files need only what rebuilds a NumPy array."""

    _ALLOWED = {
        (module, name)
        for package in ("numpy.core", "numpy._core")
        for module, name in (
            (f"{package}.multiarray", "_reconstruct"),
            (f"{package}.numeric", "_frombuffer"),
        )
    } | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"refused to load {module_name}.{global_name}")
        return super().find_class(module_name, global_name)


def _unpickle(tree: FileTree, name: PurePosixPath, content: bytes) -> dict[bytes, Any]:
    try:
        loaded = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    # A damaged pickle fails in whatever instruction the damage happens to spell.
    except Exception as error:
        raise DataError(f"{tree.path}: {name} is damaged or not a pickle ({error})") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{tree.path}: {name} holds a {type(loaded).__name__}, expected a dict")
    return loaded
