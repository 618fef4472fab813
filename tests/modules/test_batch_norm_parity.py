"""With one component the layers are nn.BatchNorm: outputs, gradients and buffers over a run."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cross_entropy

import mixnorm_cuda as mx
from tests.modules.batch_norms import make_batch_norm
from tests.support import assert_close

PAIRS = {
    1: (nn.BatchNorm1d, mx.MixtureNorm1d),
    2: (nn.BatchNorm2d, mx.MixtureNorm2d),
    3: (nn.BatchNorm3d, mx.MixtureNorm3d),
}
SHAPES = [(1, (16, 6)), (1, (8, 6, 5)), (2, (4, 6, 5, 3)), (3, (3, 6, 2, 3, 4))]
# Both sum in the same precision in another order: a few roundings per reduction of 10^2 terms.
OUTPUT_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}
GRADIENT_TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-13}
OPTIONS = [
    {},
    {"momentum": None},
    {"momentum": 0.0},
    {"momentum": 1.0},
    {"eps": 0.1},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False, "momentum": None},
]


def pair(dims: int, channels: int, **options: Any) -> tuple[nn.Module, nn.Module]:
    """A BatchNorm and the mixture layer of one component, with the same random parameters."""
    batch_norm, mixture_norm = PAIRS[dims]
    bn = make_batch_norm(batch_norm, channels, **options)
    mn = mixture_norm(channels, num_components=1, **options)
    with torch.no_grad():
        for name, parameter in bn.named_parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.5)
            getattr(mn, name).copy_(parameter)
    return bn, mn


def draw(shape: tuple[int, ...], dtype: torch.dtype, device: str, step: int = 0) -> Tensor:
    """Channels of different means and scales, drifting with the step."""
    x = torch.randn(shape, dtype=torch.float64) * (1 + step)
    channel = torch.arange(shape[1], dtype=torch.float64).view(1, -1, *[1] * (len(shape) - 2))
    return (x * (0.5 + channel) + 2 * channel - step).to(device, dtype)


def assert_same_buffers(mn: nn.Module, bn: nn.Module, tolerance: float) -> None:
    if bn.running_mean is None:
        assert all(buffer is None for buffer in mn._buffers.values())
        return
    assert_close(mn.running_mean[0], bn.running_mean, tolerance)
    assert_close(mn.running_var[0], bn.running_var, tolerance)
    assert mn.num_batches_tracked.item() == bn.num_batches_tracked.item()
    assert mn.num_batches_tracked.dtype == bn.num_batches_tracked.dtype
    assert (mn.running_weight == 1).all()


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items())
)
@pytest.mark.parametrize(("dims", "shape"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_run(
    dims: int, shape: tuple[int, ...], dtype: torch.dtype, options: dict[str, Any], device: str
) -> None:
    bn, mn = (m.to(device) for m in pair(dims, shape[1], dtype=dtype, **options))
    for step in range(4):
        x = draw(shape, dtype, device, step)
        dy = torch.randn_like(x)
        inputs, outputs = [], []
        for layer in (bn, mn):
            inputs.append(x.clone().requires_grad_())
            outputs.append(layer(inputs[-1]))
            layer.zero_grad()
            outputs[-1].backward(dy)
        assert_close(outputs[1], outputs[0], OUTPUT_TOLERANCE[dtype])
        assert_close(inputs[1].grad, inputs[0].grad, GRADIENT_TOLERANCE[dtype])
        for name, parameter in bn.named_parameters():
            ours = getattr(mn, name)
            assert_close(ours.grad, parameter.grad, GRADIENT_TOLERANCE[dtype])
            with torch.no_grad():
                parameter -= 0.05 * parameter.grad
                ours.copy_(parameter)
        assert_same_buffers(mn, bn, OUTPUT_TOLERANCE[dtype])
    bn.eval(), mn.eval()
    x = draw(shape, dtype, device, 4).requires_grad_()
    expected, actual = bn(x), mn(x)
    dy = torch.randn_like(x)
    assert_close(actual, expected, OUTPUT_TOLERANCE[dtype])
    for ours, theirs in zip(
        torch.autograd.grad(actual, (x, *mn.parameters()), dy),
        torch.autograd.grad(expected, (x, *bn.parameters()), dy),
        strict=True,
    ):
        assert_close(ours, theirs, GRADIENT_TOLERANCE[dtype])
    assert_same_buffers(mn, bn, OUTPUT_TOLERANCE[dtype])


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 3},
        {"groups": 6},
        {"estimator": "batch"},
        {"em_iters": 3},
        {"mixing_scale": False},
        {"responsibility_grad": False},
        {"component_affine": True},
    ],
)
def test_options_without_effect_at_one_component(options: dict[str, Any]) -> None:
    plain = mx.MixtureNorm2d(6, num_components=1, dtype=torch.float64)
    other = mx.MixtureNorm2d(6, num_components=1, dtype=torch.float64, **options)
    for step in range(3):
        x = draw((4, 6, 5, 3), torch.float64, "cpu", step)
        gradients = []
        for layer in (plain, other):
            y = layer(x.requires_grad_())
            (dx,) = torch.autograd.grad(y, x, torch.cos(x))
            gradients.append((y, dx))
        assert_close(gradients[1][0], gradients[0][0], 1e-14)
        assert_close(gradients[1][1], gradients[0][1], 1e-13)
    assert_close(other.running_var, plain.running_var, 1e-14)


@pytest.mark.parametrize("training", [True, False])
def test_channels_last_matches_batch_norm(training: bool, device: str) -> None:
    bn, mn = (m.to(device).train(training) for m in pair(2, 6))
    layout = {"memory_format": torch.channels_last}
    x = draw((4, 6, 5, 3), torch.float32, device).contiguous(**layout).requires_grad_()
    dy = torch.randn_like(x).contiguous(**layout)
    expected, actual = bn(x), mn(x)
    assert_close(actual, expected, 1e-6)
    (dx,) = torch.autograd.grad(actual, x, dy)
    assert dx.is_contiguous(**layout)
    assert_close(dx, torch.autograd.grad(expected, x, dy)[0], 5e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_half_input_with_float_parameters(dtype: torch.dtype, training: bool, device: str) -> None:
    """As BatchNorm does: statistics and parameters in float32, output in the input's dtype."""
    bn, mn = (m.to(device).train(training) for m in pair(2, 6))
    # In the range of half precision, where PyTorch's own test looks for overflow of sums.
    x = (draw((8, 6, 7, 3), torch.float32, device) * 100).to(dtype).requires_grad_()
    y = mn(x)
    (dx, dweight, dbias) = torch.autograd.grad(y, (x, mn.weight, mn.bias), torch.ones_like(x))
    assert (y.dtype, dx.dtype, dweight.dtype, dbias.dtype) == (dtype, dtype, *2 * [torch.float32])
    # BatchNorm in float32 on the same rounded input, so only the output's rounding differs.
    expected = bn(x.detach().float())
    assert_close(y, expected, torch.finfo(dtype).eps)
    assert_close(mn.running_mean[0], bn.running_mean, 1e-6)
    assert_close(mn.running_var[0], bn.running_var, 1e-6)
    assert mn.running_mean.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_half_input(dtype: torch.dtype, device: str) -> None:
    bn, mn = (m.to(device) for m in pair(2, 6))
    x = draw((8, 6, 7, 3), torch.float32, device).to(dtype).requires_grad_()
    exact = x.detach().float().requires_grad_()
    dy = torch.randn_like(x)
    ours = torch.autograd.grad(mn(x), (x, mn.weight, mn.bias), dy)
    theirs = torch.autograd.grad(bn(exact), (exact, bn.weight, bn.bias), dy.float())
    assert_close(ours[0], theirs[0], torch.finfo(dtype).eps)
    assert_close(ours[1], theirs[1], 1e-5)
    assert_close(ours[2], theirs[2], 1e-5)


def test_gradient_of_other_strides() -> None:
    """The gradient reaches the layer expanded, transposed or with gaps, as from real networks."""
    bn, mn = pair(2, 6, dtype=torch.float64)
    x = draw((4, 6, 5, 3), torch.float64, "cpu")
    wide = torch.randn(4, 6, 5, 6, dtype=torch.float64)
    for dy in (
        torch.randn(4, 6, 1, 1, dtype=torch.float64).expand(4, 6, 5, 3),
        torch.randn(3, 5, 6, 4, dtype=torch.float64).permute(3, 2, 1, 0),
        wide[..., ::2],
        torch.ones((), dtype=torch.float64).expand(4, 6, 5, 3),
    ):
        assert not dy.is_contiguous()
        gradients = []
        for layer in (bn, mn):
            leaf = x.clone().requires_grad_()
            y = layer(leaf)
            gradients.append(torch.autograd.grad(y, (leaf, layer.weight, layer.bias), dy))
        for ours, theirs in zip(*gradients[::-1], strict=True):
            # The gradient of a constant dy is zero up to rounding of terms of the size of 1.
            assert (ours - theirs).abs().max() <= 1e-13


def test_input_of_other_strides() -> None:
    bn, mn = pair(2, 6, dtype=torch.float64)
    base = draw((4, 12, 7, 6), torch.float64, "cpu")
    for x in (
        base[:, ::2, 1:6, ::2],
        base.permute(0, 1, 3, 2)[:, :6],
        base[:, 3:9].expand(4, 6, 7, 6),
    ):
        leaf = x.detach().clone().requires_grad_()
        strided = x.detach().requires_grad_()
        assert not strided.is_contiguous()
        expected, actual = bn(leaf), mn(strided)
        assert_close(actual, expected, 1e-14)
        dy = torch.cos(x)
        ours, theirs = (
            torch.autograd.grad(actual, strided, dy),
            torch.autograd.grad(expected, leaf, dy),
        )
        assert_close(ours[0], theirs[0], 1e-13)


def test_large_mean() -> None:
    """|mean|/std = 1e4: within 4 times BatchNorm's own error against float64."""
    bn, mn = pair(2, 6)
    x = torch.randn(16, 6, 8, 8) + 1e4
    exact = copy.deepcopy(bn).double()(x.double())
    error = (bn(x).double() - exact).norm()
    assert (mn(x).double() - exact).norm() <= 4 * error + 1e-6 * exact.norm()
    assert_close(mn.running_var[0], bn.running_var, 1e-5)


def test_switching_between_train_and_eval() -> None:
    bn, mn = pair(2, 6, dtype=torch.float64)
    for step, training in enumerate([False, True, False, True, True, False]):
        bn.train(training), mn.train(training)
        x = draw((4, 6, 5, 3), torch.float64, "cpu", step)
        assert_close(mn(x), bn(x), 1e-14)
        assert_same_buffers(mn, bn, 1e-14)


def test_tracking_switched_off_after_construction() -> None:
    """BatchNorm then trains on batch statistics without touching its buffers, which eval uses."""
    bn, mn = pair(2, 6, dtype=torch.float64)
    x = draw((4, 6, 5, 3), torch.float64, "cpu")
    bn(x), mn(x)
    bn.track_running_stats = mn.track_running_stats = False
    before = copy.deepcopy(mn.state_dict())
    for step in (1, 2):
        x = draw((4, 6, 5, 3), torch.float64, "cpu", step)
        assert_close(mn(x), bn(x), 1e-14)
    assert all(torch.equal(value, before[name]) for name, value in mn.state_dict().items())
    assert_close(mn.eval()(x), bn.eval()(x), 1e-14)


def test_second_derivative() -> None:
    bn, mn = pair(2, 3, dtype=torch.float64)
    x = draw((4, 3, 2, 2), torch.float64, "cpu").requires_grad_()
    dy, direction = torch.randn_like(x), torch.randn_like(x)

    def penalty(layer: nn.Module) -> tuple[Tensor, ...]:
        (dx,) = torch.autograd.grad(layer(x), x, dy, create_graph=True)
        return torch.autograd.grad((dx * direction).sum(), (x, layer.weight))

    for ours, theirs in zip(penalty(mn), penalty(bn), strict=True):
        assert_close(ours, theirs, 1e-12)


def test_functional_counterpart() -> None:
    """`functional.mixture_norm` updates given buffers in place, as F.batch_norm."""
    x = draw((4, 6, 5, 3), torch.float64, "cpu")
    weight, bias = torch.rand(2, 6, dtype=torch.float64)
    mean, var = torch.randn(6, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    running = torch.ones(1, 1, dtype=torch.float64), mean.clone()[None], var.clone()[None]
    for training in (False, True, False):
        expected = batch_norm(x, mean, var, weight, bias, training, 0.3, 1e-3)
        actual = mx.functional.mixture_norm(x, *running, weight, bias, training, 0.3, 1e-3)
        assert_close(actual, expected, 1e-14)
        assert_close(running[1][0], mean, 1e-14)
        assert_close(running[2][0], var, 1e-14)


def test_network_learns_the_same() -> None:
    """A small network of convolutions over ten steps of SGD, BatchNorm against one component."""

    def network(norm: Any) -> nn.Sequential:
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False), norm(4),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
        ).double()  # fmt: skip

    def single(channels: int) -> nn.Module:
        return mx.MixtureNorm2d(channels, num_components=1)

    networks = [network(nn.BatchNorm2d), network(single)]
    x, labels = torch.randn(10, 16, 3, 9, 9).double(), torch.randint(5, (10, 16))
    for net in networks:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        for step in range(10):
            optimizer.zero_grad()
            cross_entropy(net(x[step]), labels[step]).backward()
            optimizer.step()
    for theirs, ours in zip(*(net.parameters() for net in networks), strict=True):
        assert (ours - theirs).abs().max() <= 1e-11
    theirs, ours = (net.eval()(x[0]) for net in networks)
    assert_close(ours, theirs, 1e-11)
