"""The one place that starts a kernel."""

from typing import Any

from mixnorm_cuda.kernels.triton.config import MAX_REGISTERS, Launch, constants
from mixnorm_cuda.kernels.triton.geometry import Geometry

BESIDE: dict[str, Any] = {"num_warps": 4, "registers": MAX_REGISTERS}
"""Launch of a kernel beside the sweeps: K · C numbers, so there are few programs."""


def run(
    kernel: Any,
    grid: tuple[int, ...],
    *arguments: Any,
    num_warps: int,
    registers: int | None = None,
    **sizes: Any,
) -> None:
    """Start ``kernel``. Products and sums are contracted to fused multiply-adds.

    ``registers``: of a thread, at most. Left to itself the compiler spills a few values to fit one
    more program on a multiprocessor.
    """
    kernel[grid](*arguments, **sizes, num_warps=num_warps, maxnreg=registers, enable_fp_fusion=True)


def sweep(
    kernel: Any,
    launch: Launch,
    geometry: Geometry,
    *arguments: Any,
    span: int,
    sums: bool = False,
    **options: Any,
) -> None:
    """Start a kernel that goes over the tiles of the input."""
    run(
        kernel,
        (launch.blocks, launch.chunks),
        *arguments,
        *geometry.runs(launch.tile.vec),
        *launch.ranges(),
        C=geometry.channels,
        SPAN=span,
        **options,
        **constants(launch.tile, sums=sums),
        VEC=launch.tile.vec,
        CHANNELS_LAST=geometry.channels_last,
        ONE_ROW=geometry.one_row,
        num_warps=launch.tile.num_warps,
        registers=launch.tile.registers,
    )
