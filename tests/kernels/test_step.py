"""A layer's training step as one operator: forward and update_running one after the other."""

import math

import pytest
import torch
from torch import Tensor

from mixnorm_cuda import MixtureNorm2d
from mixnorm_cuda.kernels.native import ops
from mixnorm_cuda.types import BatchMoments, Mixture, Step
from tests.kernels.operators import EPS, Problem
from tests.support import Target


def in_parts(
    p: Problem, running: Mixture, tracked: Tensor, options: Step
) -> tuple[Tensor, BatchMoments, tuple[Tensor, ...]]:
    """The same by the operators one after the other: y, moments and gradients."""
    out = ops.forward(
        p.x, running, p.weight, p.bias, eps=EPS, em_iters=options.em_iters,
        mixing_scale=options.mixing_scale, emulated=p.emulated,
    )  # fmt: skip
    grads = ops.backward(
        p.dy, p.x, out.responsibilities, out.moments, out.mixture, p.weight, p.bias, eps=EPS,
        mixing_scale=options.mixing_scale, responsibility_grad=options.responsibility_grad,
        mixture_grad=False, emulated=p.emulated,
    )  # fmt: skip
    count = p.x.numel() // p.x.shape[1]
    factor = 1 / (tracked + 1).double() if options.momentum is None else options.momentum
    tracked += ops.update_running(running, out.moments, count, factor, emulated=p.emulated)
    return out.y, out.moments, (grads.x, grads.weight, grads.bias)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("components", "groups", "momentum", "em_iters", "affine"),
    [(1, 1, 0.1, 0, True), (3, 1, None, 0, True), (3, 4, 0.3, 1, False), (5, 12, 0.1, 2, True)],
)
def test_equals_the_operators_one_after_the_other(
    native_target: Target,
    components: int,
    groups: int,
    momentum: float | None,
    em_iters: int,
    affine: bool,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    device, emulated = native_target.device, native_target.backend == "emulated"
    p = Problem(
        (5, 12, 7, 3), components, groups, dtype, channels_last,
        affine=affine, device=device, emulated=emulated,
    )  # fmt: skip
    options = Step(momentum, EPS, em_iters, mixing_scale=True, responsibility_grad=True)
    wanted_running, wanted_tracked = (
        Mixture(*(t.clone() for t in p.mixture)),
        torch.tensor(3, device=device),
    )
    running, tracked = Mixture(*(t.clone() for t in p.mixture)), wanted_tracked.clone()
    y, _, gradients = in_parts(p, wanted_running, wanted_tracked, options)
    stepped = ops.step(p.x, running, tracked, p.weight, p.bias, options, emulated=emulated)
    found = ops.step_backward(
        p.dy, p.x, stepped.state, stepped.responsibilities, p.weight, p.bias, components, groups,
        options, emulated=emulated,
    )  # fmt: skip
    assert torch.equal(stepped.y, y)
    assert stepped.y.stride() == p.x.stride()
    assert int(tracked) == int(wanted_tracked) == 4
    for moved, wanted, before in zip(running, wanted_running, p.mixture, strict=True):
        assert torch.equal(moved, wanted)
        assert components == 1 or not torch.equal(moved, before)
    for gradient, wanted in zip(found[:3], gradients, strict=True):
        assert torch.equal(gradient, wanted)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_moves_nothing(native_target: Target, value: float) -> None:
    emulated = native_target.backend == "emulated"
    p = Problem((4, 6, 3, 3), device=native_target.device, emulated=emulated)
    p.x[1, 2, 0, 0] = value
    before, tracked = Mixture(*(t.clone() for t in p.mixture)), torch.tensor(3, device=p.x.device)
    options = Step(0.1, EPS, 0, mixing_scale=True, responsibility_grad=True)
    stepped = ops.step(p.x, p.mixture, tracked, None, None, options, emulated=emulated)
    assert not stepped.y.isfinite().all()
    assert int(tracked) == 3
    for kept, wanted in zip(p.mixture, before, strict=True):
        assert torch.equal(kept, wanted)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_layer_steps_as_with_the_reference(native_target: Target, momentum: float | None) -> None:
    options = {"num_components": 3, "groups": 2, "momentum": momentum, "dtype": torch.float64}
    device = native_target.device
    layers = [
        MixtureNorm2d(6, backend=name, device=device, **options)
        for name in (native_target.backend, "reference")
    ]
    results: list[list[Tensor]] = [[], []]
    for step in range(4):
        torch.manual_seed(step)
        x = torch.randn(5, 6, 4, 4, dtype=torch.float64, device=device) + step
        dy = torch.randn_like(x)
        for layer, found in zip(layers, results, strict=True):
            torch.manual_seed(step)
            leaf = x.clone().requires_grad_()
            y = layer(leaf)
            y.backward(dy)
            found += [y.detach(), leaf.grad, *(b.clone() for b in layer.buffers())]
    for layer, found in zip(layers, results, strict=True):
        found += [p.grad for p in layer.parameters()]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("groups", [1, 2])
def test_second_derivatives_of_a_step(native_target: Target, groups: int) -> None:
    torch.manual_seed(0)
    backend, device = native_target
    layer = MixtureNorm2d(
        4, num_components=2, groups=groups, component_affine=True, backend=backend,
        dtype=torch.float64, device=device,
    )  # fmt: skip
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64, device=device)
    layer(x)
    state = {name: buffer.clone() for name, buffer in layer.named_buffers()}

    def step(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.no_grad():
            for name, buffer in layer.named_buffers():
                buffer.copy_(state[name])
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    leaves = (x, layer.weight.detach().clone(), layer.bias.detach().clone())
    assert torch.autograd.gradgradcheck(step, [t.requires_grad_() for t in leaves])
    assert step(*leaves).grad_fn.name() == "StepFunctionBackward"


@pytest.mark.parametrize(
    ("name", "value", "exception", "message"),
    [
        ("weight", torch.ones(7), ValueError, r"weight has shape \(7,\): expected \[6\]"),
        ("bias", torch.ones(6).half(), TypeError, "bias has dtype torch.float16: expected"),
        ("running_mean", torch.ones(3, 5), ValueError, "running_mean has shape"),
        ("running_var", torch.ones(3, 6).double(), TypeError, "running_var has dtype"),
        ("running_weight", torch.ones(4, 3), ValueError, "groups=4: expected a divisor"),
    ],
)
def test_what_the_operator_refuses_is_said_in_the_layers_words(
    native_target: Target,
    name: str,
    value: Tensor,
    exception: type[Exception],
    message: str,
) -> None:
    backend, device = native_target
    layer, x = MixtureNorm2d(6, backend=backend).to(device), torch.randn(4, 6, 3, 3, device=device)
    layer(x)
    value = value.to(device)
    if name in ("weight", "bias"):
        value = torch.nn.Parameter(value)
    setattr(layer, name, value)
    before = [buffer.clone() for buffer in layer.buffers()]
    with pytest.raises(exception, match=message):
        layer(x)
    for found, wanted in zip(layer.buffers(), before, strict=True):
        assert torch.equal(found, wanted)


def test_a_parametrized_weight_is_used() -> None:
    layer, x = MixtureNorm2d(6), torch.randn(4, 6, 3, 3)
    layer(x)
    twice = MixtureNorm2d(6)
    twice.load_state_dict(layer.state_dict())

    class Twice(torch.nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    torch.nn.utils.parametrize.register_parametrization(twice, "weight", Twice())
    torch.testing.assert_close(twice(x), 2 * layer(x))
