"""torch.func: gradients, forward mode, vmap over samples' gradients and over an ensemble."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)

import mixnorm_cuda as mx
from tests.support import problem

OPTIONS = [{}, {"num_components": 1}, {"groups": 2}, {"component_affine": True}]
MODES = pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])


def batch(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 4, 3, generator=generator, dtype=torch.float64)


def trained(seed: int = 1, **options: Any) -> mx.MixtureNorm1d:
    torch.manual_seed(seed)
    layer = mx.MixtureNorm1d(4, dtype=torch.float64, **options)
    for i in range(2):
        layer(batch(seed + i) + torch.randint(0, 3, (6, 1, 1)))
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


def pure(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """The layer without a trace on its buffers, which a transform must not change."""

    def call(x: Tensor) -> Tensor:
        parameters, buffers = state_of(layer)
        return functional_call(layer, (parameters, buffers), (x,))

    return call


def state_of(layer: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    parameters = {name: p.detach().clone() for name, p in layer.named_parameters()}
    return parameters, {name: b.clone() for name, b in layer.named_buffers()}


@MODES
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_grad_is_autograds(options: dict[str, Any], training: bool) -> None:
    layer = trained(**options).train(training)
    parameters, buffers = state_of(layer)
    x, dy = batch(5), batch(6)

    def loss(parameters: Any, x: Tensor, buffers: Any) -> Tensor:
        return (functional_call(layer, (parameters, buffers), (x,)) * dy).sum()

    found, dx = grad(loss, argnums=(0, 1))(parameters, x, buffers)
    leaf = x.clone().requires_grad_()
    layer(leaf).backward(dy)
    torch.testing.assert_close(dx, leaf.grad)
    torch.testing.assert_close(found, {name: p.grad for name, p in layer.named_parameters()})
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(buffers[name], buffer)


@MODES
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_forward_mode_agrees_with_reverse_mode(options: dict[str, Any], training: bool) -> None:
    layer = pure(trained(**options).train(training))
    x, dx, dy = batch(5), batch(6), batch(7)
    y, dy_forward = jvp(layer, (x,), (dx,))
    y_reverse, pull = vjp(layer, x)
    torch.testing.assert_close(y, y_reverse)
    torch.testing.assert_close((dy_forward * dy).sum(), (dx * pull(dy)[0]).sum())
    with torch.autograd.forward_ad.dual_level():
        dual = layer(torch.autograd.forward_ad.make_dual(x, dx))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, dy_forward)


@MODES
def test_jacobians_and_hessians(training: bool) -> None:
    layer = pure(trained(groups=2).train(training))
    x = batch(5)[:2, :, :2]
    torch.testing.assert_close(jacfwd(layer)(x), jacrev(layer)(x))

    def loss(x: Tensor) -> Tensor:
        return layer(x).pow(3).sum()

    wanted = torch.autograd.functional.hessian(loss, x)
    torch.testing.assert_close(hessian(loss)(x), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("in_dims", [0, 1])
def test_vmap_over_independent_batches_of_one_eval_layer(in_dims: int) -> None:
    layer = trained().eval()
    x = torch.stack([batch(seed) for seed in range(3)], dim=in_dims)
    found = vmap(layer, in_dims=in_dims)(x)
    wanted = torch.stack([layer(part) for part in x.unbind(in_dims)])
    torch.testing.assert_close(found, wanted)


@MODES
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_vmap_over_an_ensemble(options: dict[str, Any], training: bool) -> None:
    layers = [trained(seed, **options).train(training) for seed in (1, 5, 9)]
    parameters, buffers = stack_module_state(layers)
    parameters = {name: p.detach() for name, p in parameters.items()}
    base, x = copy.deepcopy(layers[0]), batch(20)

    def loss(parameters: Any, buffers: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = functional_call(base, (parameters, buffers), (x,))
        return y.square().sum(), y

    gradients, y = vmap(grad(loss, has_aux=True), in_dims=(0, 0, None))(parameters, buffers, x)
    for i, layer in enumerate(layers):
        expected = layer(x)
        expected.square().sum().backward()
        torch.testing.assert_close(y[i], expected)
        for name, p in layer.named_parameters():
            torch.testing.assert_close(gradients[name][i], p.grad)
        for name, buffer in layer.named_buffers():
            torch.testing.assert_close(buffers[name][i], buffer)


def test_gradients_per_sample_in_eval() -> None:
    layer = trained().eval()
    parameters, buffers = state_of(layer)
    x = batch(5)

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(layer, (parameters, buffers), (sample[None],)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(len(x)):
        wanted = grad(loss)(parameters, x[i])
        for name in wanted:
            torch.testing.assert_close(found[name][i], wanted[name])


@pytest.mark.parametrize("em_iters", [0, 1])
def test_the_functional_form(em_iters: int) -> None:
    p = problem((6, 4, 3), 3, 2)
    theta = (*p.mixture, p.weight, p.bias)

    def f(x: Tensor) -> Tensor:
        return mx.functional.mixture_normalize(x, *theta, em_iters=em_iters)[0]

    torch.testing.assert_close(jacfwd(f)(p.x), jacrev(f)(p.x))
    stacked = torch.stack([p.x, p.x.flip(0) * 2])
    torch.testing.assert_close(vmap(f)(stacked), torch.stack([f(x) for x in stacked]))


@pytest.mark.parametrize(
    "transform",
    [
        lambda f, x: vmap(f)(torch.stack([x, x])),
        lambda f, x: grad(lambda x: f(x).sum())(x),
        lambda f, x: jvp(f, (x,), (x,)),
    ],
    ids=["vmap", "grad", "jvp"],
)
def test_a_transform_cannot_change_statistics_that_are_not_its_arguments(transform: Any) -> None:
    """PyTorch's own rule and message; nothing has changed when it is raised."""
    layer = trained()
    before = [b.clone() for b in layer.buffers()]
    with pytest.raises(RuntimeError, match=r"in-?place"):
        transform(layer, batch(0))
    for buffer, value in zip(layer.buffers(), before, strict=True):
        assert torch.equal(buffer, value)


def test_vmap_cannot_seed_without_saying_which_random_numbers() -> None:
    layer = mx.MixtureNorm1d(4, track_running_stats=False, dtype=torch.float64)
    x = torch.stack([batch(0), batch(1)])
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(layer)(x)
    y = vmap(layer, randomness="different")(x)
    assert y.isfinite().all()
    assert not torch.equal(y[0], y[1])
