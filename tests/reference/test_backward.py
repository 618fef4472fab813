"""The gradient formulas in their expanded form, the one that suits kernels."""

import pytest
import torch

from mixnorm_cuda import dispatch
from tests.oracle import oracle, rows
from tests.support import EPS, Target, assert_close, problem


@pytest.mark.parametrize("mixing_scale", [True, False])
@pytest.mark.parametrize("components", [1, 3])
def test_expanded_form(target: Target, components, mixing_scale):
    """With α, τ, a, b and h, one group; every sum over rows of positions."""
    p = problem((5, 4, 3), components, affine="component", device=target.device)
    target.require(p.x, components)
    backend = dispatch.BACKENDS[target.backend]
    result = backend.forward(
        p.x, p.mixture, p.weight, p.bias, eps=EPS, em_iters=0, mixing_scale=mixing_scale
    )
    dy = torch.randn_like(p.x)
    grads = backend.backward(
        dy, p.x, result.responsibilities, result.moments, result.mixture, p.weight, p.bias,
        eps=EPS, mixing_scale=mixing_scale, responsibility_grad=True, given=False,
        mixture_grad=True,
    )  # fmt: skip

    cpu = p.to("cpu")
    (lam, mu, var), gamma, beta = cpu.mixture, cpu.weight, cpu.bias
    _, nu, mass, m, q = oracle(cpu.x, lam, mu, var)
    x, dy, nu, S = rows(cpu.x), rows(dy.cpu()), nu[:, 0], mass[0][:, None]
    il = lam[0].clamp(min=1e-3)[:, None] ** -0.5 if mixing_scale else torch.ones_like(S)
    r = (q + EPS) ** -0.5
    h1 = torch.einsum("ik,ic->kc", nu, dy)
    h2 = torch.einsum("ik,ic,ikc->kc", nu, dy, x[:, None] - m)
    alpha = gamma * r * il
    tau = beta - alpha * m
    b = -0.5 * gamma * r**3 * il * h2 / S
    a = -alpha * h1 / S - 2 * b * m
    h = (alpha * m * h1 / S + b * (m**2 - q)).sum(1)
    x_k = x[:, None]
    dnu = (dy[:, None] * (alpha * x_k + tau) + x_k * (b * x_k + a)).sum(2) + h
    dl = nu * (dnu - (nu * dnu).sum(1, keepdim=True))
    precision = 1 / (var + EPS)
    dx = dy * (nu @ alpha) + nu @ a + dl @ (mu * precision)
    dx = dx + x * (2 * nu @ b - dl @ precision)
    to_mean = x_k - mu
    l0 = dl.sum(0)
    l1 = (dl[..., None] * to_mean).sum(0)
    l2 = (dl[..., None] * to_mean**2).sum(0)
    dlam = l0 / lam[0]
    if mixing_scale:
        dlam = dlam - 0.5 * (alpha * h2).sum(1) / lam[0]

    assert_close(rows(grads.x.cpu()), dx, 1e-12)
    assert_close(grads.bias, h1, 1e-12)
    assert_close(grads.weight, il * r * h2, 1e-12)
    for value, expected in zip(
        grads.mixture,
        (dlam[None], l1 * precision, 0.5 * (l2 * precision - l0[:, None]) * precision),
        strict=True,
    ):
        assert (value.cpu() - expected).abs().max() <= 1e-12 * max(1, expected.abs().max())
