"""Constructor arguments, their checks, initial values, representation."""

import functools
from typing import Any

import pytest
import torch
from torch import nn

import mixnorm_cuda as mx

LAYERS = (mx.MixtureNorm1d, mx.MixtureNorm2d, mx.MixtureNorm3d, mx.SyncMixtureNorm)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_features": -1}, "num_features=-1: expected 0 or more channels"),
        ({"eps": 0.0}, "eps=0.0: expected a number above 0"),
        ({"eps": -1e-5}, "eps=-1e-05: expected a number above 0"),
        ({"eps": float("nan")}, "eps=nan: expected a number above 0"),
        ({"momentum": 1.5}, "momentum=1.5: expected a number from 0 to 1, or None"),
        ({"momentum": -0.1}, "momentum=-0.1: expected a number from 0 to 1, or None"),
        ({"num_components": 0}, "num_components=0: expected 1 or more"),
        ({"groups": 4}, "groups=4: expected a divisor of the 6 channels"),
        ({"groups": 0}, "groups=0: expected a divisor of the 6 channels"),
        ({"estimator": "em"}, "estimator='em': expected one of 'online', 'batch'"),
        ({"em_iters": -1}, "em_iters=-1: expected 0 or more EM steps"),
        ({"affine_init": "zeros"}, "affine_init='zeros': expected one of 'ones', 'batchnorm'"),
        (
            {"affine_init": "batchnorm"},
            "affine_init='batchnorm' with component_affine=False: expected True",
        ),
        (
            {"affine_init": "batchnorm", "component_affine": True, "bias": False},
            "affine_init='batchnorm' with bias=False: expected True",
        ),
        (
            {"affine_init": "batchnorm", "component_affine": True, "affine": False},
            "affine_init='batchnorm' with affine=False: expected True",
        ),
        (
            {
                "affine_init": "batchnorm",
                "component_affine": True,
                "track_running_stats": False,
            },
            "affine_init='batchnorm' with track_running_stats=False: expected True",
        ),
        ({"backend": "gpu"}, "backend='gpu': expected one of 'auto', 'reference', 'cpu'"),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(value),
)
def test_bad_arguments(layer: type[nn.Module], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the message is compared below)
        layer(**({"num_features": 6} | options))
    assert message in str(raised.value)


def test_options_are_by_keyword_after_those_of_batch_norm() -> None:
    with pytest.raises(TypeError, match="positional"):
        mx.MixtureNorm2d(6, 1e-5, 0.1, True, True, 3)


@pytest.mark.parametrize("layer", LAYERS)
def test_positional_arguments_are_those_of_batch_norm(layer: type[nn.Module]) -> None:
    norm = layer(6, 1e-3, 0.2, False, False)
    assert (norm.num_features, norm.eps, norm.momentum) == (6, 1e-3, 0.2)
    assert norm.weight is norm.bias is norm.running_mean is norm.num_batches_tracked is None


def test_norm_layer_argument() -> None:
    """As models take it, such as torchvision's ``norm_layer=partial(BatchNorm2d, eps=...)``."""

    class Block(nn.Module):
        def __init__(self, norm_layer: Any = nn.BatchNorm2d) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, bias=False)
            self.bn = norm_layer(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(x)).relu()

    block = Block(functools.partial(mx.MixtureNorm2d, eps=0.001, momentum=0.03))
    assert (block.bn.eps, block.bn.momentum) == (0.001, 0.03)
    assert block(torch.randn(4, 3, 6, 6)).shape == (4, 8, 4, 4)
    # Initialisation loops of such models set the weights of norm layers by type or by name.
    nn.init.constant_(block.bn.weight, 1)
    nn.init.constant_(block.bn.bias, 0)


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_are_no_batch_norms(layer: type[nn.Module]) -> None:
    norm = layer(6)
    assert not isinstance(norm, nn.modules.batchnorm._NormBase)
    model = nn.Sequential(norm)
    assert nn.SyncBatchNorm.convert_sync_batchnorm(model)[0] is norm


@pytest.mark.parametrize("component_affine", [False, True])
@pytest.mark.parametrize(("components", "groups"), [(1, 1), (3, 1), (2, 3), (5, 6)])
def test_initial_values(components: int, groups: int, component_affine: bool) -> None:
    norm = mx.MixtureNorm2d(
        6, num_components=components, groups=groups, component_affine=component_affine
    )
    affine = (components, 6) if component_affine else (6,)
    expected = {
        "weight": torch.ones(affine),
        "bias": torch.zeros(affine),
        "running_weight": torch.full((groups, components), 1 / components),
        "running_mean": torch.zeros(components, 6),
        "running_var": torch.ones(components, 6),
        "num_batches_tracked": torch.tensor(0),
    }
    assert list(norm.state_dict()) == list(expected)
    for name, value in expected.items():
        assert torch.equal(norm.state_dict()[name], value), name
    assert [name for name, _ in norm.named_parameters()] == ["weight", "bias"]
    assert all(p.requires_grad for p in norm.parameters())


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"affine": False}, ["running_weight", "running_mean", "running_var"]),
        ({"bias": False}, ["weight", "running_weight", "running_mean", "running_var"]),
        ({"track_running_stats": False}, ["weight", "bias"]),
        ({"affine": False, "track_running_stats": False}, []),
        ({"affine": False, "bias": True, "track_running_stats": False}, []),
    ],
)
def test_absent_parts(options: dict[str, bool], names: list[str]) -> None:
    norm = mx.MixtureNorm2d(6, **options)
    tracked = options.get("track_running_stats", True)
    assert list(norm.state_dict()) == [*names, *["num_batches_tracked"] * tracked]
    x = torch.randn(4, 6, 3, 3, requires_grad=True)
    for training in (True, False):
        norm.train(training)(x).sum().backward()


def test_reset_running_stats() -> None:
    norm = mx.MixtureNorm2d(4, component_affine=True)
    fresh = norm.state_dict(), {k: v.clone() for k, v in norm.state_dict().items()}
    x = torch.randn(8, 4, 5, 5)
    norm(x + 7)
    with torch.no_grad():
        norm.weight.add_(1)
        norm.bias.add_(1)
    norm.reset_running_stats()
    for name, value in fresh[1].items():
        assert torch.equal(norm.state_dict()[name], value) == (name not in ("weight", "bias"))
    # The next batch seeds again: its mean is taken outright, not by a tenth.
    norm(x - 50)
    mean = (norm.running_weight[0] @ norm.running_mean).detach()
    assert (mean + 50).abs().max() < 1
    assert norm.num_batches_tracked == 1


def test_reset_parameters() -> None:
    norm = mx.MixtureNorm2d(4)
    fresh = {k: v.clone() for k, v in norm.state_dict().items()}
    norm(torch.randn(8, 4, 5, 5) + 7).sum()
    with torch.no_grad():
        norm.weight.add_(1)
        norm.bias.add_(1)
    norm.reset_parameters()
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in fresh.items())
    norm(torch.randn(8, 4, 5, 5) - 50)
    assert norm.running_mean.mean() < -40
    mx.MixtureNorm2d(4, affine=False, track_running_stats=False).reset_parameters()


def test_representation() -> None:
    norm = mx.MixtureNorm2d(6, num_components=4, groups=2, component_affine=True)
    assert repr(norm) == (
        "MixtureNorm2d(6, num_components=4, groups=2, eps=1e-05, momentum=0.1, affine=True, "
        "component_affine=True, bias=True, track_running_stats=True, estimator='online', "
        "em_iters=0, mixing_scale=True)"
    )
    text = repr(mx.MixtureNorm1d(6, 0.1, None, False, False, estimator="batch"))
    for part in ("eps=0.1", "momentum=None", "affine=False", "bias=False", "em_iters=2",
                 "track_running_stats=False", "estimator='batch'"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(("estimator", "steps"), [("online", 0), ("batch", 2)])
def test_default_em_iters(estimator: str, steps: int) -> None:
    """``em_iters=None`` is 0 for "online" and 2 for "batch"; any other number differs."""
    x = torch.randn(8, 4, 5, 5, dtype=torch.float64)
    x[:3] += 2

    def output(em_iters: int | None) -> torch.Tensor:
        torch.manual_seed(3)
        norm = mx.MixtureNorm2d(4, estimator=estimator, em_iters=em_iters, dtype=x.dtype)
        norm(x)
        return norm(x)

    assert torch.equal(output(None), output(steps))
    assert not torch.allclose(output(None), output(steps + 1))


def test_explicit_backend_that_cannot_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIXNORM_BACKEND", raising=False)
    x = torch.randn(4, 6, 3, 3)
    for name in ("emulated", "cuda"):
        if mx.build_info()["backends"][name] is None:
            continue
        norm = mx.MixtureNorm2d(6, backend=name)
        before = {k: v.clone() for k, v in norm.state_dict().items()}
        for training in (True, False):
            with pytest.raises(mx.BackendUnavailableError, match=f"backend='{name}' cannot serve"):
                norm.train(training)(x)
        assert all(torch.equal(norm.state_dict()[k], v) for k, v in before.items())
    assert torch.equal(
        mx.MixtureNorm2d(6, num_components=1, backend="reference")(x),
        mx.MixtureNorm2d(6, num_components=1, backend="reference")(x),
    )
    monkeypatch.setenv("MIXNORM_BACKEND", "nonsense")
    with pytest.raises(ValueError, match="'nonsense'"):
        mx.MixtureNorm2d(6)(x)
