"""DCGAN's training, and the scores of its images on inputs with known answers."""

import dataclasses
import json
import math
import sys
import types

import pytest
import torch

from examples import checkpoint, dcgan, features, runs
from examples.data import ImageData, Split
from examples.features import Features, effective_classes, frechet_distance, inception_fid
from examples.gan import GanRecipe, GanTraining, Judge
from examples.models.dcgan import Discriminator, Generator
from examples.training import Recipe
from mixnorm_cuda import MixtureNorm2d

pytest.importorskip("ot", reason="POT is not installed: pip install POT")


@pytest.fixture(scope="module")
def images() -> ImageData:
    """32×32 images, bright on one of two sides."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 2
        pixels = torch.randint(0, 100, (count, 1, 32, 32), generator=generator, dtype=torch.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[:, :, 16 * int(label) : 16 * int(label) + 16] += 150
        return Split(pixels, labels)

    return ImageData.of("sides", ("left", "right"), split(96), split(32))


@pytest.fixture(scope="module")
def classifier(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    recipe = Recipe(steps=15, batch_size=32, evaluations=1)
    spec = runs.Spec("cnn5", 0.0625, "bn", 0.005, 0, recipe)
    runs.advance(folder, runs.open_training(folder, spec, images), spec, images)
    return folder / runs.CHECKPOINT


@pytest.fixture(scope="module")
def judge(images, classifier) -> Judge:
    return Judge(Features(classifier, images), images, 40)


def test_networks():
    with torch.device("meta"):
        assert Generator(3)(torch.randn(2, 100)).shape == (2, 3, 32, 32)
        assert Discriminator(3)(torch.randn(2, 3, 32, 32)).shape == (2,)


@pytest.mark.parametrize("norm", ["bn", "mn", "mn:estimator=batch,layers=all"])
def test_resumed_is_uninterrupted(images, judge, norm):
    recipe = GanRecipe(steps=6, batch_size=16, width=0.0625, norm=norm, evaluations=2, samples=20)

    def advance(training: GanTraining, steps: int) -> GanTraining:
        for _ in range(steps):
            training.advance()
        return training

    whole = advance(GanTraining(images, recipe, judge), 6)
    parts = GanTraining(images, recipe, judge)
    for steps in (1, 3, 2):
        state = advance(parts, steps).state_dict()
        torch.rand(5)
        parts = GanTraining(images, recipe, judge)
        parts.load_state_dict(state)
    assert whole.ended
    assert whole.evaluations == parts.evaluations
    assert [evaluation.step for evaluation in whole.evaluations] == [3, 6]
    assert torch.equal(whole.sample(4), parts.sample(4))
    mixtures = [m for m in whole.generator.modules() if isinstance(m, MixtureNorm2d)]
    assert len(mixtures) == {"bn": 0, "mn": 2}.get(norm, 3)


def test_judge(images, judge):
    """Real images score near the floor, noise far from it; one class counts as one."""
    assert 0 <= judge.floor["frechet"] < 1
    assert judge.floor["classes"] > 1.9
    left = images.test.images[images.test.labels == 0].repeat(2, 1, 1, 1)
    scores = judge.scores(left)
    assert scores["classes"] == pytest.approx(1.0)
    assert scores["frechet"] > 2 * judge.floor["frechet"]
    assert scores["wam"] > 2 * judge.floor["wam"]
    assert judge.histogram(left) == [1.0, 0.0]
    with pytest.raises(ValueError, match="samples=49: expected at most 48"):
        Judge(judge._features, images, 49)


def test_features_are_the_penultimate_layers(images, classifier):
    seen = Features(classifier, images)
    assert seen.accuracy > 90
    found, classes = seen(images.test.images)
    assert found.shape == (32, 16)
    assert found.dtype == torch.float64
    assert (classes == images.test.labels).double().mean() > 0.9
    head = seen._model.classifier
    logits = found.float() @ head.weight.T + head.bias
    assert torch.equal(logits.argmax(1), classes)


def test_classifier_of_other_images(images, classifier, quadrants):
    with pytest.raises(checkpoint.CheckpointError, match="expected 'quadrants"):
        Features(classifier, quadrants)
    with pytest.raises(checkpoint.CheckpointError, match="no such checkpoint"):
        Features(classifier.with_name("nothing.pt"), images)


def test_frechet_distance_of_known_gaussians():
    """Diagonal Σ = diag(a²): ‖Δμ‖² + Σ (a − b)², with moments set exactly."""
    base = torch.randn(500, 3, dtype=torch.float64)
    base = base - base.mean(0)
    whitened = base @ torch.linalg.inv(torch.linalg.cholesky(base.T @ base / 499)).T
    first = whitened * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([0.0, 1.0, 0.0])
    second = whitened * torch.tensor([2.0, 2.0, 0.0]) + torch.tensor([3.0, 1.0, 0.0])
    assert frechet_distance(first, second) == pytest.approx(9 + 1 + 0.25)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    assert frechet_distance(first @ rotation, second @ rotation) == pytest.approx(10.25)


def test_effective_classes():
    assert effective_classes(torch.arange(40) % 4, 10) == pytest.approx(4)
    assert effective_classes(torch.zeros(9, dtype=torch.int64), 10) == pytest.approx(1)
    shares = torch.tensor([0, 0, 0, 1])
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert effective_classes(shares, 10) == pytest.approx(expected)


def test_sample_grid(tmp_path):
    from PIL import Image

    pictures = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 2, 2) * 50
    features.save_images(pictures, tmp_path / "grid.png", per_row=2)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (4, 4)
        assert [grid.getpixel(place)[0] for place in ((0, 0), (2, 0), (0, 2), (3, 3))] == [
            0, 50, 100, 150,
        ]  # fmt: skip


def test_images_of_another_size(images, judge):
    with pytest.raises(ValueError, match="images are 16×16: DCGAN here expects 32×32"):
        GanTraining(images.reduced(size=16), GanRecipe(steps=1), judge)


def test_fid_without_torchmetrics(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(RuntimeError, match=r"FID needs torchmetrics\[image\]"):
        inception_fid(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))


def test_fid_by_torchmetrics(monkeypatch):
    class FrechetInceptionDistance(torch.nn.Module):
        def __init__(self, feature):
            super().__init__()
            assert feature == 2048
            self.seen = {True: 0, False: 0}

        def update(self, images, real):
            assert images.dtype == torch.uint8
            self.seen[real] += len(images)

        def compute(self):
            return torch.tensor(float(self.seen[True] * 10000 + self.seen[False]))

    module = types.ModuleType("torchmetrics.image.fid")
    module.FrechetInceptionDistance = FrechetInceptionDistance
    for name in ("torchmetrics", "torchmetrics.image"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", module)
    real, fake = (torch.zeros(n, 3, 4, 4, dtype=torch.uint8) for n in (600, 7))
    assert inception_fid(real, fake) == 600 * 10000 + 7


@pytest.fixture
def command(monkeypatch, images, classifier, tmp_path):
    monkeypatch.setattr(dcgan, "load", lambda data, download_to: images)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    options = ["--data", "x", "--device", "cpu", "--width", "0.0625", "--batch-size", "16"]
    options += ["--steps", "2", "--evaluations", "1", "--samples", "20"]
    options += ["--out", str(tmp_path / "out")]
    return lambda *more: dcgan.main([*options, *more])


def test_command(command, classifier, tmp_path, capsys):
    assert command("--norm", "mn", "--classifier", str(classifier.parent), "--fid") == 0
    printed = capsys.readouterr().out
    assert "judged by cnn5, width 0.0625, 15 steps" in printed
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert set(content) == {"scores", "floor", "histogram"}
    assert sum(content["histogram"].values()) == pytest.approx(1)
    assert (tmp_path / "out" / "samples-000002.png").stat().st_size > 500
    with pytest.raises(SystemExit):
        command("--norm", "bn", "--classifier", str(classifier))
    assert "norm 'mn' (asked for: 'bn')" in capsys.readouterr().err


def test_command_trains_a_classifier(command, tmp_path, capsys):
    assert command("--classifier-steps", "3") == 0
    assert (tmp_path / "out" / "classifier" / runs.CHECKPOINT).exists()
    assert "judged by cnn5, width 0.0625, 3 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--samples", "49"), "expected at most 48"),
        (("--norm", "mn:layers=9"), "no normalization layer 9"),
        (("--norm", "mn"), "pip install POT"),
    ],
)
def test_errors_show_before_a_classifier_is_trained(
    options, message, command, monkeypatch, tmp_path, capsys
):
    if "POT" in message:
        monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(SystemExit):
        command(*options)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_recipes_differ_in_the_norm_only(images, judge):
    """The same weights at the start, whatever the norm."""
    recipe = GanRecipe(steps=1, width=0.0625)
    first = GanTraining(images, recipe, judge)
    second = GanTraining(images, dataclasses.replace(recipe, norm="mn"), judge)
    ours, theirs = (t.generator.blocks[1].conv.weight for t in (first, second))
    assert torch.equal(ours, theirs)
