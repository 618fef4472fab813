"""Where the CUDA kernels run: emulated on the CPU, and on a GPU where there is one."""

import pytest

from tests.support import TARGETS, Target

CUDA_TARGETS = [target for target in TARGETS if target.backend in ("emulated", "cuda")]


@pytest.fixture(
    params=[
        pytest.param(
            target,
            id=target.id,
            marks=[
                *([pytest.mark.cuda] if target.device == "cuda" else []),
                pytest.mark.skipif(target.unusable() is not None, reason=f"{target.unusable()}"),
            ],
        )
        for target in CUDA_TARGETS
        # One skip for each test, and only where nothing runs it.
        if target.unusable() is None or target.backend == "emulated"
    ]
)
def cuda_target(request: pytest.FixtureRequest) -> Target:
    return request.param
