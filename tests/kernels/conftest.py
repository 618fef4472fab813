"""Where the native kernels run: on the CPU; those for CUDA emulated, and on a GPU if any."""

from typing import Any

import pytest

from tests.support import TARGETS, Target


def _params(*backends: str) -> list[Any]:
    return [
        pytest.param(
            target,
            id=target.id,
            marks=[
                *([pytest.mark.cuda] if target.device == "cuda" else []),
                pytest.mark.skipif(target.unusable() is not None, reason=f"{target.unusable()}"),
            ],
        )
        for target in TARGETS
        # One skip for each test, and only where nothing runs it.
        if target.backend in backends and (target.backend != "cuda" or target.unusable() is None)
    ]


@pytest.fixture(params=_params("emulated", "cuda"))
def cuda_target(request: pytest.FixtureRequest) -> Target:
    return request.param


@pytest.fixture(params=_params("cpu", "emulated", "cuda"))
def native_target(request: pytest.FixtureRequest) -> Target:
    return request.param
