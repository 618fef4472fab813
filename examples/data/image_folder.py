"""ImageFolder layout: ``train/<class>/`` beside ``test/<class>/``, or ``<class>/`` alone."""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from examples.data.files import FileTree
from examples.data.images import DataError, ImageData, Split, stratified_split

LAYOUT = (
    "train/<class>/<image> beside test/<class>/<image> (or val/), or <class>/<image>, "
    "as png, jpg, bmp, webp or ppm"
)
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}
_TEST_NAMES = ("test", "val")


def images_among(names: list[PurePosixPath]) -> list[PurePosixPath]:
    return [name for name in names if name.suffix.lower() in _SUFFIXES]


def load_image_folder(tree: FileTree, names: list[PurePosixPath]) -> ImageData:
    """Decode every image of ``names`` (from :func:`images_among`).

    Raises:
        DataError: another layout, a split or a class missing, an image damaged, images that
            differ in size.
    """
    train_root, test_root = _split_roots(tree, names)
    classes = _classes(tree, names, train_root, test_root)
    images = _decode(tree, names)
    index = {name: position for position, name in enumerate(classes)}
    labels = torch.tensor([index[name.parts[-2]] for name in names])
    if test_root is None:
        train, test = stratified_split(images, labels)
    else:
        in_test = torch.tensor([name.parts[:-2] == test_root for name in names])
        train = Split(images[~in_test], labels[~in_test])
        test = Split(images[in_test], labels[in_test])
    return ImageData.of(tree.path.name, classes, train, test)


Parts = tuple[str, ...]


def _split_roots(tree: FileTree, names: list[PurePosixPath]) -> tuple[Parts, Parts | None]:
    """Where the training and the test classes lie; no test root when nothing is split."""
    roots = {name.parts[:-2] for name in names if len(name.parts) > 1}
    if any(len(name.parts) < 2 for name in names) or len({root[:-1] for root in roots}) > 1:
        raise _other_layout(tree, names)
    last = {root[-1].lower() if root else "": root for root in roots}
    if len(last) == 1 and last.keys().isdisjoint({"train", *_TEST_NAMES}):
        return next(iter(roots)), None
    tests = [last[name] for name in _TEST_NAMES if name in last]
    if "train" not in last or not tests:
        missing = "test" if "train" in last else "train"
        found = ", ".join(sorted("/".join(root) for root in roots))
        raise DataError(
            f"{tree.path}: images under {found}/ but no {missing}/ beside it; "
            f"is it unpacked in full? Expected {LAYOUT}"
        )
    if len(last) > 2:
        raise _other_layout(tree, names)
    return last["train"], tests[0]


def _other_layout(tree: FileTree, names: list[PurePosixPath]) -> DataError:
    return DataError(f"{tree.path}: images such as {names[0]} are not laid out as {LAYOUT}")


def _classes(
    tree: FileTree, names: list[PurePosixPath], train_root: Parts, test_root: Parts | None
) -> Parts:
    in_train = {name.parts[-2] for name in names if name.parts[:-2] == train_root}
    in_test = {name.parts[-2] for name in names if name.parts[:-2] == test_root}
    if test_root is not None and in_train != in_test:
        where = "test" if in_train - in_test else "train"
        lacking = ", ".join(sorted(in_train ^ in_test))
        raise DataError(
            f"{tree.path}: no images of class {lacking} in {where}/; expected the same classes "
            "in both (is it unpacked in full?)"
        )
    if len(in_train) < 2:
        raise DataError(f"{tree.path}: one class ({', '.join(in_train)}); expected at least two")
    return tuple(sorted(in_train))


def _decode(tree: FileTree, names: list[PurePosixPath]) -> torch.Tensor:
    row = {name: position for position, name in enumerate(names)}
    images: torch.Tensor | None = None
    contents = tree.read(names)
    for name, content in tqdm(contents, "decoding", len(names), unit=" images", disable=None):
        try:
            with Image.open(io.BytesIO(content)) as image:
                pixels = np.array(image if image.mode == "L" else image.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{tree.path}: {name} is damaged or not an image ({error})") from error
        decoded = torch.from_numpy(pixels)
        decoded = decoded[None] if decoded.ndim == 2 else decoded.permute(2, 0, 1)
        if images is None:
            images = torch.empty(len(names), *decoded.shape, dtype=torch.uint8)
        if images.shape[1:] != decoded.shape:
            expected, found = ("×".join(map(str, s)) for s in (images.shape[1:], decoded.shape))
            raise DataError(
                f"{tree.path}: {name} is {found}, others are {expected}; "
                "expected images of one size and number of channels"
            )
        images[row[name]] = decoded
    assert images is not None
    return images
