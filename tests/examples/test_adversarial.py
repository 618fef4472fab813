"""The attack, and the training on clean and attacked images in one batch."""

import pytest
import torch
from torch import nn

from examples import adversarial
from examples.adversarial import AdversarialRecipe, AdversarialTraining
from examples.attack import Attack
from examples.layers import DomainNorm2d
from examples.models import build
from examples.norms import Norm


class Brightness(nn.Module):
    """Class 1 where the image is brighter than mid gray."""

    def __init__(self, data):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self._middle = ((127.5 - data.mean) / data.std).item()

    def forward(self, x):
        bright = self.norm(x).mean((1, 2, 3)) - self._middle
        return torch.stack([-bright, bright], dim=1)


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_attack_stays_in_its_ball_and_goes_the_right_way(quadrants, steps):
    model = Brightness(quadrants)
    levels = torch.tensor([2.0, 100.0, 140.0, 253.0])[:, None, None, None].expand(4, 1, 6, 6)
    x = quadrants.normalize(levels)
    labels = torch.tensor([0, 0, 1, 1])
    # One step takes it from the middle to the edge; two from anywhere.
    start = (2 * torch.rand(4, 1, 6, 6) - 1) * (steps > 1)
    attacked = Attack(radius=8.0, steps=steps)(model, quadrants, x, labels, start)
    pixels = attacked * quadrants.std + quadrants.mean
    # Dark images brighter, bright ones darker, by the radius exactly: the gradient never turns.
    expected = torch.tensor([10.0, 108.0, 132.0, 245.0])[:, None, None, None]
    torch.testing.assert_close(pixels, expected.expand_as(pixels), rtol=0, atol=1e-3)
    assert model.training
    assert model.norm.num_batches_tracked == 0, "an attack leaves the statistics alone"


def test_attack_stays_in_the_range_of_pixels(quadrants):
    model = Brightness(quadrants)
    x = quadrants.normalize(torch.tensor([3.0, 251.0])[:, None, None, None].expand(2, 1, 6, 6))
    attacked = Attack(8.0, 5)(model, quadrants, x, torch.tensor([1, 0]), torch.zeros_like(x))
    pixels = attacked * quadrants.std + quadrants.mean
    assert pixels.flatten(1).mean(1).tolist() == pytest.approx([0.0, 255.0], abs=1e-3)


def test_domains_reach_their_normalization(quadrants):
    """Half of every training batch is clean; each domain has its own statistics."""
    norm = Norm.parse("domain:layers=all")
    model = build("cnn5", 1, 4, norm, 0.0625, seed=0)
    recipe = AdversarialRecipe(steps=3, batch_size=16, evaluations=1, radius=60.0)
    training = AdversarialTraining(model, quadrants, recipe, 0.005, 0)
    first = next(m for m in model.modules() if isinstance(m, DomainNorm2d))
    training.advance()
    assert first.domain.tolist() == [0] * 16 + [1] * 16
    torch.testing.assert_close(first.running_weight, torch.tensor([[0.5, 0.5]]))
    assert not torch.allclose(first.running_var[0], first.running_var[1], rtol=0.01)


@pytest.mark.parametrize("norm", ["bn", "mn"])
def test_training_for_robustness_helps(quadrants, norm):
    """Against an attack that undoes plain training."""
    recipe = AdversarialRecipe(
        steps=30, batch_size=32, evaluations=1, radius=24.0, attack_steps=2, test_attack_steps=5
    )
    model = build("cnn5", 1, 4, Norm.parse(norm), 0.0625, seed=0)
    training = AdversarialTraining(model, quadrants, recipe, 0.005, 0)
    while not training.ended:
        training.advance()
    (evaluation,) = training.evaluations
    assert evaluation.accuracy > 60, "chance is 25 %"
    assert evaluation.robust > 40
    assert evaluation.robust <= evaluation.accuracy + 5


def test_command(monkeypatch, quadrants, tmp_path, capsys):
    monkeypatch.setattr(adversarial, "load", lambda data, download_to: quadrants)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    options = ["--data", "x", "--device", "cpu", "--width", "0.0625", "--batch-size", "16"]
    options += ["--steps", "2", "--evaluations", "1", "--out", str(tmp_path / "out")]
    assert adversarial.main([*options, "--norm", "domain"]) == 0
    assert "robust by the clean domain's norm" in capsys.readouterr().out
    header = (tmp_path / "out" / "log.csv").read_text().splitlines()[0]
    assert header == "step,loss,learning_rate,seconds,accuracy,robust,blind"
    with pytest.raises(SystemExit):
        adversarial.main([*options, "--norm", "domain", "--radius", "4"])
    assert "radius 8.0 (asked for: 4.0)" in capsys.readouterr().err
