"""The order of components: matched by the cheapest one-to-one assignment, or the central first."""

import itertools

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from mixnorm_cuda.estimation import match_components
from mixnorm_cuda.estimation.matching import cheapest_assignment, order_components
from mixnorm_cuda.reference import remoteness
from mixnorm_cuda.types import Mixture
from tests.support import EPS, problem, same_bits


def permuted(mixture: Mixture, orders: list[list[int]]) -> Mixture:
    """Group g's components in the order ``orders[g]``."""
    groups = mixture.mixing_weight.shape[0]
    size = mixture.mean.shape[1] // groups
    parts = [t.clone() for t in mixture]
    for g, order in enumerate(orders):
        own = slice(g * size, (g + 1) * size)
        parts[0][g] = mixture.mixing_weight[g, order]
        parts[1][:, own] = mixture.mean[order, own]
        parts[2][:, own] = mixture.var[order, own]
    return Mixture(*parts)


class TestCheapestAssignment:
    @pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
    def test_is_that_of_scipy(self, seed: int, size):
        cost = torch.rand(20, size, size, dtype=torch.float64)
        order = cheapest_assignment(cost)
        for g in range(20):
            assert order[g].tolist() == linear_sum_assignment(cost[g].numpy())[1].tolist()

    def test_greedy_choice_is_not_enough(self):
        cost = torch.tensor([[[1.0, 2.0], [1.5, 9.0]]])
        assert cheapest_assignment(cost).tolist() == [[1, 0]]

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_costs_that_are_not_finite_still_give_permutations(self, bad):
        some = torch.rand(4, 4, 4)
        some[0], some[1, 2], some[2, :, 1], some[3, 0, 0] = bad, bad, bad, bad
        for order in cheapest_assignment(some):
            assert sorted(order.tolist()) == [0, 1, 2, 3]

    def test_avoids_a_cost_that_is_not_finite(self):
        cost = torch.tensor([[[torch.nan, 3.0], [3.0, 0.0]], [[torch.inf, 3.0], [3.0, 0.0]]])
        assert cheapest_assignment(cost).tolist() == [[1, 0], [1, 0]]

    def test_reads_nothing_on_the_host(self):
        assert cheapest_assignment(torch.rand(2, 3, 3, device="meta")).shape == (2, 3)


class TestMatchComponents:
    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_finds_a_permutation_again(self, order):
        mixture = problem((2, 4), 3, 2).mixture
        shuffled = permuted(mixture, [list(order), [2, 0, 1]])
        assert all(map(same_bits, match_components(shuffled, mixture, EPS), mixture))

    def test_each_group_on_its_own_with_noise(self):
        mixture = problem((2, 6), 4, 3).mixture
        mean = torch.arange(4.0, dtype=torch.float64)[:, None].expand(4, 6) * 10
        mixture = mixture._replace(mean=mean)
        noisy = Mixture(*(t + 0.01 * torch.rand_like(t) for t in mixture))
        orders = [[1, 0, 3, 2], [3, 2, 1, 0], [0, 1, 2, 3]]
        matched = match_components(permuted(noisy, orders), mixture, EPS)
        assert all(map(same_bits, matched, noisy))

    def test_minimizes_the_wasserstein_distance(self, seed: int):
        """Squared 2-Wasserstein distances of diagonal Gaussians, solved by scipy."""
        for _ in range(20):
            p, q = problem((2, 4), 4).mixture, problem((2, 4), 4).mixture
            mixture = p._replace(var=p.var * torch.rand_like(p.var).mul(6).exp())
            target = q._replace(var=q.var * torch.rand_like(q.var).mul(6).exp())
            scale = target.var.mean(0) + EPS
            cost = torch.zeros(4, 4, dtype=torch.float64)
            for i, j in itertools.product(range(4), range(4)):
                means = (target.mean[i] - mixture.mean[j]) ** 2
                deviations = (target.var[i] ** 0.5 - mixture.var[j] ** 0.5) ** 2
                cost[i, j] = ((means + deviations) / scale).sum()
            order = linear_sum_assignment(cost.numpy())[1]
            matched = match_components(mixture, target, EPS)
            assert torch.equal(matched.mean, mixture.mean[order])
            assert torch.equal(matched.var, mixture.var[order])

    def test_deviations_count(self):
        """Equal means, different widths."""
        weight = torch.full((1, 2), 0.5)
        target = Mixture(weight, torch.zeros(2, 3), torch.tensor([[1.0], [9.0]]).expand(2, 3))
        swapped = Mixture(weight, torch.zeros(2, 3), target.var.flip(0))
        assert torch.equal(match_components(swapped, target, EPS).var, target.var)

    def test_channels_count_on_their_own_scale(self):
        """A swap in a channel of small units outweighs a slight one in large units."""
        weight = torch.full((1, 2), 0.5)
        var = torch.tensor([[1e-4, 1e8], [1e-4, 1e8]])
        target = Mixture(weight, torch.tensor([[0.0, 0.0], [1.0, 10.0]]), var)
        other = Mixture(weight, torch.tensor([[1.0, 0.0], [0.0, 10.0]]), var)
        matched = match_components(other, target, EPS)
        assert torch.equal(matched.mean, other.mean.flip(0))

    def test_carries_mixing_weights_along(self):
        mixture = problem((2, 4), 3).mixture
        shuffled = permuted(mixture, [[2, 0, 1]])
        matched = match_components(shuffled, mixture, EPS)
        assert torch.equal(matched.mixing_weight, mixture.mixing_weight)

    def test_one_component_is_left_alone(self):
        mixture = problem((2, 4), 1).mixture
        assert match_components(mixture, problem((2, 4), 1).mixture, EPS) is mixture

    def test_statistics_that_are_not_finite_lose_no_component(self):
        mixture = problem((2, 4), 3).mixture
        target = Mixture(*(torch.full_like(t, torch.nan) for t in mixture))
        matched = match_components(mixture, target, EPS)
        assert sorted(matched.mean[:, 0].tolist()) == sorted(mixture.mean[:, 0].tolist())


class TestOrderComponents:
    def test_remoteness_is_the_mean_squared_mahalanobis_distance(self, seed: int):
        """Of samples of the mixture: here of its moments, one pair of components at a time."""
        mixture, groups = problem((2, 6), 3, 2).mixture, 2
        expected = torch.zeros(groups, 3, dtype=torch.float64)
        for g, k, j in itertools.product(range(groups), range(3), range(3)):
            own = slice(3 * g, 3 * g + 3)
            squared = (mixture.mean[j, own] - mixture.mean[k, own]) ** 2 + mixture.var[j, own] + EPS
            distance = (squared / (mixture.var[k, own] + EPS)).sum()
            expected[g, k] += mixture.mixing_weight[g, j] * distance
        torch.testing.assert_close(remoteness(mixture, EPS), expected)

    def test_each_group_gets_its_least_remote_component_first(self):
        """Of group 0 the broad one, of group 1 the one amid the others."""
        mixture = Mixture(
            torch.full((2, 3), 1 / 3),
            torch.tensor([[0.0, 5.0], [1.0, -5.0], [-1.0, 0.0]]),
            torch.tensor([[0.1, 1.0], [0.2, 1.0], [9.0, 1.0]]),
        )
        ordered = order_components(mixture, EPS)
        assert ordered.mean[0].tolist() == [-1.0, 0.0]
        assert ordered.var[0].tolist() == [9.0, 1.0]
        assert sorted(ordered.mean[:, 1].tolist()) == [-5.0, 0.0, 5.0]
        assert all(map(same_bits, order_components(ordered, EPS), ordered))

    def test_what_is_not_finite_still_gives_a_permutation(self):
        mixture = Mixture(
            torch.tensor([[0.5, torch.nan, 0.5]]),
            torch.tensor([[1.0], [2.0], [torch.inf]]),
            torch.ones(3, 1),
        )
        assert sorted(order_components(mixture, EPS).mean.flatten().tolist()) == [1, 2, torch.inf]
