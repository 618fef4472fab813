"""The Triton kernels, under Triton's interpreter on the CPU or on a GPU.

The interpreter is chosen when the kernels are defined, so it has a process of its own: in others,
and without a GPU, nothing here is collected and `tests/kernels/test_triton_interpreter.py` starts
that process.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mixnorm_cuda.kernels.triton import availability, config

INTERPRETED = availability.interpreted()

if availability.missing() is not None:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not INTERPRETED:
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.cuda)


@pytest.fixture
def device() -> str:
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture
def separate_launches() -> Iterator[None]:
    """No launch does all passes, however small the problem."""
    never = {
        kernel: dataclasses.replace(budget, program_elements=0)
        for kernel, budget in config.BUDGETS.items()
    }
    with config.using(never):
        yield


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Memory from torch.empty is NaN: what a kernel does not write shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)
