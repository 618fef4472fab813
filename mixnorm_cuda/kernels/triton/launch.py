"""The one place that starts a kernel."""

from typing import Any

from mixnorm_cuda.kernels.triton.config import Launch, constants
from mixnorm_cuda.kernels.triton.geometry import Geometry


def run(kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int, **sizes: Any) -> None:
    """Start ``kernel``. Products and sums are contracted to fused multiply-adds."""
    kernel[grid](*arguments, **sizes, num_warps=num_warps, enable_fp_fusion=True)


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
    )
