"""Processes that disagree: every one of them raises, with both values."""

import time

import pytest
import torch
from torch import distributed

from mixnorm_cuda import SyncMixtureNorm
from mixnorm_cuda.distributed.agreement import agree
from tests.distributed.team import Failure, Team

CHANNELS = 4


def step(rank, options, shapes=None, dtype=torch.float32, given=False):
    options = options[rank] if isinstance(options, list) else options
    shape = (5, options.get("num_features", CHANNELS), 2) if shapes is None else shapes[rank]
    layer = SyncMixtureNorm(**{"num_features": CHANNELS} | options)
    x = torch.randn(shape, dtype=dtype[rank] if isinstance(dtype, list) else dtype)
    nu = [torch.rand(5, 3).softmax(1)] if given and rank == 1 else []
    return layer(x, *nu).shape


def assert_all_raise(results, *texts, kind="ValueError"):
    for result in results:
        assert isinstance(result, Failure), result
        assert result.kind == kind
        first_line = result.message.splitlines()[0]
        for text in texts:
            assert text in first_line, first_line


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("num_features", 4, 6),
        ("num_components", 3, 2),
        ("groups", 1, 2),
        ("eps", 1e-5, 1e-3),
        ("momentum", 0.1, None),
        ("track_running_stats", True, False),
        ("estimator", "online", "batch"),
        ("em_iters", None, 1),
        ("mixing_scale", True, False),
        ("component_affine", True, False),
        ("responsibility_grad", True, False),
        ("weight", "torch.float32", "None"),
        ("bias", "torch.float32", "None"),
    ],
)
def test_options(team, name, first, second):
    def option(value):
        if name in ("weight", "bias"):
            return {{"weight": "affine"}.get(name, name): value != "None"}
        return {name: value}

    options = [option(first)] * (team.size - 1) + [option(second)]
    results = team.attempt(step, options)
    shown = "bias" if name == "bias" else name
    assert_all_raise(results, shown, f"{first} on rank 0", f"{second} on rank {team.size - 1}")


def test_dtype(pair):
    options = [{}, {"dtype": torch.float64}]
    results = pair.attempt(step, options, None, [torch.bfloat16, torch.float64])
    assert_all_raise(results, "torch.float32 on rank 0", "torch.float64 on rank 1")
    results = pair.attempt(step, {}, None, [torch.float32, torch.float16])
    assert_all_raise(results, "input dtype", "torch.float32 on rank 0", "torch.float16 on rank 1")


def test_given_responsibilities(pair):
    results = pair.attempt(step, {}, None, torch.float32, True)
    assert_all_raise(results, "responsibilities", "None on rank 0", "given on rank 1")


def on_device(rank):
    device = ["cpu", "meta"][rank]
    SyncMixtureNorm(CHANNELS, device=device)(torch.empty(5, CHANNELS, device=device))


def test_device_type(pair):
    assert_all_raise(pair.attempt(on_device), "device type", "cpu on rank 0", "meta on rank 1")


def test_arguments_that_are_wrong_in_one_process(pair):
    """Its own error there, and elsewhere an error that says where and what."""
    first, second = pair.attempt(step, {}, [(5, CHANNELS, 2), (5, 7, 2)])
    for result in (first, second):
        assert result.kind == "ValueError"
        assert "7 channels: expected num_features=4" in result.message
    assert "on rank 1" in first.message.splitlines()[0]
    assert "on rank 1" not in second.message.splitlines()[0]


def test_different_spatial_sizes_are_fine(pair):
    shapes = [(5, CHANNELS, 2, 3), (1, CHANNELS, 7)]
    assert pair.run(step, {}, shapes) == [torch.Size(shape) for shape in shapes]


def seeded_on_one(rank, broadcast):
    layer = SyncMixtureNorm(CHANNELS)
    if rank == 0:
        other = SyncMixtureNorm(CHANNELS).eval()
        other.num_batches_tracked.fill_(1)
        layer.load_state_dict(other.state_dict())
    if broadcast:
        for buffer in layer.buffers():
            distributed.broadcast(buffer, 0)
    layer(torch.randn(5, CHANNELS))
    return layer.num_batches_tracked


def test_a_checkpoint_in_one_process(pair):
    """Alone it is a difference; with its buffers sent to the others it is theirs too."""
    assert_all_raise(
        pair.attempt(seeded_on_one, False), "running statistics", "of data on rank 0",
        "initial on rank 1",
    )  # fmt: skip
    assert pair.run(seeded_on_one, True) == [2, 2]


def agree_about(rank, text):
    agree({"text": "same"}, text if rank else None, None)


def test_a_long_problem_is_cut(pair):
    first, second = pair.attempt(agree_about, "γγγ " * 2000)
    for result in (first, second):
        assert "on rank 1: γγγ" in result.message
        assert result.message.splitlines()[0].endswith("γ ...")


def in_group(rank, groups):
    made = [distributed.new_group(ranks) for ranks in groups]
    own = groups.index([0, 1]) if rank == 0 else len(made) - 1
    started = time.monotonic()
    try:
        SyncMixtureNorm(CHANNELS, process_group=made[own])(torch.randn(5, CHANNELS))
    except ValueError as error:
        return str(error), time.monotonic() - started
    return None


def test_process_groups(tmp_path):
    """Rank 0 waits for 1 in another group than 1 waits for 0: all raise, and long before the
    groups' timeout."""
    team = Team(3, tmp_path)
    try:
        for message, seconds in team.run(in_group, [[0, 1], [0, 1, 2]]):
            assert "process_group differs" in message
            assert "ranks [0, 1] on rank 0" in message
            assert "ranks [0, 1, 2] on rank 1" in message
            assert seconds < 20
    finally:
        team.stop()
