"""Fixtures of every room: the seed, and the backends on the devices that they serve."""

import os
import random
from collections.abc import Iterator

import pytest
import torch

from tests.support import TARGETS, Target

SEED_VARIABLE = "MIXNORM_TEST_SEED"


def pytest_configure(config: pytest.Config) -> None:
    # Drawn once, before xdist starts its workers, which inherit the environment.
    os.environ.setdefault(SEED_VARIABLE, str(random.SystemRandom().randrange(2**31)))


def pytest_report_header() -> str:
    return f"random seed: {SEED_VARIABLE}={os.environ[SEED_VARIABLE]}"


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for one another take a hundred times as long where a core is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["fixed", "random"])
def seed(request: pytest.FixtureRequest) -> int:
    """0, and a number new in every run; a failing test shows it, MIXNORM_TEST_SEED repeats it."""
    value = 0 if request.param == "fixed" else int(os.environ[SEED_VARIABLE])
    print(f"{SEED_VARIABLE}={value}")
    torch.manual_seed(value)
    return value


@pytest.fixture(
    params=[
        pytest.param(target, id=target.id, marks=[pytest.mark.cuda] * (target.device == "cuda"))
        for target in TARGETS
        if target.unusable() is None
    ]
)
def target(request: pytest.FixtureRequest) -> Target:
    """A usable backend on a device. `test_dispatch.py` skips once for each that is not usable."""
    return request.param
