"""Fewer and smaller images, MNIST's files, and decoded images kept on disk."""

import gzip
import os
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.data import DataError, ImageData, Split, load, sources


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def _mnist_files(root, packed: bool, count: int = 12):
    root.mkdir(parents=True, exist_ok=True)
    for split, number in (("train", count), ("t10k", count // 2)):
        labels = np.arange(number, dtype=np.uint8) % 10
        images = np.broadcast_to(labels[:, None, None] * 20, (number, 5, 6)).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = _idx(array)
            path = root / f"{split}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_mnists_files(tmp_path, packed):
    data = load(str(_mnist_files(tmp_path / "fashion-mnist", packed)), tmp_path)
    assert data.name == "Fashion-MNIST"
    assert data.classes[9] == "Ankle boot"
    assert data.train.images.shape == (12, 1, 5, 6)
    assert data.test.images.shape == (6, 1, 5, 6)
    for split in (data.train, data.test):
        assert torch.equal(split.images[:, 0, 4, 5].long(), split.labels * 20)
    plain = load(str(_mnist_files(tmp_path / "digits", packed)), tmp_path)
    assert (plain.name, plain.classes[3]) == ("MNIST", "3")


def test_mnists_files_broken(tmp_path):
    folder = _mnist_files(tmp_path / "mnist", packed=True)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    for content, message in (
        (None, "t10k-labels-idx1-ubyte missing"),
        (whole[:20], "t10k-labels-idx1-ubyte.gz is damaged"),
        (gzip.compress(b"something else"), "damaged or not an IDX file"),
        (gzip.compress(_idx(np.zeros(3, np.uint8))), r"labels \[3\]"),
    ):
        labels.unlink(missing_ok=True)
        if content is not None:
            labels.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            load(str(folder), tmp_path)
        assert str(folder) in str(caught.value)


def test_fashion_mnist_download_reads_what_torchvision_left(tmp_path, monkeypatch):
    class FashionMNIST:
        def __init__(self, root, download):
            assert download
            _mnist_files(Path(root) / "FashionMNIST" / "raw", packed=True)

    module = types.ModuleType("torchvision.datasets")
    module.FashionMNIST = FashionMNIST
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    assert load("fashion-mnist", tmp_path).name == "Fashion-MNIST"


def test_a_tar_is_decoded_once(tmp_path, monkeypatch):
    import tarfile

    def pack(level: int):
        for split in ("train", "test"):
            for number, name in enumerate("ab"):
                place = tmp_path / "images" / split / name
                place.mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 4), level + number).save(place / "0.png")
        with tarfile.open(tmp_path / "images.tar", "w") as tar:
            tar.add(tmp_path / "images", ".")

    pack(10)
    first = load(str(tmp_path / "images.tar"), tmp_path / "cache")
    decode = sources._load_path
    monkeypatch.setattr(sources, "_load_path", lambda path: pytest.fail("decoded again"))
    again = load(str(tmp_path / "images.tar"), tmp_path / "cache")
    assert (again.name, again.classes) == (first.name, first.classes)
    assert torch.equal(again.train.images, first.train.images)
    assert torch.equal(again.test.labels, first.test.labels)
    assert torch.equal(again.std, first.std)
    monkeypatch.setattr(sources, "_load_path", decode)
    pack(90)
    os.utime(tmp_path / "images.tar", ns=(1, 1))  # another time, of the same size
    changed = load(str(tmp_path / "images.tar"), tmp_path / "cache")
    assert changed.train.images.flatten().unique().tolist() == [90, 91]


def _data(count: int = 12) -> ImageData:
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None] * 10
    images = images + torch.tensor([[0, 2], [4, 7]], dtype=torch.uint8).repeat(2, 2)
    split = Split(images, torch.arange(count) % 3)
    return ImageData.of("numbers", ("a", "b", "c"), split, split)


def test_the_first_images_of_each_class():
    data = _data().reduced(per_class=2, test_per_class=1)
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (data.train.images[:, 0, 0, 0] // 10).tolist() == [0, 1, 2, 3, 4, 5]
    assert data.test.labels.tolist() == [0, 1, 2]
    assert float(data.mean) == pytest.approx(25 + 3.25), "of the images that are left"


def test_averaged_images():
    data = _data().reduced(size=2)
    assert data.train.images.shape == (12, 1, 2, 2)
    assert data.train.images[:, 0, 1, 1].tolist() == [10 * n + 3 for n in range(12)]
    assert data.test.images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": 5}, "per_class=5: expected 1 to 4"),
        ({"test_per_class": 0}, "test_per_class=0: expected 1 to 4"),
        ({"size": 3}, "size=3: expected a divisor of 4×4"),
        ({"size": 8}, "size=8: expected a divisor of 4×4"),
    ],
)
def test_reduced_too_far(options, message):
    with pytest.raises(ValueError, match=message):
        _data().reduced(**options)
