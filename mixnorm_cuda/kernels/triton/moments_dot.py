"""M-step with matrix units: logits and sums as products [K, C] · [C, P] and [K, P] · [P, C].

For many components: a thread of `_moments_kernel` keeps 2 K sums for each of its channels, here
they are spread over the threads of a program. K is padded to 16 rows.
"""

import triton
import triton.language as tl

from mixnorm_cuda.kernels.triton.tile import (
    channel_block,
    channel_offsets,
    chunk_tiles,
    position_count,
    row,
    tile_positions,
)


@triton.jit
def odds_rows(ptr, k, c, exists, C: tl.constexpr, K: tl.constexpr, ROW: tl.constexpr):
    """[ROWS, BLOCK_C] from the posterior's table: 0 for component 0 and for padding."""
    mask = ((k > 0) & (k < K))[:, None] & exists[None, :]
    return tl.load(ptr + ((3 * k - 3 + ROW) * C)[:, None] + c[None, :], mask=mask, other=0.0)


@triton.jit
def _dot_moments_kernel(
    x_ptr,
    posterior_ptr,
    nu_ptr,
    mass_ptr,
    sums_ptr,
    runs,
    row_runs,
    base,
    extra,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    K: tl.constexpr,
    STORE_NU: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    VEC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ONE_ROW: tl.constexpr,
):
    """What `_moments_kernel` writes with ν of the group ("joint"), in float32."""
    chunk = tl.program_id(1)
    group, c, exists = channel_block(tl.program_id(0), SPAN, BLOCK_C)
    in_row = channel_offsets(c, row_runs, VEC, CHANNELS_LAST)
    shift = row(posterior_ptr, 0, c, exists, C)
    k = tl.arange(0, ROWS)
    quadratic = odds_rows(posterior_ptr, k, c, exists, C, K, 1)
    linear = odds_rows(posterior_ptr, k, c, exists, C, K, 2)
    constant = tl.sum(odds_rows(posterior_ptr, k, c, exists, C, K, 3), axis=1)
    constant = tl.where(k < K, constant, float("-inf"))[:, None]
    positions = position_count(runs, VEC, CHANNELS_LAST)
    mass = tl.zeros([ROWS, BLOCK_P], tl.float32)
    linear_sum = tl.zeros([ROWS, BLOCK_C], tl.float32)
    square_sum = tl.zeros([ROWS, BLOCK_C], tl.float32)
    first, count = chunk_tiles(chunk, base, extra)
    for tile in range(first, first + count):
        i, offsets, valid = tile_positions(
            tile, runs, row_runs, C, BLOCK_P, VEC, CHANNELS_LAST, ONE_ROW
        )
        where = in_row[:, None] + offsets[None, :]
        mask = exists[:, None] & valid[None, :]
        x = tl.load(x_ptr + where, mask=mask, other=0.0).to(tl.float32) - shift
        square = x * x
        odds = tl.dot(quadratic, square, input_precision=PRECISION)
        odds = tl.dot(linear, x, odds, input_precision=PRECISION) + constant
        nu = tl.exp(odds - tl.max(odds, axis=0, keep_dims=True))
        nu = nu * (1.0 / tl.sum(nu, axis=0, keep_dims=True))
        if STORE_NU:
            at = nu_ptr + ((group * K + k) * positions)[:, None] + i[None, :]
            tl.store(at, nu, mask=(k < K)[:, None] & valid[None, :])
        nu = tl.where(valid[None, :], nu, 0.0)
        mass += nu
        linear_sum = tl.dot(nu, tl.trans(x), linear_sum, input_precision=PRECISION)
        square_sum = tl.dot(nu, tl.trans(square), square_sum, input_precision=PRECISION)

    out = sums_ptr + tl.full([], 2 * K * C, tl.int64) * chunk
    at = out + (2 * k * C)[:, None] + c[None, :]
    mask = (k < K)[:, None] & exists[None, :]
    tl.store(at, linear_sum, mask=mask)
    tl.store(at + C, square_sum, mask=mask)
    at = mass_ptr + (chunk * (C // SPAN) + group) * K + k
    tl.store(at, tl.sum(mass, axis=1), mask=k < K)
