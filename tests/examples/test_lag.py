"""Fresh statistics beside running ones."""

import csv

import pytest
import torch
from torch import nn

from examples import checkpoint, lag
from mixnorm_cuda import MixtureNorm2d


def _statistics(layer):
    return {name: buffer.clone() for name, buffer in layer.named_buffers()}


def _network():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), MixtureNorm2d(4, num_components=2), nn.BatchNorm2d(4)
    )


def test_refreshed_statistics_are_those_of_the_batches():
    model = _network()
    model(torch.randn(8, 2, 6, 6))
    before = model.state_dict()
    kept = {name: value.clone() for name, value in before.items()}
    batch = 3 + 2 * torch.randn(16, 2, 6, 6)
    fresh = lag.refreshed(model, [batch])
    with torch.no_grad():
        after_first = fresh[0](batch)
        torch.testing.assert_close(fresh[1].running_mean, after_first.mean((0, 2, 3)))
        torch.testing.assert_close(fresh[1].running_var, after_first.var((0, 2, 3)))
        # The same mixture again: what the next batch norm sees is what it saw.
        expected = model[2].train()
        expected.load_state_dict({n.removeprefix("2."): v for n, v in kept.items() if n[0] == "2"})
        y = nn.functional.batch_norm(after_first, None, None, training=True)
        expected.momentum = 1.0
        expected(y)
        for name in ("running_weight", "running_mean", "running_var"):
            torch.testing.assert_close(getattr(fresh[2], name), getattr(expected, name))


def test_refreshing_leaves_the_model_alone():
    model = _network()
    model(torch.randn(8, 2, 6, 6))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    lag.refreshed(model, [torch.randn(8, 2, 6, 6)])
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_restored_layers_and_no_others():
    model = _network()
    model(torch.randn(8, 2, 6, 6))
    fresh = lag.refreshed(model, [3 + torch.randn(8, 2, 6, 6)])
    others = _statistics(fresh[1])
    lag.restore(fresh, model, [2])
    for name, buffer in model[2].named_buffers():
        assert torch.equal(_statistics(fresh[2])[name], buffer)
    assert torch.equal(fresh[1].running_mean, others["running_mean"])
    assert not torch.equal(fresh[1].running_mean, model[1].running_mean)


@pytest.mark.parametrize("norm", ["bn", "mn:estimator=batch"])
def test_command(norm, monkeypatch, quadrants, tmp_path, capsys):
    monkeypatch.setattr(lag, "load", lambda data, download_to: quadrants)
    options = ["--data", "x", "--device", "cpu", "--width", "0.0625", "--norm", norm]
    options += ["--batch-size", "16", "--evaluations", "2", "--steps", "4"]
    assert lag.main([*options, "--out", str(tmp_path / "lag")]) == 0
    with (tmp_path / "lag" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert {"accuracy", "fresh", "own_lag"} < set(rows[0])
    assert "step 4: loss" in capsys.readouterr().out


def test_measuring_does_not_disturb_the_training(monkeypatch, quadrants, tmp_path):
    """Seeding draws from torch's generator: what is measured must give its draws back."""
    monkeypatch.setattr(lag, "load", lambda data, download_to: quadrants)
    options = ["--data", "x", "--device", "cpu", "--width", "0.0625", "--norm"]
    options += ["mn:estimator=batch", "--batch-size", "16", "--steps", "4"]
    last = []
    for evaluations in ("1", "4"):
        out = tmp_path / evaluations
        assert lag.main([*options, "--evaluations", evaluations, "--out", str(out)]) == 0
        _, state = checkpoint.read(out / "checkpoint.pt")
        last.append(state["model"])
    for name, value in last[0].items():
        assert torch.equal(value, last[1][name]), name


def test_other_norms_are_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        lag.main(["--data", "mnist", "--norm", "gn", "--out", str(tmp_path / "lag")])
    assert "expected bn or mn" in capsys.readouterr().err
    assert not (tmp_path / "lag").exists()
