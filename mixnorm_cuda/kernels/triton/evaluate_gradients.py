"""Gradients of eval's output, with d_k = x − μ_k as in `evaluate.py`; nothing has to be known of
the batch before dx.

dν_k = Σ_c dy (scale_k d_k + bias_k) and
dx = Σ_k ν_k scale_k dy + Σ_k dℓ_k (linear_k + 2 quadratic_k d_k).
"""

import triton
import triton.language as tl

from mixnorm_cuda.kernels.triton.evaluate import (
    BIAS,
    LINEAR,
    MEAN,
    QUADRATIC,
    ROWS,
    SCALE,
    about_means,
    evaluated_posterior,
    logit_constants,
)
from mixnorm_cuda.kernels.triton.posterior import (
    load_weights,
    log_odds_gradient,
    store_weights,
)
from mixnorm_cuda.kernels.triton.tile import (
    channel_block,
    channel_offsets,
    chunk_tiles,
    position_count,
    row,
    rows,
    thread_sum,
    tile_positions,
    zeros,
)


@triton.jit
def _evaluate_log_odds_gradient_kernel(
    dy_ptr,
    x_ptr,
    table_ptr,
    nu_ptr,
    dlog_ptr,
    runs,
    row_runs,
    base,
    extra,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    VEC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ONE_ROW: tl.constexpr,
):
    """dℓ [G, K, M] of groups whose channels do not fit one tile: dν block by block."""
    group = tl.program_id(0)
    first, count = chunk_tiles(tl.program_id(1), base, extra)
    T: tl.constexpr = table_ptr.dtype.element_ty
    BLOCKS: tl.constexpr = (SPAN + BLOCK_C - 1) // BLOCK_C
    positions = position_count(runs, VEC, CHANNELS_LAST)
    for tile in range(first, first + count):
        i, offsets, valid = tile_positions(
            tile, runs, row_runs, C, BLOCK_P, VEC, CHANNELS_LAST, ONE_ROW
        )
        nu = load_weights(nu_ptr, group, i, valid, positions, K)
        dnu = zeros(1, BLOCK_P, T, K)
        for block in range(BLOCKS):
            group, c, exists = channel_block(group * BLOCKS + block, SPAN, BLOCK_C)
            where = channel_offsets(c, row_runs, VEC, CHANNELS_LAST)[:, None] + offsets[None, :]
            mask = exists[:, None] & valid[None, :]
            x = tl.load(x_ptr + where, mask=mask, other=0.0).to(T)
            dy = tl.load(dy_ptr + where, mask=mask, other=0.0).to(T)
            more = ()
            for k in tl.static_range(K):
                d = x - row(table_ptr, ROWS * k + MEAN, c, exists, C)
                scale = row(table_ptr, ROWS * k + SCALE, c, exists, C)
                bias = row(table_ptr, ROWS * k + BIAS, c, exists, C)
                more = more + (dnu[k] + tl.sum(dy * (scale * d + bias), axis=0, keep_dims=True),)
            dnu = more
        store_weights(dlog_ptr, log_odds_gradient(nu, dnu, K), group, i, valid, positions, K)


@triton.jit
def _evaluate_gradient_kernel(
    dy_ptr,
    x_ptr,
    table_ptr,
    nu_ptr,
    dlog_ptr,
    dx_ptr,
    sums_ptr,
    runs,
    row_runs,
    base,
    extra,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    K: tl.constexpr,
    NU: tl.constexpr,
    DLOG: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    REPEATS: tl.constexpr,
    VECTOR: tl.constexpr,
    VEC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ONE_ROW: tl.constexpr,
):
    """dx, and the sums [chunks, 2K, C] of ν dy and ν dy d, of one chunk of one block.

    DLOG is "none", "computed" or "loaded" (from [G, K, M]).
    """
    chunk = tl.program_id(1)
    T: tl.constexpr = table_ptr.dtype.element_ty
    THREADS: tl.constexpr = BLOCK_P // (REPEATS * VECTOR)
    COMPUTED: tl.constexpr = NU == "joint" or NU == "channel"
    JOINT: tl.constexpr = NU != "channel"
    LOGITS: tl.constexpr = COMPUTED or DLOG != "none"
    group, c, exists = channel_block(tl.program_id(0), SPAN, BLOCK_C)
    in_row = channel_offsets(c, row_runs, VEC, CHANNELS_LAST)
    mean = rows(table_ptr, c, exists, C, MEAN, ROWS, K)
    scale = rows(table_ptr, c, exists, C, SCALE, ROWS, K)
    bias = rows(table_ptr, c, exists, C, BIAS, ROWS, K if DLOG == "computed" else 0)
    quadratic = rows(table_ptr, c, exists, C, QUADRATIC, ROWS, K if LOGITS else 0)
    linear = rows(table_ptr, c, exists, C, LINEAR, ROWS, K if LOGITS else 0)
    if COMPUTED:
        constants = logit_constants(table_ptr, c, exists, C, K, JOINT)
    positions = position_count(runs, VEC, CHANNELS_LAST)
    h1 = zeros(BLOCK_C, THREADS, T, K)
    h2 = zeros(BLOCK_C, THREADS, T, K)
    first, count = chunk_tiles(chunk, base, extra)
    for tile in range(first, first + count):
        i, offsets, valid = tile_positions(
            tile, runs, row_runs, C, BLOCK_P, VEC, CHANNELS_LAST, ONE_ROW
        )
        where = in_row[:, None] + offsets[None, :]
        mask = exists[:, None] & valid[None, :]
        d = about_means(tl.load(x_ptr + where, mask=mask, other=0.0).to(T), mean, K)
        # 0 outside the tensor, which keeps what x is there out of the sums.
        dy = tl.load(dy_ptr + where, mask=mask, other=0.0).to(T)
        if NU == "one":
            nu = (tl.full([1, BLOCK_P], 1.0, T),)
        elif NU == "loaded":
            nu = load_weights(nu_ptr, group, i, valid, positions, K)
        else:
            nu = evaluated_posterior(d, quadratic, linear, constants, K, JOINT)
        if DLOG == "loaded":
            dlog = load_weights(dlog_ptr, group, i, valid, positions, K)
        elif DLOG == "computed":
            dnu = ()
            for k in tl.static_range(K):
                terms = dy * (scale[k] * d[k] + bias[k])
                if JOINT:
                    terms = tl.sum(terms, axis=0, keep_dims=True)
                dnu = dnu + (terms,)
            dlog = log_odds_gradient(nu, dnu, K)

        dx = nu[0] * (scale[0] * dy)
        for k in tl.static_range(1, K):
            dx += nu[k] * (scale[k] * dy)
        if DLOG != "none":
            for k in tl.static_range(K):
                dx += dlog[k] * (linear[k] + 2.0 * quadratic[k] * d[k])
        tl.store(dx_ptr + where, dx.to(dx_ptr.dtype.element_ty), mask=mask)

        h1_next, h2_next = (), ()
        for k in tl.static_range(K):
            wdy = nu[k] * dy
            h1_next = h1_next + (h1[k] + thread_sum(wdy, REPEATS, VECTOR),)
            h2_next = h2_next + (h2[k] + thread_sum(wdy * d[k], REPEATS, VECTOR),)
        h1, h2 = h1_next, h2_next

    at = sums_ptr + tl.full([], 2 * K * C, tl.int64) * chunk + c
    for k in tl.static_range(K):
        tl.store(at + 2 * k * C, tl.sum(h1[k], axis=1), mask=exists)
        tl.store(at + (2 * k + 1) * C, tl.sum(h2[k], axis=1), mask=exists)
