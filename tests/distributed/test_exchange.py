"""How much is exchanged, when nothing is, and with whom."""

import pytest
import torch
from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode

from mixnorm_cuda import MixtureNorm2d, SyncMixtureNorm, convert_sync_mixture_norm
from mixnorm_cuda.dispatch import BACKENDS
from tests.distributed import jobs
from tests.distributed.jobs import CHANNELS
from tests.distributed.test_parity import batches_of, check, state_of
from tests.support import assert_close, same_bits


class Collectives(TorchDispatchMode):
    """Notes the name and the size of every collective, and the names of our own operators."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.kernels = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        if function.namespace in ("_c10d_functional", "c10d") and name != "wait_tensor":
            self.calls.append((name, args[0].numel()))
        if function.namespace == "mixnorm":
            self.kernels.append(name)
        return function(*args, **kwargs or {})


def counted(rank, options, x):
    layer = SyncMixtureNorm(CHANNELS, **options)
    leaf = x.clone().requires_grad_()
    layer(leaf)  # agreement and seeding
    forward, backward, evaluation = Collectives(), Collectives(), Collectives()
    with forward:
        y = layer(leaf)
    with backward:
        y.sum().backward()
    layer.eval()
    if rank == 0:  # alone: a collective would wait for the other
        with evaluation:
            layer(leaf).sum().backward()
    return forward.calls, backward.calls, evaluation.calls


@pytest.mark.parametrize("em_iters", [0, 2])
@pytest.mark.parametrize(("components", "groups"), [(1, 1), (3, 1), (3, 2), (4, CHANNELS)])
def test_one_collective_per_sweep_of_its_least_size(pair, components, groups, em_iters):
    options = {"num_components": components, "groups": groups, "em_iters": em_iters}
    for forward, backward, evaluation in pair.run(counted, options, torch.randn(4, CHANNELS, 3)):
        size = (2 * CHANNELS + groups) * components
        sweeps = 1 + (em_iters if components > 1 else 0)
        assert forward == [("all_gather_into_tensor", size)] * sweeps
        assert backward == [("all_reduce", 2 * CHANNELS * components)]
        assert evaluation == []


def kernels_used(rank, options, x):
    layer = SyncMixtureNorm(CHANNELS, **options)
    leaf = x.clone().requires_grad_()
    layer(leaf)  # agreement and seeding
    with Collectives() as seen:
        layer(leaf).sum().backward()
    return [name for name in seen.kernels if name != "update_running"]


@pytest.mark.skipif(
    BACKENDS["cpu"].missing() is not None, reason=f"no CPU operators: {BACKENDS['cpu'].missing()}"
)
@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("auto", ["moments", "normalize", "backward_sums", "backward_apply"]),
        ("reference", []),
    ],
)
def test_every_pass_runs_in_the_kernels_of_the_backend(pair, backend, expected):
    for kernels in pair.run(kernels_used, {"backend": backend}, torch.randn(4, CHANNELS, 3)):
        assert kernels == expected


def seeding_counted(rank, x):
    layer = SyncMixtureNorm(CHANNELS, estimator="batch")
    layer(x)
    with Collectives() as seeding:
        layer(x)
    return seeding.calls


def test_seeding_sends_at_most_a_share_of_4096_positions(four):
    for calls in four.run(seeding_counted, torch.randn(5, CHANNELS, 3)):
        size = (2 * CHANNELS + 1) * 3
        assert calls == [
            ("all_gather_into_tensor", 1024 * CHANNELS + 1),
            ("broadcast", size),
            *[("all_gather_into_tensor", size)] * 3,
        ]


def without_running_statistics(rank, x):
    layer = SyncMixtureNorm(CHANNELS, num_components=1, track_running_stats=False).eval()
    return layer(x[rank]) if rank == 0 else None


def test_eval_without_running_statistics_is_of_ones_own_batch(pair):
    """As in SyncBatchNorm: rank 1 does not take part."""
    x = torch.randn(2, 4, CHANNELS, 3)
    y = pair.run(without_running_statistics, x)[0]
    assert_close(y.mean(dim=(0, 2)) + 1, torch.ones(CHANNELS), 1e-6)


def in_groups(rank, batches, state, options):
    groups = [distributed.new_group(ranks) for ranks in ([0, 1], [2, 3])]
    options = options | {"process_group": groups[rank // 2]}
    pair = slice(0, 2) if rank < 2 else slice(2, 4)
    offset, sizes = sum(batches.sizes[: pair.start]), batches.sizes[pair]
    own = slice(offset, offset + sum(sizes))
    mine = jobs.Batches(batches.x[:, own], batches.dy[:, own], sizes=sizes)
    return jobs.train_part(rank % 2, mine, state, options)


def test_two_groups_of_two(four):
    """Each pair joins its own batches."""
    options = {"dtype": torch.float64, "em_iters": 1}
    state = state_of({"em_iters": 1}, torch.float64)
    batches = batches_of((3, 1, 2, 4), torch.float64)
    parts = four.run(in_groups, batches, state, options)
    for pair, own in (((0, 1), slice(0, 4)), ((2, 3), slice(4, 10))):
        mine = jobs.Batches(batches.x[:, own], batches.dy[:, own])
        for i, expected in enumerate(jobs.train_whole(mine, state, options)):
            steps = [parts[rank][i] for rank in pair]
            assert_close(torch.cat([s.y for s in steps]), expected.y, 1e-12)
            assert_close(torch.cat([s.dx for s in steps]), expected.dx, 1e-12)
            for name, buffer in expected.buffers.items():
                assert same_bits(steps[0].buffers[name], steps[1].buffers[name])
                assert_close(steps[0].buffers[name], buffer, 1e-12)


def group_of_one(rank, x):
    groups = [distributed.new_group([0]), distributed.new_group([1])]
    layer = SyncMixtureNorm(CHANNELS, num_components=1, process_group=groups[rank])
    with Collectives() as seen:
        y = layer(x[rank])
    return y, seen.calls


def test_a_group_of_one_is_an_ordinary_layer(pair):
    x = torch.randn(2, 4, CHANNELS, 3, 2)
    for own, (y, calls) in zip(x, pair.run(group_of_one, x), strict=True):
        assert calls == []
        assert same_bits(y, MixtureNorm2d(CHANNELS, num_components=1)(own))


def outside_the_group(rank):
    group = distributed.new_group([0])
    layer = SyncMixtureNorm(CHANNELS, process_group=group)
    if rank == 1:
        layer(torch.randn(4, CHANNELS))


def test_a_process_outside_the_group(pair):
    first, second = pair.attempt(outside_the_group)
    assert first is None
    assert second.kind == "ValueError"
    assert "process_group" in second.message
    assert "rank 1" in second.message


def converted(rank, batches, state, options):
    layer = convert_sync_mixture_norm(jobs.layer(MixtureNorm2d, state, options))
    assert type(layer) is SyncMixtureNorm
    return jobs.train(layer, batches.of(rank))


def test_a_converted_layer_synchronizes(pair):
    batches = batches_of((3, 5), torch.float64)
    state, options = state_of({}, torch.float64), {"dtype": torch.float64}
    for part, other in zip(
        pair.run(converted, batches, state, options),
        pair.run(jobs.train_part, batches, state, options),
        strict=True,
    ):
        for step, expected in zip(part, other, strict=True):
            assert same_bits(step.y, expected.y)
    check(pair, batches, state, options, 1e-12)


def second_derivative(rank, x):
    x = x.requires_grad_()
    y = SyncMixtureNorm(CHANNELS)(x)
    torch.autograd.grad(y.square().sum(), x, create_graph=True)


def test_second_derivatives_raise(pair):
    for result in pair.attempt(second_derivative, torch.randn(4, CHANNELS, 3)):
        assert result.kind == "NotImplementedError"
        assert "create_graph" in result.message
