"""What the layers accept and refuse: ranks, sizes, dtypes, memory formats, strides."""

import copy
import itertools

import pytest
import torch
from torch import nn

import mixnorm_cuda as mx
from tests.support import assert_close

LAYERS = {
    1: (nn.BatchNorm1d, mx.MixtureNorm1d),
    2: (nn.BatchNorm2d, mx.MixtureNorm2d),
    3: (nn.BatchNorm3d, mx.MixtureNorm3d),
}
SHAPES = {2: (6, 4), 3: (6, 4, 5), 4: (6, 4, 5, 3), 5: (3, 4, 2, 3, 4), 6: (2, 4, 2, 2, 2, 2)}


def state(layer: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(layer.state_dict())


def unchanged(layer: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = layer.state_dict()
    return all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize(("dims", "rank"), list(itertools.product((1, 2, 3), SHAPES)))
def test_ranks_are_those_of_batch_norm(dims: int, rank: int, components: int) -> None:
    batch_norm, mixture_norm = LAYERS[dims]
    layer = mixture_norm(4, num_components=components)
    before = state(layer)
    x = torch.randn(SHAPES[rank])
    try:
        batch_norm(4)(x)
    except ValueError:
        with pytest.raises(ValueError, match=rf"got {rank}D input"):
            layer(x)
        assert unchanged(layer, before)
    else:
        assert layer(x).shape == x.shape
        assert not unchanged(layer, before)


@pytest.mark.parametrize("rank", SHAPES)
def test_sync_layer_takes_any_rank(rank: int) -> None:
    x = torch.randn(SHAPES[rank])
    y = mx.SyncMixtureNorm(4, num_components=1)(x)
    assert_close(y, nn.SyncBatchNorm(4).to("cpu").eval()(y), 1e-4)
    mean, var = y.transpose(0, 1).flatten(1).mean(1), y.transpose(0, 1).flatten(1).var(1)
    assert mean.abs().max() < 1e-5
    assert var.min() > 0.9


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.randn(4), ValueError, r"input has shape \(4,\)"),
        (torch.randn(6, 5, 2, 2), ValueError, r"5 channels: expected num_features=4"),
        (torch.ones(6, 4, 2, 2, dtype=torch.long), TypeError, "input has dtype torch.int64"),
        (torch.randn(6, 4, 2, 2, dtype=torch.cfloat), TypeError, "torch.complex64"),
        (torch.randn(6, 4, 2, 2, dtype=torch.double), TypeError, "running_weight has dtype"),
        (torch.empty(6, 4, 2, 2, device="meta"), ValueError, "running_weight is on device cpu"),
    ],
    ids=["rank", "channels", "integer", "complex", "double", "device"],
)
def test_unfit_input(
    x: torch.Tensor, error: type[Exception], message: str, training: bool, components: int
) -> None:
    layer = mx.MixtureNorm2d(4, num_components=components).train(training)
    before = state(layer)
    with pytest.raises(error, match=message):
        layer(x)
    assert unchanged(layer, before)
    # Nor has the failed step taken the place of the first batch, which seeds the mixture.
    layer.train()(torch.randn(6, 4, 2, 2) + 3)
    assert layer.running_mean.mean() > 0.2


@pytest.mark.parametrize("option", ["weight", "bias"])
def test_unfit_parameter(option: str) -> None:
    layer = mx.MixtureNorm2d(4)
    before = state(layer)
    parameter = getattr(layer, option)
    for value, error, message in (
        (torch.ones(5), ValueError, rf"{option} has shape \(5,\): expected \[4\]"),
        (torch.ones(4, dtype=torch.half), TypeError, f"{option} has dtype torch.float16"),
        (torch.ones(4, device="meta"), ValueError, f"{option} is on device meta"),
    ):
        setattr(layer, option, nn.Parameter(value))
        with pytest.raises(error, match=message):
            layer(torch.randn(6, 4, 2, 2))
    setattr(layer, option, parameter)
    assert unchanged(layer, before)


@pytest.mark.parametrize("options", [{"num_components": 1}, {}, {"estimator": "batch"},
    {"component_affine": True, "affine_init": "batchnorm"}], ids=str)  # fmt: skip
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_one_value_per_channel(dims: int, options: dict) -> None:
    layer = LAYERS[dims][1](4, **options)
    before, generator = state(layer), torch.get_rng_state()
    x = torch.ones(1, 4, *[1] * (dims if dims > 1 else 0))
    with pytest.raises(ValueError, match="more than 1 value per channel in training"):
        layer(x)
    assert unchanged(layer, before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert layer.eval()(x).shape == x.shape
    # Without running statistics eval needs a batch as well.
    layer = LAYERS[dims][1](4, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(x)


@pytest.mark.parametrize("shape", [(0, 4, 5, 3), (2, 4, 0, 3)])
@pytest.mark.parametrize("tracking", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{"num_components": 1}, {}, {"estimator": "batch"},
    {"component_affine": True, "groups": 2}, {"momentum": None}], ids=str)  # fmt: skip
def test_empty_batch(shape: tuple[int, ...], tracking: bool, training: bool, options: dict) -> None:
    layer = mx.MixtureNorm2d(4, track_running_stats=tracking, **options).train(training)
    before = state(layer)
    x = torch.randn(shape, requires_grad=True)
    y = layer(x)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape
    for parameter in layer.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert unchanged(layer, before)
    # The next batch is still the first one.
    layer.train()(torch.randn(8, 4, 5, 3) + 10)
    if tracking and layer.num_components > 1:
        assert (layer.running_mean.mean(1) - 10).abs().max() < 3


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize(
    ("layer", "shape", "layout"),
    [
        (mx.MixtureNorm2d, (4, 6, 5, 3), torch.channels_last),
        (mx.MixtureNorm3d, (3, 6, 2, 3, 4), torch.channels_last_3d),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_format_is_kept(layer, shape, layout, components, dtype, device) -> None:
    """PyTorch's nhwc test: output and gradient in the input's format, the same numbers."""
    norm = layer(6, num_components=components).to(device)
    x = torch.randn(shape, device=device).to(dtype)
    dy = torch.randn_like(x)
    if components > 1:
        norm(x)
    results = []
    for last in (False, True):
        form = layout if last else torch.contiguous_format
        twin = copy.deepcopy(norm)
        leaf = x.contiguous(memory_format=form).requires_grad_()
        for training in (True, False):
            y = twin.train(training)(leaf)
            (dx,) = torch.autograd.grad(y, leaf, dy.contiguous(memory_format=form))
            assert y.is_contiguous(memory_format=form)
            assert dx.is_contiguous(memory_format=form)
            assert (y.dtype, dx.dtype) == (dtype, dtype)
            results.append((y, dx))
    tolerance = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    for plain, last in zip(results[:2], results[2:], strict=True):
        assert_close(last[0], plain[0], tolerance)
        assert_close(last[1], plain[1], tolerance)


def test_two_and_three_dimensional_input_of_the_1d_layer() -> None:
    """[N·L, C] and [N, C, L] are the same positions."""
    layer = mx.MixtureNorm1d(4, dtype=torch.float64)
    x = torch.randn(6, 4, 5, dtype=torch.float64)
    layer(x)
    twin = copy.deepcopy(layer)
    rows = layer(x.transpose(1, 2).reshape(-1, 4))
    assert_close(rows.view(6, 5, 4).transpose(1, 2), twin(x), 1e-13)
    assert_close(layer.running_var, twin.running_var, 1e-13)


@pytest.mark.parametrize("estimator", ["online", "batch"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_input_of_several_components(estimator, dtype, device) -> None:
    """Half input with float32 parameters: the float32 result on the same input, rounded once."""
    layer = mx.MixtureNorm2d(4, estimator=estimator).to(device)
    x = torch.randn(8, 4, 6, 6, device=device).to(dtype)
    x[:4] += 4
    layer(x.float())
    twin = copy.deepcopy(layer)
    leaf, exact = x.clone().requires_grad_(), x.float().requires_grad_()
    torch.manual_seed(1)
    y = layer(leaf)
    torch.manual_seed(1)
    expected = twin(exact)
    dy = torch.randn_like(x)
    actual = torch.autograd.grad(y, (leaf, layer.weight), dy)
    wanted = torch.autograd.grad(expected, (exact, twin.weight), dy.float())
    assert (y.dtype, actual[0].dtype, actual[1].dtype) == (dtype, dtype, torch.float32)
    assert_close(y, expected, torch.finfo(dtype).eps)
    assert_close(actual[0], wanted[0], 4 * torch.finfo(dtype).eps)
    assert_close(actual[1], wanted[1], 1e-5)
    assert_close(layer.running_mean, twin.running_mean, 1e-6)
    assert_close(layer.eval()(x), twin.eval()(x.float()), torch.finfo(dtype).eps)


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
@pytest.mark.parametrize("components", [1, 3])
def test_half_layer_keeps_float_statistics(cast: str, components: int) -> None:
    layer = mx.MixtureNorm2d(4, num_components=components)
    x = torch.randn(8, 4, 6, 6) + 2
    layer(x)
    statistics = state(layer)
    getattr(layer, cast)()
    dtype = getattr(torch, cast if cast == "bfloat16" else "float16")
    assert layer.weight.dtype == layer.bias.dtype == dtype
    for name in ("running_weight", "running_mean", "running_var"):
        assert getattr(layer, name).dtype == torch.float32
        assert torch.equal(getattr(layer, name), statistics[name])
    assert layer.num_batches_tracked.dtype == torch.long
    y = layer(x.to(dtype))
    y.sum().backward()
    assert y.dtype == layer.weight.grad.dtype == dtype
    assert layer.eval()(x.to(dtype)).dtype == dtype
    with pytest.raises(TypeError, match="weight has dtype"):
        layer(x)


def test_casts_between_precisions() -> None:
    layer = mx.MixtureNorm2d(4).double()
    assert layer.running_mean.dtype == torch.float64
    layer(torch.randn(8, 4, 6, 6, dtype=torch.float64))
    layer.half()
    assert layer.running_mean.dtype == torch.float32
    assert layer(torch.randn(8, 4, 6, 6, dtype=torch.half)).dtype == torch.half
    layer.float()
    assert layer.running_mean.dtype == layer.weight.dtype == torch.float32
    assert layer(torch.randn(8, 4, 6, 6)).dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "statistics"),
    [
        (None, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtype_argument(dtype: torch.dtype | None, statistics: torch.dtype) -> None:
    layer = mx.MixtureNorm2d(4, dtype=dtype)
    assert layer.weight.dtype == layer.bias.dtype == (dtype or torch.float32)
    assert {getattr(layer, f"running_{n}").dtype for n in ("weight", "mean", "var")} == {statistics}
    assert layer(torch.randn(8, 4, 6, 6).to(layer.weight.dtype)).dtype == layer.weight.dtype


def test_default_dtype() -> None:
    try:
        torch.set_default_dtype(torch.float64)
        layer = mx.MixtureNorm2d(4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert layer.weight.dtype == layer.running_var.dtype == torch.float64


def test_autocast() -> None:
    """A convolution under autocast hands bfloat16 to the layer, whose parameters are float32."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), mx.MixtureNorm2d(4), nn.Conv2d(4, 2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        y = net(torch.randn(6, 3, 9, 9))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert net[1].weight.grad.dtype == torch.float32
    assert net[1].running_mean.dtype == torch.float32


@pytest.mark.parametrize("components", [1, 3])
def test_input_is_left_alone(components: int) -> None:
    layer = mx.MixtureNorm2d(4, num_components=components, component_affine=True)
    x = torch.randn(6, 4, 5, 3)
    before = x.clone()
    for training in (True, False):
        layer.train(training)(x)
    assert torch.equal(x, before)


def test_frozen_parameters_and_input() -> None:
    """Gradients go only where they are asked for, and to x alone when nothing is learned."""
    layer = mx.MixtureNorm2d(4)
    x = torch.randn(6, 4, 5, 3)
    for frozen in ("weight", "bias"):
        layer.requires_grad_(True).zero_grad()
        getattr(layer, frozen).requires_grad_(False)
        layer(x).sum().backward()
        assert getattr(layer, frozen).grad is None
        other = layer.bias if frozen == "weight" else layer.weight
        assert other.grad is not None
    layer.requires_grad_(False)
    assert not layer(x).requires_grad
    leaf = x.requires_grad_()
    (dx,) = torch.autograd.grad(layer(leaf), leaf, torch.randn_like(x))
    assert dx.abs().sum() > 0
    with torch.no_grad():
        assert not layer.requires_grad_(True)(leaf).requires_grad


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_an_in_place_operation_may_follow(backend, training, memory_format):
    layer = mx.MixtureNorm2d(4, backend=backend).train(training)
    x = torch.randn(3, 4, 2, 2).contiguous(memory_format=memory_format)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    torch.manual_seed(0)
    expected = torch.relu(layer(leaves[0]))
    expected.square().sum().backward()
    layer.reset_running_stats()
    torch.manual_seed(0)
    y = torch.relu_(layer(leaves[1]))
    y.square().sum().backward()
    assert_close(y.detach(), expected.detach(), 1e-6)
    assert_close(leaves[1].grad, leaves[0].grad, 1e-6)
