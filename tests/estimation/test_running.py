"""Running statistics against the formula, in plain Python numbers."""

import itertools

import pytest
import torch
from torch import Tensor

from mixnorm_cuda.estimation import update_running_statistics
from mixnorm_cuda.types import BatchMoments, Mixture
from tests.support import Target, problem, same_bits


def update(
    target: Target, running: Mixture, batch: BatchMoments, count: int, factor: float | Tensor
) -> bool:
    """Whether the update took place; works on the target's device, in place for the caller."""
    there = Mixture(*(t.to(target.device) for t in running))
    if isinstance(factor, Tensor):
        factor = factor.to(target.device)
    finite = update_running_statistics(
        there,
        BatchMoments(*(t.to(target.device) for t in batch)),
        count,
        factor,
        target.backend,
    )
    assert finite.dim() == 0
    assert finite.device.type == target.device
    for mine, theirs in zip(running, there, strict=True):
        mine.copy_(theirs)
    return bool(finite)


def moments_of(groups: int, components: int, channels: int, count: int) -> BatchMoments:
    share = torch.rand(groups, components, dtype=torch.float64) + 0.2
    mass = share / share.sum(1, keepdim=True) * count
    mean = torch.randn(components, channels, dtype=torch.float64)
    return BatchMoments(mass, mean, torch.rand(components, channels, dtype=torch.float64))


def expected_update(running: Mixture, batch: BatchMoments, count: int, f: float) -> list[list]:
    """(λ', ρ, μ', σ²') for every component and channel."""
    channels = running.mean.shape[1]
    size = channels // running.mixing_weight.shape[0]
    rows = []
    for k, c in itertools.product(range(running.mean.shape[0]), range(channels)):
        g = c // size
        s, lam = batch.mass[g, k].item(), running.mixing_weight[g, k].item()
        new = (1 - f) * lam + f * s / count
        rho = f * s / count / new if new else 0.0
        q = batch.var[k, c].item() * (min(s / (s - 1), 2) if s > 1 else 1)
        mu, var = running.mean[k, c].item(), running.var[k, c].item()
        rows.append([new, mu + rho * (batch.mean[k, c].item() - mu), var + rho * (q - var)])
    return rows


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("components", [1, 2, 3, 5])
def test_formula(target: Target, seed: int, components, groups, factor):
    running, batch = (
        problem((2, 4), components, groups).mixture,
        moments_of(groups, components, 4, 50),
    )
    before = Mixture(*(t.clone() for t in running))
    finite = update(target, running, batch, 50, factor)
    assert finite is True
    updated = iter(expected_update(before, batch, 50, factor))
    for k, c in itertools.product(range(components), range(4)):
        weight, mean, var = next(updated)
        assert running.mixing_weight[c // (4 // groups), k].item() == pytest.approx(
            weight, rel=1e-14
        )
        assert running.mean[k, c].item() == pytest.approx(mean, rel=1e-13, abs=1e-15)
        assert running.var[k, c].item() == pytest.approx(var, rel=1e-13)


def test_mixing_weights_still_sum_to_one(target: Target):
    running = problem((2, 4), 3, 2).mixture
    for _ in range(100):
        update(target, running, moments_of(2, 3, 4, 50), 50, 0.1)
    assert (running.mixing_weight.sum(1) - 1).abs().max() < 1e-13


def test_a_component_that_saw_nothing_keeps_its_own(target: Target):
    running = problem((2, 4), 3).mixture
    before = Mixture(*(t.clone() for t in running))
    batch = moments_of(1, 3, 4, 50)
    batch.mass[0, 1] = 0
    update(target, running, batch, 50, 0.1)
    assert torch.equal(running.mean[1], before.mean[1])
    assert torch.equal(running.var[1], before.var[1])
    assert running.mixing_weight[0, 1].item() == pytest.approx(
        0.9 * before.mixing_weight[0, 1].item()
    )
    assert not torch.equal(running.mean[0], before.mean[0])


def test_a_component_of_weight_zero_takes_the_first_batch_that_it_sees(target: Target):
    running = problem((2, 4), 2).mixture
    running.mixing_weight.copy_(torch.tensor([[1.0, 0.0]]))
    batch = moments_of(1, 2, 4, 50)
    update(target, running, batch, 50, 0.1)
    assert torch.allclose(running.mean[1], batch.mean[1], rtol=1e-14)
    empty = batch._replace(mass=torch.tensor([[50.0, 0.0]], dtype=torch.float64))
    running.mixing_weight.copy_(torch.tensor([[1.0, 0.0]]))
    update(target, running, empty, 50, 0.1)
    assert all(t.isfinite().all() for t in running), "0/0 for a component that never saw anything"


def test_variance_is_unbiased_from_two_observations_and_bounded_between(target: Target):
    running = Mixture(torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1, 1))
    for mass, expected in ((0.5, 2.0), (1.0, 2.0), (1.01, 4.0), (2.0, 4.0), (5.0, 2.5)):
        running.var.fill_(1)
        batch = BatchMoments(torch.tensor([[mass]]), torch.zeros(1, 1), torch.full((1, 1), 2.0))
        update(target, running, batch, 5, 1.0)
        assert running.var.item() == pytest.approx(expected)


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_batch_that_is_not_finite_changes_nothing(target: Target, part, bad):
    running, batch = problem((2, 4), 3, 2).mixture, moments_of(2, 3, 4, 50)
    before = Mixture(*(t.clone() for t in running))
    batch[part][-1, -1] = bad
    finite = update(target, running, batch, 50, 0.1)
    assert finite is False
    assert all(map(same_bits, running, before))


def test_cumulative_average_is_the_mean_over_batches(target: Target):
    """Factor 1/n with equal masses: plain averages of the batches' moments."""
    running = problem((2, 4), 2).mixture
    batches = [moments_of(1, 2, 4, 50) for _ in range(5)]
    mass = torch.tensor([[20.0, 30.0]], dtype=torch.float64)
    for n, batch in enumerate(batches, 1):
        factor = 1 / torch.tensor(n)
        update(target, running, batch._replace(mass=mass), 50, factor.double())
    assert torch.allclose(running.mixing_weight, mass / 50, rtol=1e-13)
    mean = torch.stack([batch.mean for batch in batches]).mean(0)
    assert torch.allclose(running.mean, mean, rtol=1e-13)


def test_cumulative_average_weighs_batches_by_mass(target: Target):
    """Factor 1/n with any masses: every observation counts once, whatever its batch."""
    running = problem((2, 4), 2).mixture
    batches = [moments_of(1, 2, 4, 50) for _ in range(5)]
    for n, batch in enumerate(batches, 1):
        update(target, running, batch, 50, 1 / n)
    mass = torch.stack([batch.mass for batch in batches])
    pooled = sum(b.mass[0, :, None] * b.mean for b in batches) / mass.sum(0)[0, :, None]
    assert torch.allclose(running.mixing_weight, mass.sum(0) / 250, rtol=1e-13)
    assert torch.allclose(running.mean, pooled, rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_one_component_gives_the_buffers_of_batch_norm(target: Target, momentum):
    norm = torch.nn.BatchNorm1d(4, momentum=momentum, dtype=torch.float64)
    running = Mixture(
        *(t.double() for t in (torch.ones(1, 1), torch.zeros(1, 4), torch.ones(1, 4)))
    )
    for _ in range(5):
        x = torch.randn(9, 4, 3, dtype=torch.float64) * 2 + 1
        norm(x)
        batch = BatchMoments(
            torch.full((1, 1), 27.0, dtype=torch.float64),
            x.mean((0, 2))[None],
            x.var((0, 2), correction=0)[None],
        )
        update(target, running, batch, 27, momentum)
    assert running.mixing_weight.item() == 1
    assert torch.allclose(running.mean[0], norm.running_mean, rtol=1e-14)
    assert torch.allclose(running.var[0], norm.running_var, rtol=1e-14)


def test_reads_nothing_on_the_host():
    running = Mixture(*(t.to("meta") for t in problem((2, 4), 3).mixture))
    batch = BatchMoments(*(t.to("meta") for t in moments_of(1, 3, 4, 50)))
    assert update_running_statistics(running, batch, 50, 0.1).device.type == "meta"


@pytest.mark.parametrize("share", [1e-20, 1e-12, 1e-8])
def test_a_nearly_empty_component_moves_at_most_all_the_way(target: Target, share):
    """At f = 1, λ + f(λ̂ − λ) rounds to 0 for tiny λ̂: ρ must not pass 1, nor variances turn < 0."""
    running = Mixture(torch.full((1, 2), 0.5), torch.full((2, 3), 4.0), torch.full((2, 3), 2.0))
    mass = torch.tensor([[100.0, 100 * share]])
    batch = BatchMoments(mass, torch.full((2, 3), -1.0), torch.full((2, 3), 0.5))
    update(target, running, batch, 100, 1.0)
    assert ((running.mean >= -1) & (running.mean <= 4)).all()
    assert ((running.var >= 0.5) & (running.var <= 2)).all()
    assert (running.mixing_weight >= 0).all()
