"""Seeding by k-means++: what a first mixture must be, whatever the batch."""

import itertools

import pytest
import torch
from torch import Tensor

from mixnorm_cuda.estimation import initial_mixture, seed_mixture
from mixnorm_cuda.estimation.seeding import MAX_POSITIONS, _plus_plus
from mixnorm_cuda.types import Mixture
from tests.support import EPS, assert_close, same_bits


def seeded(x: Tensor, components: int, groups: int = 1, seed: int = 0) -> Mixture:
    torch.manual_seed(seed)
    return seed_mixture(x, components, groups, EPS)


def clusters(count: int = 600, distance: float = 1000.0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [count, 4] around three centres in turn, with deviations 1, 2 and 3.

    So far apart that drawing two first centres from one cluster has a chance below 1e-4.
    """
    corners = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 1]], dtype=torch.float64)
    centres, member = corners * distance, torch.arange(count) % 3
    noise = torch.randn(count, 4, dtype=torch.float64) * (member[:, None] + 1)
    return centres[member] + noise, member, centres


def check_valid(mixture: Mixture, components: int, groups: int, channels: int) -> None:
    assert mixture.mixing_weight.shape == (groups, components)
    assert mixture.mean.shape == mixture.var.shape == (components, channels)
    assert all(t.isfinite().all() for t in mixture)
    assert_close(mixture.mixing_weight.sum(1), torch.ones(groups), 1e-6)
    assert (mixture.mixing_weight > 0).all()
    assert (mixture.var > 0).all()


def test_initial_mixture_is_the_standard_normal():
    mixture = initial_mixture(torch.empty(2, 6, 3, dtype=torch.float16), 3, 2)
    assert torch.equal(mixture.mixing_weight, torch.full((2, 3), 1 / 3))
    assert torch.equal(mixture.mean, torch.zeros(3, 6))
    assert torch.equal(mixture.var, torch.ones(3, 6))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("components", [1, 2, 3, 5])
def test_is_a_mixture(seed: int, components, groups):
    x = torch.randn(6, 4, 5, 5) * 3 + 7
    mixture = seeded(x, components, groups, seed)
    check_valid(mixture, components, groups, 4)
    for i, j in itertools.combinations(range(components), 2):
        assert (mixture.mean[i] != mixture.mean[j]).any()


def test_one_component_is_the_moments_of_the_batch():
    x = torch.randn(40, 3, 6, dtype=torch.float64) * 3 + 7
    mixture = seeded(x, 1)
    assert mixture.mixing_weight.item() == 1
    assert_close(mixture.mean[0], x.mean((0, 2)), 1e-13)
    # One more observation at the overall variance leaves the variance as it is, up to epsilon.
    assert_close(mixture.var[0], x.var((0, 2), correction=0), 2 * EPS)


def test_finds_separated_clusters(seed: int):
    x, member, centres = clusters()
    mixture = seeded(x, 3, seed=seed)
    order = torch.cdist(centres, mixture.mean).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    for j, k in enumerate(order):
        of_cluster = x[member == j]
        assert_close(mixture.mean[k], of_cluster.mean(0), 1e-10)
        assert mixture.mixing_weight[0, k].item() == pytest.approx(201 / 603, rel=1e-14)
        # One observation more, at the overall variance.
        overall = x.var(0, correction=0)
        expected = (200 * of_cluster.var(0, correction=0) + overall) / 201
        assert_close(mixture.var[k], expected, 1e-8)


def test_the_component_amid_the_others_comes_first(seed: int):
    """Three clusters on a line: kernels take log-odds relative to the one between the others."""
    centres = torch.tensor([0.0, 1000.0, 2000.0])[torch.arange(600) % 3]
    x = centres[:, None] + torch.randn(600, 4)
    mixture = seeded(x, 3, seed=seed)
    assert (mixture.mean[0] - 1000).abs().max() < 10


def test_channels_count_on_their_own_scale():
    """Clusters in many channels of small units are found beside noise in one of large units."""
    of_clusters, member, centres = clusters()
    x = torch.cat([torch.randn(600, 1).double() * 1e9, of_clusters.repeat(1, 100)], dim=1)
    mixture = seeded(x, 3)
    order = torch.cdist(centres, mixture.mean[:, 1:5]).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    for j, k in enumerate(order):
        assert_close(mixture.mean[k], x[member == j].mean(0), 1e-10)


class TestDraws:
    def test_reproducible_from_the_seed(self):
        x = torch.randn(500, 4, 5, 5)
        first, again, other = (seeded(x, 3, 2, seed) for seed in (7, 7, 8))
        assert all(map(same_bits, first, again))
        assert not any(map(same_bits, first, other))

    def test_groups_do_not_influence_each_other(self):
        x = torch.randn(300, 4, 5)
        changed = x.clone()
        changed[:, :2] = torch.randn(300, 2, 5).exp()
        first, second = seeded(x, 3, 2), seeded(changed, 3, 2)
        assert torch.equal(first.mixing_weight[1], second.mixing_weight[1])
        assert torch.equal(first.mean[:, 2:], second.mean[:, 2:])
        assert torch.equal(first.var[:, 2:], second.var[:, 2:])
        assert not torch.equal(first.mean[:, :2], second.mean[:, :2])

    def test_takes_at_most_4096_positions(self):
        mixture = seeded(torch.randn(100, 4, 10, 10), 3)
        sizes = mixture.mixing_weight.double() * (MAX_POSITIONS + 3) - 1
        assert (sizes - sizes.round()).abs().max() < 1e-3
        assert sizes.sum().round() == MAX_POSITIONS

    def test_takes_all_of_fewer_positions(self):
        x = torch.randn(40, 4, 10)
        sizes = seeded(x, 3).mixing_weight.double() * 403 - 1
        assert sizes.sum().round() == 400

    def test_draws_in_proportion_to_the_squared_distance(self):
        """From values 1 and 3 beside a centre at 0: in the ratio 1 to 9."""
        z = torch.zeros(4000, 6, 1)
        z[:, 4], z[:, 5] = 1, 3
        centres = _plus_plus(z, torch.ones(4000, 6, dtype=torch.bool), 2).squeeze(2)
        # The first is uniform over the points; four of six are at 0.
        from_zero = centres[centres[:, 0] == 0]
        assert abs(len(from_zero) / 4000 - 2 / 3) < 5 * (2 / 9 / 4000) ** 0.5
        far = (from_zero[:, 1] == 3).float().mean().item()
        assert abs(far - 0.9) < 5 * (0.09 / len(from_zero)) ** 0.5
        assert (from_zero[:, 1] > 0).all(), "never a point that is a centre already"

    def test_carries_no_gradient_and_changes_no_input(self):
        x = torch.randn(40, 4, 10, requires_grad=True)
        before = x.detach().clone()
        assert not any(t.requires_grad for t in seeded(x, 3))
        assert same_bits(x.detach(), before)

    def test_reads_nothing_on_the_host(self):
        """The meta device has no values: a read would raise."""
        mixture = seed_mixture(torch.empty(40, 4, 10, device="meta"), 3, 2, EPS)
        assert mixture.mean.shape == (3, 4)


class TestDegenerateInput:
    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    def test_positions_that_are_not_finite_are_left_out(self, bad):
        x, _, centres = clusters()
        x[::10, 0] = bad
        mixture = seeded(x, 3)
        check_valid(mixture, 3, 1, 4)
        assert torch.cdist(centres, mixture.mean).amin(1).max() < 1

    def test_only_the_group_with_bad_values_leaves_a_position_out(self):
        x = torch.randn(100, 4)
        x[0, 0] = torch.nan
        mixture = seeded(x, 3, 2)
        check_valid(mixture, 3, 2, 4)
        for g, count in enumerate((99, 100)):
            sizes = mixture.mixing_weight[g].double() * (count + 3) - 1
            assert (sizes - sizes.round()).abs().max() < 1e-4

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_nothing_finite(self, bad):
        mixture = seeded(torch.full((20, 4, 3), bad), 3, 2)
        check_valid(mixture, 3, 2, 4)

    @pytest.mark.parametrize("value", [0.0, 5.0, -100.0])
    @pytest.mark.parametrize("groups", [1, 4])
    def test_constant_input_gives_distinct_components(self, value, groups):
        mixture = seeded(torch.full((20, 4, 3), value), 3, groups)
        check_valid(mixture, 3, groups, 4)
        for i, j in itertools.combinations(range(3), 2):
            assert (mixture.mean[i] != mixture.mean[j]).all()
        assert (mixture.mean - value).abs().max() < 0.01

    def test_fewer_distinct_values_than_components(self):
        x = torch.tensor([0.0, 1.0]).repeat(50)[:, None]
        mixture = seeded(x, 5)
        check_valid(mixture, 5, 1, 1)
        assert len(set(mixture.mean.flatten().tolist())) == 5

    def test_values_whose_squares_overflow(self):
        """They reach y, but must not make a mixture that is not finite."""
        check_valid(seeded(torch.randn(50, 4, 3) * 1e30, 3, 2), 3, 2, 4)
        check_valid(seeded((torch.randn(50, 4, 3) * 1e38).bfloat16(), 3, 2), 3, 2, 4)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_input_gives_float32_statistics(self, dtype):
        x, _, centres = clusters()
        mixture = seeded(x.to(dtype), 3)
        assert {t.dtype for t in mixture} == {torch.float32}
        assert torch.cdist(centres.float(), mixture.mean).amin(1).max() < 5
