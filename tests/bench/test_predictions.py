"""What is predicted for an H200: read from plans, bounded by bytes and instructions."""

import json

import pytest

from bench.cases import SHAPES, Shape
from bench.compiled_code import H200_BYTES_PER_S, H200_LANES_PER_S
from bench.predictions import PLANS, Plan, bound, find_plans, read
from mixnorm_cuda.kernels.native import loader

SHAPE = Shape("some", (64, 64, 66, 64), "66 tiles of 64 positions for each of 64 multiprocessors")
FEW, MANY = 1.0, 1000.0


def _counts(instructions: float) -> dict[str, dict[str, float]]:
    kernels = ("moments", "normalize", "output_sums", "input_gradient", "moments, kept",
               "normalize, kept", "input_gradient, kept")  # fmt: skip
    return {"contiguous": dict.fromkeys(kernels, instructions)}


def test_a_plan_is_read() -> None:
    line = (
        "resident, 4 channels at once, 264 blocks of 256 threads, tiles of 64 positions, "
        "16 a block (3 kept on chip), 110392 bytes of shared memory: a part fits"
    )
    assert read(line) == Plan("resident", "4 channels", 264, 64, 16, 3)
    with pytest.raises(ValueError, match="line is 'not served: why', expected"):
        read("not served: why")


@pytest.mark.parametrize("kept", [0, 8, 32])
def test_bounds(kept: int) -> None:
    """132 blocks of 32 tiles: bytes where there are few instructions, those where there are many,
    and what two of 132 multiprocessors do while the others wait."""
    size = 4 * SHAPE.elements
    plan = Plan("resident", "4 positions", 132, 64, 32, kept)
    assert 132 * plan.tiles * plan.positions * SHAPE.channels == SHAPE.elements
    forward = bound(SHAPE, "forward", plan, _counts(FEW))
    backward = bound(SHAPE, "backward", plan, _counts(FEW))
    assert forward.memory == pytest.approx((3 - kept / 32) * size / H200_BYTES_PER_S)
    assert forward.em_step == pytest.approx(
        max((1 - kept / 32) * size / H200_BYTES_PER_S, FEW * SHAPE.elements / H200_LANES_PER_S)
    )
    assert backward.memory == pytest.approx((5 - 2 * kept / 32) * size / H200_BYTES_PER_S)
    assert backward.cached == pytest.approx(3 * size / H200_BYTES_PER_S)
    issue = MANY * SHAPE.elements / H200_LANES_PER_S
    assert bound(SHAPE, "forward", plan, _counts(MANY)).memory == pytest.approx(2 * issue)
    uneven = plan._replace(blocks=134)
    assert bound(SHAPE, "forward", uneven, _counts(MANY)).memory == pytest.approx(4 * issue)


def test_the_committed_plans_are_those_of_the_kernels() -> None:
    """They are what README's predictions come from: ``python -m bench.predictions``."""
    if loader.missing("emulated"):
        pytest.skip(f"no emulated kernels: {loader.missing('emulated')}")
    committed = json.loads(PLANS.read_text())
    assert find_plans() == committed
    assert len(committed) == 2 * sum(shape.kind == "image" for shape in SHAPES)
