"""Seeds come from all processes' positions and are the same in each."""

import pytest
import torch

from mixnorm_cuda import SyncMixtureNorm
from mixnorm_cuda.distributed import processes_of
from mixnorm_cuda.estimation.seeding import MAX_POSITIONS, _draw_together, seed_mixture
from tests.distributed import jobs
from tests.distributed.jobs import CHANNELS, Batches
from tests.support import assert_close, same_bits

SHARDS = {2: (30, 10), 4: (0, 17, 3, 20)}
CENTRES = 20.0 * torch.tensor([[-1, 0, 1, -1, 0, 1], [0, 1, -1, 1, -1, 0], [1, -1, 0, 0, 1, -1.0]])


def clusters(sizes):
    """Three clusters so far apart that every seeding finds them; one to each sample in turn."""
    n = sum(sizes)
    noise, dy = torch.randn(2, 2, n, CHANNELS, 5, dtype=torch.float64)
    x = noise + CENTRES.double()[torch.arange(n) % 3][:, :, None]
    return Batches(x, dy, sizes=sizes)


def by_mean(step):
    """The components' statistics in the order of their means."""
    order = step.buffers["running_mean"][:, 0].argsort()
    return {
        "running_weight": step.buffers["running_weight"][:, order],
        "running_mean": step.buffers["running_mean"][order],
        "running_var": step.buffers["running_var"][order],
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"em_iters": 2},
        {"estimator": "batch"},
        {"affine_init": "batchnorm", "component_affine": True},
        {"track_running_stats": False},
    ],
    ids=str,
)
def test_clusters_are_found_as_in_one_process(team, options):
    """Seeds differ, the clusters do not: 1e-6 is what is left of a difference after EM steps."""
    options = options | {"dtype": torch.float64}
    batches = clusters(SHARDS[team.size])
    parts = team.run(jobs.train_part, batches, None, options)
    whole = jobs.train_whole(batches, None, options)
    for i, expected in enumerate(whole):
        steps = [part[i] for part in parts]
        assert_close(torch.cat([s.y for s in steps]), expected.y, 1e-6)
        for step in steps:
            assert all(same_bits(step.buffers[n], steps[0].buffers[n]) for n in step.buffers)
            if options.get("affine_init"):
                assert all(
                    same_bits(step.parameters[n], steps[0].parameters[n]) for n in step.parameters
                )
        if expected.buffers:
            for name, value in by_mean(expected).items():
                assert_close(by_mean(steps[0])[name], value, 1e-6)


def seed_job(rank, x, sizes):
    processes = processes_of(None)
    mine = x.split(sizes)[rank]
    drawn = _draw_together(mine, processes)
    return drawn, seed_mixture(mine, 3, 2, 1e-5, processes)


def test_processes_with_more_positions_send_more_that_count(four):
    sizes = (4000, 0, 100, 2000)
    x = torch.arange(sum(sizes), dtype=torch.float64)[:, None].repeat(1, CHANNELS)
    results = four.run(seed_job, x, sizes)
    for drawn, mixture in results:
        assert same_bits(drawn.points, results[0][0].points)
        assert torch.equal(drawn.counts, results[0][0].counts)
        assert all(map(same_bits, mixture, results[0][1]))
    points, counts = results[0][0]
    share = MAX_POSITIONS // 4
    assert len(points) == 4 * share
    by_process = counts.view(4, share).sum(1).tolist()
    assert by_process == [share, 0, round(share / 40 + 0.5), share // 2]
    kept = points[counts]
    assert torch.equal(kept, kept[:, :1].expand(-1, CHANNELS))
    starts = [0, 4000, 4000, 4100]
    for values, start, size in zip(points.view(4, share, -1), starts, sizes, strict=True):
        if size:
            of_process = values[:, 0][: min(size, share)]
            assert ((of_process >= start) & (of_process < start + size)).all()
    third = points[2 * share :, 0][:100]
    assert not torch.equal(third, third.sort().values), "the first positions of a small batch only"


def test_all_positions_count_where_they_fit(pair):
    x = torch.arange(30.0, dtype=torch.float64)[:, None].repeat(1, CHANNELS)
    points, counts = pair.run(seed_job, x, (25, 5))[0][0]
    assert torch.equal(points[counts][:, 0].sort().values, x[:, 0])


def seed_nothing(rank):
    layer = SyncMixtureNorm(CHANNELS)
    y = layer(torch.empty(0, CHANNELS, 2))
    tracked = int(layer.num_batches_tracked)
    return y.shape, tracked, layer(torch.randn(5, CHANNELS, 2)).isfinite().all()


def test_a_first_batch_that_is_empty_everywhere(pair):
    for shape, tracked, finite in pair.run(seed_nothing):
        assert shape == (0, CHANNELS, 2)
        assert tracked == 0
        assert finite
