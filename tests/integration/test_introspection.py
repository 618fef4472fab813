"""Summaries, the monitor of collapsed components, and the plot."""

import copy
import math
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mixnorm_cuda as mx
from mixnorm_cuda.introspection import Collapse, observe


def batch(channels: int = 4) -> Tensor:
    return torch.randn(16, channels, 3, 3) + 4 * torch.randint(0, 3, (16, 1, 1, 1))


def layer_with(mixing_weight: list[list[float]], **options: Any) -> mx.MixtureNorm2d:
    weights = torch.tensor(mixing_weight)
    layer = mx.MixtureNorm2d(4, num_components=weights.shape[1], groups=weights.shape[0], **options)
    layer(batch())
    layer.running_weight.copy_(weights)
    return layer


def test_summary() -> None:
    layer = layer_with([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    entropy = -sum(p * math.log(p) for p in (0.2, 0.3, 0.5))
    found = layer.summary()
    expected = {
        "weight/0": 0.35,
        "weight/1": 0.4,
        "weight/2": 0.25,
        "effective_components": (2 + math.exp(entropy)) / 2,
        "effective_components/least": 2.0,
        "empty_components": 1.0,
        "batches_tracked": 1.0,
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert all(type(value) is float for value in found.values())
    with pytest.raises(ValueError, match="track_running_stats"):
        mx.MixtureNorm2d(4, track_running_stats=False).summary()


def test_the_monitor_finds_empty_and_coinciding_components() -> None:
    model = nn.Sequential(layer_with([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], momentum=0.0))
    layer = model[0]
    layer.running_mean[2, 2:] = layer.running_mean[0, 2:]  # the second group's channels
    layer.running_var[2, 2:] = layer.running_var[0, 2:] * 1.001
    found: list[Collapse] = []
    monitor = mx.MixtureMonitor(model, every=2, on_collapse=found.append)
    model(batch())
    assert monitor.collapsed == []
    model(batch())
    expected = [Collapse("0", 0, 2, "empty"), Collapse("0", 1, 2, "coincides with 0")]
    assert monitor.collapsed == expected
    assert found == expected
    model(batch())
    model(batch())
    assert found == expected  # told once
    layer.running_weight.fill_(1 / 3)
    layer.running_mean[2, 2:] += 5
    model(batch())
    model(batch())
    assert monitor.collapsed == []


def test_the_monitor_warns_of_a_layer_that_collapses_in_training() -> None:
    model = nn.Sequential(mx.MixtureNorm2d(4, num_components=2))
    model(batch())
    # All data go to the near component; the far one's weight halves with every step.
    model[0].running_mean[1] = 1e3
    model[0].momentum = 0.5
    with mx.MixtureMonitor(model, every=12) as monitor:
        for _ in range(11):
            model(batch())
        with pytest.warns(UserWarning, match="component 1 of group 0 in layer '0' has collapsed"):
            model(batch())
        assert [c.component for c in monitor.collapsed] == [1]
    hooks = model[0]._forward_hooks
    assert not hooks


def test_the_monitor_is_silent_about_sound_layers_and_in_eval() -> None:
    model = nn.Sequential(layer_with([[0.3, 0.3, 0.4]]))
    with warnings.catch_warnings(), mx.MixtureMonitor(model, every=1) as monitor:
        warnings.simplefilter("error")
        model(batch())
        model[0].running_weight[0, 0] = 0
        model.eval()(batch())
        assert monitor.collapsed == []


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (mx.MixtureNorm2d(4), {"every": 0}, "every=0"),
        (mx.MixtureNorm2d(4), {"tolerance": 0.0}, "tolerance=0"),
        (nn.BatchNorm2d(4), {}, "no mixture layer"),
        (mx.MixtureNorm2d(4, track_running_stats=False), {}, "no mixture layer"),
    ],
)
def test_bad_arguments_of_the_monitor(
    model: nn.Module, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mx.MixtureMonitor(model, **options)


@pytest.mark.parametrize(
    "layer",
    [mx.MixtureNorm2d(4), mx.MixtureNorm2d(4, groups=2), mx.MixtureNorm2d(4, num_components=1),
     nn.BatchNorm2d(4)],
    ids=["joint", "groups", "one component", "BatchNorm"],
)  # fmt: skip
def test_plot(layer: nn.Module, tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    layer(batch())
    before, training = copy.deepcopy(layer.state_dict()), layer.training
    figure = mx.plot_mixture(layer, batch(), channel=1)
    figure.savefig(tmp_path / "mixture.png")
    assert (tmp_path / "mixture.png").read_bytes().startswith(b"\x89PNG")
    left, right = figure.axes
    components = getattr(layer, "num_components", 1)
    # One curve a component and one of the whole mixture, with areas λ_k and 1 over all values.
    assert len(left.lines) == (components + 1 if components > 1 else 1)
    assert len(right.lines) == 1
    assert "channel 1" in left.get_xlabel()
    areas = [torch.trapezoid(*(torch.tensor(v) for v in reversed(line.get_data()))).item()
             for line in left.lines]  # fmt: skip
    assert areas[-1] == pytest.approx(1.0, abs=0.1)
    assert layer.training == training
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_plot_chooses_the_channel_that_a_mixture_describes_best() -> None:
    pytest.importorskip("matplotlib")
    layer = mx.MixtureNorm2d(4, groups=4, num_components=2)
    x = torch.randn(64, 4, 3, 3)
    x[:, 2] += 8 * torch.randint(0, 2, (64, 1, 1))
    for _ in range(50):
        layer(x)
    assert "channel 2" in mx.plot_mixture(layer, x).axes[0].get_xlabel()


@pytest.mark.parametrize(
    ("layer", "channel", "error", "message"),
    [
        (mx.MixtureNorm2d(4), 4, ValueError, "channel=4"),
        (mx.MixtureNorm2d(4), -1, ValueError, "channel=-1"),
        (mx.MixtureNorm2d(4, track_running_stats=False), 0, ValueError, "running statistics"),
        (nn.Conv2d(4, 4, 1), 0, TypeError, "Conv2d"),
    ],
)
def test_bad_arguments_of_the_plot(
    layer: nn.Module, channel: int, error: type[Exception], message: str
) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(error, match=message):
        mx.plot_mixture(layer, batch(), channel)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="matplotlib"):
        mx.plot_mixture(mx.MixtureNorm2d(4), batch())
    assert observe(mx.MixtureNorm2d(4), batch()).before.shape == (16 * 9, 4)
