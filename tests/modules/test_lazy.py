"""Lazy layers: shapes from the first input, and checkpoints of both states."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

import mixnorm_cuda as mx

LAZY = [
    (mx.LazyMixtureNorm1d, mx.MixtureNorm1d, (8, 6)),
    (mx.LazyMixtureNorm1d, mx.MixtureNorm1d, (8, 6, 5)),
    (mx.LazyMixtureNorm2d, mx.MixtureNorm2d, (8, 6, 5, 3)),
    (mx.LazyMixtureNorm3d, mx.MixtureNorm3d, (4, 6, 2, 3, 4)),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_components": 1},
    {"groups": 2, "component_affine": True},
    {"groups": 6, "estimator": "batch", "num_components": 2},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
    {"affine_init": "batchnorm", "component_affine": True},
    {"dtype": torch.float64},
]


@pytest.mark.parametrize(("lazy", "eager", "shape"), LAZY)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_becomes_the_layer(lazy: Any, eager: Any, shape: tuple[int, ...], options: Any) -> None:
    layer, expected = lazy(1e-3, 0.3, **options), eager(6, 1e-3, 0.3, **options)
    names = [name for name in expected.state_dict() if name != "num_batches_tracked"]
    assert list(layer.state_dict()) == list(expected.state_dict())
    assert all(is_lazy(layer.state_dict()[name]) for name in names)
    for name in ("weight", "bias"):
        assert isinstance(getattr(layer, name), UninitializedParameter | None)
    assert isinstance(layer.running_mean, UninitializedBuffer | None)
    x = torch.randn(shape, dtype=options.get("dtype"))
    outputs = []
    for norm in (layer, expected):
        torch.manual_seed(2)
        outputs.append([norm(x), norm(x + 1), norm.eval()(x)])
    assert type(layer) is eager
    assert layer.num_features == 6
    assert repr(layer) == repr(expected)
    assert all(torch.equal(*pair) for pair in zip(*outputs, strict=True))
    for (name, ours), wanted in zip(
        layer.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, wanted), name
        assert ours.dtype == wanted.dtype


def test_first_input_in_eval() -> None:
    layer = mx.LazyMixtureNorm2d().eval()
    x = torch.randn(4, 6, 3, 3)
    assert torch.equal(layer(x), mx.MixtureNorm2d(6).eval()(x))
    assert layer.num_batches_tracked == 0


def test_first_input_that_does_not_fit() -> None:
    layer = mx.LazyMixtureNorm2d(groups=4)
    for x, message in (
        (torch.randn(4), "input has shape"),
        (torch.randn(4, 6, 3, 3), "groups=4: expected a divisor of the 6 channels"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(x)
        assert type(layer) is mx.LazyMixtureNorm2d
        assert layer.has_uninitialized_params()
    assert layer(torch.randn(4, 8, 3, 3)).shape == (4, 8, 3, 3)
    with pytest.raises(ValueError, match="got 3D input"):
        mx.LazyMixtureNorm2d()(torch.randn(4, 6, 3))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="eps=-1"):
        mx.LazyMixtureNorm2d(eps=-1)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_initialized_checkpoint_into_lazy_layer(options: Any) -> None:
    source = mx.MixtureNorm2d(6, **options)
    x = torch.randn(8, 6, 3, 3, dtype=options.get("dtype")) + 3
    source(x)
    layer = mx.LazyMixtureNorm2d(**options)
    layer.load_state_dict(source.state_dict())
    assert not layer.has_uninitialized_params()
    for norm in (source, layer):
        torch.manual_seed(4)
        norm.y = norm(x + 1)
    # A tracked checkpoint is not seeded over: the second step is the same on both.
    assert torch.equal(layer.y, source.y)
    assert type(layer) is mx.MixtureNorm2d
    assert layer.num_features == 6
    for name, value in source.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_uninitialized_checkpoints(options: Any) -> None:
    source, layer = (mx.LazyMixtureNorm2d(**options) for _ in range(2))
    layer.load_state_dict(source.state_dict())
    assert layer.has_uninitialized_params() == source.has_uninitialized_params()
    x = torch.randn(4, 6, 3, 3, dtype=options.get("dtype"))
    assert layer(x).shape == x.shape
    assert type(layer) is mx.MixtureNorm2d


def test_uninitialized_checkpoint_into_initialized_layer() -> None:
    with pytest.raises(RuntimeError, match="uninitialized"):
        mx.MixtureNorm2d(6).load_state_dict(mx.LazyMixtureNorm2d().state_dict())


def test_batch_norm_checkpoint_into_lazy_layer() -> None:
    """Shapes come from the checkpoint, which fits K = 1 alone and lacks mixing weights."""
    with pytest.raises(RuntimeError, match="running_weight"):
        mx.LazyMixtureNorm2d().load_state_dict(nn.BatchNorm2d(6).state_dict())


def test_pickle_of_uninitialized_layer() -> None:
    layer = pickle.loads(pickle.dumps(mx.LazyMixtureNorm2d(num_components=2)))
    assert layer.has_uninitialized_params()
    layer(torch.randn(4, 6, 3, 3))
    assert type(layer) is mx.MixtureNorm2d
    assert layer.running_mean.shape == (2, 6)


def test_pickle_and_deepcopy_of_initialized_layer() -> None:
    layer = mx.LazyMixtureNorm2d()
    x = torch.randn(4, 6, 3, 3)
    layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin.eval()(x), layer.eval()(x))


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.double, torch.float])
def test_casts_before_the_first_input(dtype: torch.dtype) -> None:
    layer = mx.LazyMixtureNorm2d().to(dtype)
    y = layer(torch.randn(8, 6, 3, 3).to(dtype))
    assert y.dtype == layer.weight.dtype == dtype
    statistics = torch.float64 if dtype == torch.float64 else torch.float32
    assert layer.running_mean.dtype == layer.running_weight.dtype == statistics


def test_in_a_network() -> None:
    net = nn.Sequential(nn.LazyConv2d(6, 3), mx.LazyMixtureNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    net(torch.randn(4, 3, 6, 6))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net[1].weight.detach().clone()
    net(torch.randn(4, 3, 6, 6)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, net[1].weight)
