"""Several processes compute what one does on their joined batch."""

import pytest
import torch
from torch import nn

from mixnorm_cuda import MixtureNorm2d, SyncMixtureNorm, dispatch, update_statistics
from tests.distributed import jobs
from tests.distributed.jobs import CHANNELS, Batches
from tests.support import assert_close, same_bits

STEPS = 3
SHARDS = {
    2: {"equal": (4, 4), "unequal": (7, 1), "empty": (8, 0)},
    4: {"equal": (2, 2, 2, 2), "unequal": (1, 5, 1, 3), "empty": (0, 5, 0, 3)},
}
OPTIONS = [
    {},
    {"num_components": 1},
    {"groups": 2},
    {"groups": CHANNELS, "em_iters": 1},
    {"em_iters": 2},
    {"component_affine": True},
    {"mixing_scale": False, "momentum": None},
    {"responsibility_grad": False, "bias": False},
    {"track_running_stats": False, "num_components": 1},
    {"backend": "reference", "em_iters": 1},
]


def state_of(options, dtype):
    """Running statistics that overlap with the data, and affine pairs."""
    layer = MixtureNorm2d(CHANNELS, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
        if layer.track_running_stats:
            layer.running_mean.copy_(torch.randn_like(layer.running_mean) * 0.5)
            layer.running_var.uniform_(1, 2)
            layer.num_batches_tracked.fill_(3)
    return layer.state_dict()


def batches_of(sizes, dtype, shape=(3, 2)):
    x, dy = torch.randn(2, STEPS, sum(sizes), CHANNELS, *shape, dtype=dtype)
    return Batches(x * 1.5 + 0.5, dy, sizes=sizes)


def check(team, batches, state, options, tolerance, sums_tolerance=None):
    """``sums_tolerance``: of sums over positions, where it is another."""
    parts = team.run(jobs.train_part, batches, state, options)
    compare(parts, jobs.train_whole(batches, state, options), tolerance, sums_tolerance)


def compare(parts, whole, tolerance, sums_tolerance=None):
    sums_tolerance = sums_tolerance or tolerance
    for i, expected in enumerate(whole):
        steps = [part[i] for part in parts]
        assert_close(torch.cat([s.y for s in steps]), expected.y, tolerance)
        assert_close(torch.cat([s.dx for s in steps]), expected.dx, tolerance)
        for name, gradient in expected.parameter_gradients.items():
            total = sum(s.parameter_gradients[name] for s in steps)
            assert_close(total, gradient, sums_tolerance)
        if expected.given_gradient is not None:
            given = torch.cat([s.given_gradient for s in steps])
            assert_close(given, expected.given_gradient, tolerance)
        for name, buffer in expected.buffers.items():
            for step in steps:
                assert same_bits(step.buffers[name], steps[0].buffers[name])
            assert_close(steps[0].buffers[name], buffer, tolerance)


@pytest.mark.parametrize("shards", ["equal", "unequal", "empty"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_joined_batch(team, options, shards):
    # 1e-12: a few hundred float64 roundings, of sums in another order.
    options = options | {"dtype": torch.float64}
    batches = batches_of(SHARDS[team.size][shards], torch.float64)
    check(team, batches, state_of(_without_dtype(options), torch.float64), options, 1e-12)


@pytest.mark.skipif(
    dispatch.BACKENDS["emulated"].missing() is not None,
    reason=f"{dispatch.BACKENDS['emulated'].missing()}",
)
@pytest.mark.parametrize("groups", [1, 2])
def test_cuda_kernels(pair, groups):
    """Their source, emulated, in each process; the joined batch in the reference."""
    batches = batches_of(SHARDS[2]["empty"], torch.float64)
    options = {"groups": groups, "dtype": torch.float64}
    state = state_of({"groups": groups}, torch.float64)
    parts = pair.run(jobs.train_part, batches, state, options | {"backend": "emulated"})
    compare(parts, jobs.train_whole(batches, state, options | {"backend": "reference"}), 1e-12)


def _without_dtype(options):
    return {name: value for name, value in options.items() if name != "dtype"}


@pytest.mark.parametrize("per_position", [False, True])
def test_given_responsibilities(team, per_position):
    """Their gradients too."""
    batches = batches_of(SHARDS[team.size]["empty"], torch.float64)
    n, size = batches.x.shape[1], batches.x.shape[3:] if per_position else ()
    given = torch.randn(STEPS, n, 3, *size, dtype=torch.float64).softmax(2)
    options = {"groups": 2, "dtype": torch.float64}
    state = state_of({"groups": 2}, torch.float64)
    check(team, batches._replace(given=given), state, options, 1e-12)


def test_one_component_is_batch_norm(team):
    sizes = SHARDS[team.size]["unequal"]
    batches = batches_of(sizes, torch.float64)
    options = {"num_components": 1, "dtype": torch.float64}
    parts = team.run(jobs.train_part, batches, None, options)
    reference = nn.BatchNorm2d(CHANNELS, dtype=torch.float64)
    for i, expected in enumerate(jobs.train(reference, batches)):
        assert_close(torch.cat([p[i].y for p in parts]), expected.y, 1e-12)
        assert_close(torch.cat([p[i].dx for p in parts]), expected.dx, 1e-12)
        for name, gradient in expected.parameter_gradients.items():
            assert_close(sum(p[i].parameter_gradients[name] for p in parts), gradient, 1e-12)
        for name in ("running_mean", "running_var"):
            assert_close(parts[0][i].buffers[name].squeeze(0), expected.buffers[name], 1e-12)
        assert parts[0][i].buffers["num_batches_tracked"] == i + 1


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-6), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)],
)
def test_lower_precision(pair, dtype, tolerance):
    """Half inputs, float32 statistics and parameters; two rounding steps of the dtype.

    2e-6: some ten float32 roundings of values that the two sides sum in another order.
    """
    batches = batches_of(SHARDS[2]["unequal"], torch.float32)
    batches = batches._replace(x=batches.x.to(dtype), dy=batches.dy.to(dtype))
    check(pair, batches, state_of({}, torch.float32), {}, tolerance, sums_tolerance=1e-5)


def test_a_large_mean_costs_no_digits_of_the_variance(team):
    """Means apart by much less than their size: E[x²] − E[x]² would leave no digit here."""
    sizes = SHARDS[team.size]["unequal"]
    batches = batches_of(sizes, torch.float32)
    batches = batches._replace(x=batches.x + 1e4)
    parts = team.run(jobs.train_part, batches, None, {"num_components": 1, "momentum": 1.0})
    exact = batches._replace(x=batches.x.double(), dy=batches.dy.double())
    whole = jobs.train(nn.BatchNorm2d(CHANNELS, dtype=torch.float64), exact)
    single = jobs.train(nn.BatchNorm2d(CHANNELS), batches)
    joined = torch.cat([p[0].y for p in parts])
    error = (joined.double() - whole[0].y).norm()
    # A mean of 1e4 in float32 is off by up to 5e-4 standard deviations of 1.5.
    assert error <= 4 * max((single[0].y.double() - whole[0].y).norm(), 1e-4 * whole[0].y.norm())


def test_every_process_may_have_one_position(four):
    """One value per channel has no variance in one process, but four have."""
    x, dy = torch.randn(2, STEPS, 4, CHANNELS, dtype=torch.float64)
    batches = Batches(x, dy, sizes=(1, 1, 1, 1))
    check(four, batches, state_of({}, torch.float64), {"dtype": torch.float64}, 1e-12)


def test_a_batch_that_is_empty_everywhere_changes_nothing(pair):
    batches = batches_of((0, 0), torch.float64)
    state = state_of({}, torch.float64)
    for part in pair.run(jobs.train_part, batches, state, {"dtype": torch.float64}):
        for step in part:
            assert step.y.shape == (0, CHANNELS, 3, 2)
            assert all(not g.any() for g in step.parameter_gradients.values())
            assert all(same_bits(step.buffers[name], state[name]) for name in step.buffers)


def test_a_batch_that_is_not_finite_in_one_process_enters_no_statistics(pair):
    batches = batches_of((4, 4), torch.float64)
    batches.x[0, 0, 0, 0, 0] = torch.inf
    state = state_of({}, torch.float64)
    for part in pair.run(jobs.train_part, batches, state, {"dtype": torch.float64}):
        assert not part[0].y.isfinite().all()
        assert all(same_bits(part[0].buffers[name], state[name]) for name in part[0].buffers)
        assert all(t.isfinite().all() for t in (part[1].y, part[1].dx))
        assert part[2].buffers["num_batches_tracked"] == state["num_batches_tracked"] + 2


def population(rank, batches, state, options):
    """The statistics of part ``rank`` of the batches, or of all of them (rank None)."""
    kind = MixtureNorm2d if rank is None else SyncMixtureNorm
    layer = jobs.layer(kind, state, options)
    mine = batches if rank is None else batches.of(rank)
    update_statistics(list(mine.x), layer)
    return layer.state_dict()


def test_population_statistics(team):
    batches = batches_of(SHARDS[team.size]["empty"], torch.float64)
    state, options = state_of({}, torch.float64), {"dtype": torch.float64}
    expected = population(None, batches, state, options)
    for result in team.run(population, batches, state, options):
        for name, value in expected.items():
            assert_close(result[name].double(), value.double(), 1e-12)
