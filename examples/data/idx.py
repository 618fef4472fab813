"""MNIST's IDX files, as MNIST and Fashion-MNIST are published: plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from pathlib import PurePosixPath

import numpy as np
import torch

from examples.data.files import FileTree
from examples.data.images import DataError, ImageData, Split

_FILES = tuple(
    f"{split}-{kind}" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
LAYOUT = "IDX files (train-images-idx3-ubyte and three more, .gz or not)"
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def is_idx(names: list[PurePosixPath]) -> bool:
    return any(_kind(name) for name in names)


def _kind(name: PurePosixPath) -> str | None:
    plain = name.name.removesuffix(".gz").replace(".idx", "-idx")  # one mirror's spelling
    return plain.removesuffix("-ubyte") if plain.removesuffix("-ubyte") in _FILES else None


def load_idx(tree: FileTree, names: list[PurePosixPath]) -> ImageData:
    """Read all four files. ``names`` must satisfy :func:`is_idx`.

    Raises:
        DataError: a file is missing, damaged, or holds something else.
    """
    by_kind: dict[str, PurePosixPath] = {}
    for name in sorted(names, reverse=True):  # the unpacked one where both are there
        if kind := _kind(name):
            by_kind[kind] = name
    missing = [kind for kind in _FILES if kind not in by_kind]
    if missing:
        raise DataError(
            f"{tree.path}: {', '.join(f'{kind}-ubyte' for kind in missing)} missing; expected "
            f"{LAYOUT} (is it unpacked in full?)"
        )
    content = dict(tree.read(by_kind.values()))
    arrays = {kind: _array(tree, name, content[name]) for kind, name in by_kind.items()}
    train, test = (
        _split(tree, arrays[f"{split}-images-idx3"], arrays[f"{split}-labels-idx1"], split)
        for split in ("train", "t10k")
    )
    fashion = "fashion" in str(tree.path).lower()
    classes = _FASHION if fashion else tuple(map(str, range(int(train.labels.max()) + 1)))
    return ImageData.of("Fashion-MNIST" if fashion else "MNIST", classes, train, test)


def _array(tree: FileTree, name: PurePosixPath, content: bytes) -> torch.Tensor:
    try:
        content = gzip.decompress(content) if name.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{tree.path}: {name} is damaged ({error})") from error
    # Two zero bytes, 8 for uint8, the rank, then every size as a big-endian int32.
    rank = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    sizes = np.frombuffer(content[4 : 4 + 4 * rank], dtype=">i4").tolist()
    if rank not in (1, 3) or len(content) != 4 + 4 * rank + int(np.prod(sizes)):
        raise DataError(f"{tree.path}: {name} is damaged or not an IDX file of uint8")
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank).reshape(sizes)
    return torch.from_numpy(values.copy())


def _split(tree: FileTree, images: torch.Tensor, labels: torch.Tensor, split: str) -> Split:
    if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
        raise DataError(
            f"{tree.path}: {split} has images {list(images.shape)} and labels "
            f"{list(labels.shape)}; expected [N, H, W] and [N]"
        )
    return Split(images[:, None], labels.long())
