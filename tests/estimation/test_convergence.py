"""The online estimator recovers a planted mixture."""

import torch

from mixnorm_cuda.estimation import seed_mixture
from mixnorm_cuda.functional import mixture_norm
from mixnorm_cuda.types import Mixture
from tests.support import EPS, Target

MOMENTUM, BATCH, STEPS = 0.1, 1000, 120
PLANTED = Mixture(
    torch.tensor([[0.2, 0.3, 0.5]]).double(),
    torch.tensor([[0.0, 0.0, 5.0, 5.0], [15.0, 5.0, 5.0, -5.0], [-5.0, 15.0, -5.0, 10.0]]).double(),
    torch.tensor([[0.5, 1.0, 2.0, 1.0], [1.0, 1.0, 0.5, 2.0], [2.0, 0.25, 1.0, 1.0]]).double(),
)


def draw() -> torch.Tensor:
    component = torch.multinomial(PLANTED.mixing_weight[0], BATCH, replacement=True)
    noise = torch.randn(BATCH, 4, dtype=torch.float64)
    return PLANTED.mean[component] + noise * PLANTED.var[component].sqrt()


def displaced() -> Mixture:
    """Each mean two deviations away, variances four times too large, equal weights."""
    sign = torch.randn(3, 4, dtype=torch.float64).sign()
    return Mixture(
        torch.full((1, 3), 1 / 3, dtype=torch.float64),
        PLANTED.mean + 2 * sign * PLANTED.var.sqrt(),
        4 * PLANTED.var,
    )


def test_from_a_displaced_start(target: Target, seed: int):
    check_recovery(target, displaced())


def test_from_seeding(target: Target):
    """One seed: k-means++ puts two centres into one cluster now and then, and EM keeps them."""
    check_recovery(target, seed_mixture(draw(), 3, 1, EPS))


def check_recovery(target: Target, running: Mixture) -> None:
    """Within five standard errors of an exponential average of batch estimates.

    Components are eight deviations and more apart, so a batch's estimates are those of labelled
    samples: variances λ(1−λ)/M, σ²/(λM) and 2σ⁴/(λM), each times f/(2−f) after averaging. What is
    left of the start, (1−f)^120 = 3e-6 of it, is far below.
    """
    running = Mixture(*(t.to(target.device) for t in running))
    target.require(draw().to(target.device), 3)
    for _ in range(STEPS):
        x = draw().to(target.device)
        mixture_norm(x, *running, training=True, momentum=MOMENTUM, backend=target.backend)

    running = Mixture(*(t.cpu() for t in running))
    order = torch.cdist(PLANTED.mean, running.mean).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    averaging = MOMENTUM / (2 - MOMENTUM)
    weight, mean, var = PLANTED
    per_component = averaging / (weight.T * BATCH)
    for found, planted, variance in (
        (running.mixing_weight[:, order], weight, averaging * weight * (1 - weight) / BATCH),
        (running.mean[order], mean, var * per_component),
        (running.var[order], var, 2 * var**2 * per_component),
    ):
        assert ((found - planted).abs() / variance.sqrt()).max() < 5
