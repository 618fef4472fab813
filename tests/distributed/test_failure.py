"""A process that ends, or stays away, in the middle of a step: the others end with an error."""

import os
import signal
import time

import pytest
import torch
from torch import nn

from mixnorm_cuda import SyncMixtureNorm
from tests.distributed.team import Failure, Team

CHANNELS = 4
TIMEOUT = 4.0


def step_without(rank, when):
    """A step of two layers, which rank 1 leaves in the way and at the place that ``when`` says."""

    def leave(*_):
        if rank == 1 and "killed" in when:
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 1:
            raise KeyboardInterrupt

    net = nn.Sequential(SyncMixtureNorm(CHANNELS), nn.Identity(), SyncMixtureNorm(CHANNELS))
    x = torch.randn(5, CHANNELS)
    net(x)
    if "forward" in when:
        net[1].register_forward_hook(leave)
    else:
        net[1].register_full_backward_hook(leave)
    started = time.monotonic()
    try:
        net(x.requires_grad_()).sum().backward()
    except KeyboardInterrupt:
        return "stayed away"
    except RuntimeError as error:
        return str(error), time.monotonic() - started
    return "ended without an error"


@pytest.mark.parametrize("when", ["killed in forward", "killed in backward", "away in forward"])
def test_the_others_raise_within_the_timeout(tmp_path, when):
    team = Team(3, tmp_path, TIMEOUT)
    try:
        first, missing, third = team.attempt(step_without, when)
    finally:
        team.stop()
    if "killed" in when:
        assert missing == Failure("died", "the process ended")
    else:
        assert missing == "stayed away"
    for message, seconds in (first, third):
        assert "losed" in message or "imed out" in message or "onnection" in message, message
        assert seconds < 3 * TIMEOUT
