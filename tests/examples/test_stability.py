"""The probe of a mixture layer."""

import csv

import pytest
import torch

from examples import stability
from examples.stability import Probe
from mixnorm_cuda import MixtureNorm2d


def test_probe():
    layer = MixtureNorm2d(4, num_components=2, groups=2)
    probe = Probe(layer)
    x = 3 * torch.randn(8, 4, 5, 5)
    x.requires_grad_(True)
    scaled = 2 * x
    layer(scaled).square().mean().backward()
    found = probe.read()
    assert found["input_std"] == pytest.approx(scaled.std().item())
    assert found["gradient"] == pytest.approx(x.grad.norm().item() / 2)
    assert found["weight_1"] + found["weight_2"] == pytest.approx(1)
    assert found["weight_1"] == pytest.approx(layer.running_weight.min(1).values.mean().item())
    layer.eval()
    layer(10 * scaled)
    assert probe.read()["input_std"] == found["input_std"], "evaluations are not training"


def test_command(monkeypatch, quadrants, tmp_path, capsys):
    monkeypatch.setattr(stability, "load", lambda data, download_to: quadrants)
    out = tmp_path / "new" / "probe.csv"
    options = ["--data", "x", "--device", "cpu", "--width", "0.0625", "--out", str(out)]
    assert stability.main([*options, "--steps", "6", "--every", "3", "--batch-size", "16"]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["3", "6"]
    assert set(rows[0]) == {
        "step", "loss", "input_std", "gradient", "weight_1", "weight_2", "weight_3",
    }  # fmt: skip
    assert all(float(row["gradient"]) > 0 for row in rows)
    with pytest.raises(SystemExit):
        stability.main([*options, "--norm", "bn"])
    assert "expected a mixture with running statistics" in capsys.readouterr().err
