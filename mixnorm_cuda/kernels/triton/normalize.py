"""y = Σ_k ν_k (scale_k x' + offset_k), tile by tile."""

import triton
import triton.language as tl

from mixnorm_cuda.kernels.triton.posterior import load_weights, odds_constants, posterior
from mixnorm_cuda.kernels.triton.tile import (
    channel_block,
    channel_offsets,
    chunk_tiles,
    position_count,
    row,
    rows,
    tile_positions,
)


@triton.jit
def _normalize_kernel(
    x_ptr,
    posterior_ptr,
    nu_ptr,
    output_ptr,
    y_ptr,
    runs,
    row_runs,
    base,
    extra,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    K: tl.constexpr,
    NU: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    VEC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ONE_ROW: tl.constexpr,
):
    """One chunk of one block; ``NU`` as in the moments.

    Tiles come in reverse: the last ones that the moments read are still in the L2 cache.
    """
    T: tl.constexpr = posterior_ptr.dtype.element_ty
    COMPUTED: tl.constexpr = NU == "joint" or NU == "channel"
    group, c, exists = channel_block(tl.program_id(0), SPAN, BLOCK_C)
    in_row = channel_offsets(c, row_runs, VEC, CHANNELS_LAST)
    shift = row(posterior_ptr, 0, c, exists, C)
    scale = rows(output_ptr, c, exists, C, 0, 2, K)
    offset = rows(output_ptr, c, exists, C, 1, 2, K)
    if COMPUTED:
        quadratic = rows(posterior_ptr, c, exists, C, 1, 3, K - 1)
        linear = rows(posterior_ptr, c, exists, C, 2, 3, K - 1)
        constants = odds_constants(posterior_ptr, c, exists, C, K, NU == "joint")
    positions = position_count(runs, VEC, CHANNELS_LAST)
    first, count = chunk_tiles(tl.program_id(1), base, extra)
    for back in range(count):
        i, offsets, valid = tile_positions(
            first + count - 1 - back, runs, row_runs, C, BLOCK_P, VEC, CHANNELS_LAST, ONE_ROW
        )
        where = in_row[:, None] + offsets[None, :]
        mask = exists[:, None] & valid[None, :]
        x = tl.load(x_ptr + where, mask=mask, other=0.0).to(T) - shift
        if NU == "one":
            y = scale[0] * x + offset[0]
        else:
            if NU == "loaded":
                nu = load_weights(nu_ptr, group, i, valid, positions, K)
            else:
                nu = posterior(x, quadratic, linear, constants, K, NU == "joint")
            y = nu[0] * (scale[0] * x + offset[0])
            for k in tl.static_range(1, K):
                y += nu[k] * (scale[k] * x + offset[k])
        tl.store(y_ptr + where, y.to(y_ptr.dtype.element_ty), mask=mask)
