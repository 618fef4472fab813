"""Backward: the sums H1 = Σ ν dy and Σ ν dy x', then dx and the sums of θ's gradient.

On x' = x − shift, with α = γ r λ̃^(−½), τ = β − α m', b = −½ α r² H2/S, a = −α H1/S − 2 b m' and
h = α m' H1/S + b (m'² − q):
dν_k = Σ_c [dy (α x' + τ) + x' (b x' + a) + h] and
dx = Σ_k ν_k (α dy + a + 2 b x') + Σ_k dℓ_k ∂ℓ_k/∂x.
What all dν_k of a position have in common leaves no dℓ, so only dν_k − dν_0 is computed.
"""

import triton
import triton.language as tl

from mixnorm_cuda.kernels.triton.posterior import (
    load_weights,
    odds_constants,
    posterior,
    relative_log_odds_gradient,
    store_weights,
)
from mixnorm_cuda.kernels.triton.tile import (
    channel_block,
    channel_offsets,
    chunk_tiles,
    position_count,
    relative,
    row,
    rows,
    thread_sum,
    tile_positions,
    zeros,
)


@triton.jit
def _output_sums_kernel(
    dy_ptr,
    x_ptr,
    posterior_ptr,
    nu_ptr,
    sums_ptr,
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
    REPEATS: tl.constexpr,
    VECTOR: tl.constexpr,
    VEC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ONE_ROW: tl.constexpr,
):
    """Sums [chunks, 2K, C] of ν dy and ν dy x' over one chunk of one block."""
    chunk = tl.program_id(1)
    T: tl.constexpr = sums_ptr.dtype.element_ty
    THREADS: tl.constexpr = BLOCK_P // (REPEATS * VECTOR)
    COMPUTED: tl.constexpr = NU == "joint" or NU == "channel"
    group, c, exists = channel_block(tl.program_id(0), SPAN, BLOCK_C)
    in_row = channel_offsets(c, row_runs, VEC, CHANNELS_LAST)
    shift = row(posterior_ptr, 0, c, exists, C)
    if COMPUTED:
        quadratic = rows(posterior_ptr, c, exists, C, 1, 3, K - 1)
        linear = rows(posterior_ptr, c, exists, C, 2, 3, K - 1)
        constants = odds_constants(posterior_ptr, c, exists, C, K, NU == "joint")
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
        x = tl.load(x_ptr + where, mask=mask, other=0.0).to(T) - shift
        # 0 outside the tensor, which keeps what x is there out of the sums.
        dy = tl.load(dy_ptr + where, mask=mask, other=0.0).to(T)
        if NU == "one":
            nu = (tl.full([1, BLOCK_P], 1.0, T),)
        elif NU == "loaded":
            nu = load_weights(nu_ptr, group, i, valid, positions, K)
        else:
            nu = posterior(x, quadratic, linear, constants, K, NU == "joint")
        product = dy * x
        h1_next, h2_next = (), ()
        for k in tl.static_range(K):
            h1_next = h1_next + (h1[k] + thread_sum(nu[k] * dy, REPEATS, VECTOR),)
            h2_next = h2_next + (h2[k] + thread_sum(nu[k] * product, REPEATS, VECTOR),)
        h1, h2 = h1_next, h2_next

    out = sums_ptr + tl.full([], 2 * K * C, tl.int64) * chunk + c
    for k in tl.static_range(K):
        tl.store(out + 2 * k * C, tl.sum(h1[k], axis=1), mask=exists)
        tl.store(out + (2 * k + 1) * C, tl.sum(h2[k], axis=1), mask=exists)


@triton.jit
def responsibility_gradient(dy, x, scale, offset, quadratic, linear):
    """The terms of dν_k − dν_0 under the sum over channels."""
    return dy * (scale * x + offset) + x * (quadratic * x + linear)


@triton.jit
def gradient_rows(
    posterior_ptr,
    output_ptr,
    statistics_ptr,
    c,
    exists,
    C: tl.constexpr,
    K: tl.constexpr,
    ODDS: tl.constexpr,
):
    """Coefficients that dx is computed from: α, τ, b, a, and the log-odds' quadratic and linear."""
    scale = rows(output_ptr, c, exists, C, 0, 2, K)
    offset = rows(output_ptr, c, exists, C, 1, 2, K)
    quadratic = rows(statistics_ptr, c, exists, C, 0, 3, K)
    linear = rows(statistics_ptr, c, exists, C, 1, 3, K)
    odds_quadratic = rows(posterior_ptr, c, exists, C, 1, 3, K - 1 if ODDS else 0)
    odds_linear = rows(posterior_ptr, c, exists, C, 2, 3, K - 1 if ODDS else 0)
    return scale, offset, quadratic, linear, odds_quadratic, odds_linear


@triton.jit
def _log_odds_gradient_kernel(
    dy_ptr,
    x_ptr,
    posterior_ptr,
    nu_ptr,
    output_ptr,
    statistics_ptr,
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
    T: tl.constexpr = posterior_ptr.dtype.element_ty
    BLOCKS: tl.constexpr = (SPAN + BLOCK_C - 1) // BLOCK_C
    positions = position_count(runs, VEC, CHANNELS_LAST)
    for tile in range(first, first + count):
        i, offsets, valid = tile_positions(
            tile, runs, row_runs, C, BLOCK_P, VEC, CHANNELS_LAST, ONE_ROW
        )
        nu = load_weights(nu_ptr, group, i, valid, positions, K)
        dnu = zeros(1, BLOCK_P, T, K - 1)
        for block in range(BLOCKS):
            group, c, exists = channel_block(group * BLOCKS + block, SPAN, BLOCK_C)
            where = channel_offsets(c, row_runs, VEC, CHANNELS_LAST)[:, None] + offsets[None, :]
            mask = exists[:, None] & valid[None, :]
            x = tl.load(x_ptr + where, mask=mask, other=0.0).to(T)
            x -= row(posterior_ptr, 0, c, exists, C)
            dy = tl.load(dy_ptr + where, mask=mask, other=0.0).to(T)
            # Row by row: many components' at once would spill.
            scale_0 = row(output_ptr, 0, c, exists, C)
            offset_0 = row(output_ptr, 1, c, exists, C)
            quadratic_0 = row(statistics_ptr, 0, c, exists, C)
            linear_0 = row(statistics_ptr, 1, c, exists, C)
            constant_0 = row(statistics_ptr, 2, c, exists, C)
            more = ()
            for k in tl.static_range(1, K):
                scale = row(output_ptr, 2 * k, c, exists, C) - scale_0
                offset = row(output_ptr, 2 * k + 1, c, exists, C) - offset_0
                quadratic = row(statistics_ptr, 3 * k, c, exists, C) - quadratic_0
                linear = row(statistics_ptr, 3 * k + 1, c, exists, C) - linear_0
                constant = row(statistics_ptr, 3 * k + 2, c, exists, C) - constant_0
                terms = responsibility_gradient(dy, x, scale, offset, quadratic, linear)
                more = more + (dnu[k - 1] + tl.sum(terms + constant, axis=0, keep_dims=True),)
            dnu = more
        dlog = relative_log_odds_gradient(nu, dnu, K)
        store_weights(dlog_ptr, dlog, group, i, valid, positions, K)


@triton.jit
def _input_gradient_kernel(
    dy_ptr,
    x_ptr,
    posterior_ptr,
    nu_ptr,
    output_ptr,
    statistics_ptr,
    dlog_ptr,
    dx_ptr,
    log_sums_ptr,
    log_mass_ptr,
    runs,
    row_runs,
    base,
    extra,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    K: tl.constexpr,
    NU: tl.constexpr,
    DLOG: tl.constexpr,
    LOG_SUMS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    REPEATS: tl.constexpr,
    VECTOR: tl.constexpr,
    VEC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ONE_ROW: tl.constexpr,
):
    """dx of one chunk of one block, tiles in reverse as in `_normalize_kernel`.

    DLOG is "none", "computed" or "loaded" (from [G, K, M]). LOG_SUMS adds dℓ, dℓ x', dℓ x'² for θ.
    """
    chunk = tl.program_id(1)
    T: tl.constexpr = posterior_ptr.dtype.element_ty
    THREADS: tl.constexpr = BLOCK_P // (REPEATS * VECTOR)
    COMPUTED: tl.constexpr = NU == "joint" or NU == "channel"
    JOINT: tl.constexpr = NU != "channel"
    ODDS: tl.constexpr = COMPUTED or DLOG != "none"
    WEIGHT_ROWS: tl.constexpr = BLOCK_C if NU == "channel" else 1
    group, c, exists = channel_block(tl.program_id(0), SPAN, BLOCK_C)
    in_row = channel_offsets(c, row_runs, VEC, CHANNELS_LAST)
    shift = row(posterior_ptr, 0, c, exists, C)
    scale, offset, quadratic, linear, odds_quadratic, odds_linear = gradient_rows(
        posterior_ptr, output_ptr, statistics_ptr, c, exists, C, K, ODDS
    )
    if DLOG == "computed":
        dnu_scale, dnu_offset = relative(scale, K), relative(offset, K)
        dnu_quadratic, dnu_linear = relative(quadratic, K), relative(linear, K)
        constant = relative(rows(statistics_ptr, c, exists, C, 2, 3, K), K)
        if JOINT:
            totals = ()
            for k in tl.static_range(K - 1):
                totals = totals + (tl.sum(constant[k], axis=0, keep_dims=True),)
            constant = totals
    if COMPUTED:
        constants = odds_constants(posterior_ptr, c, exists, C, K, JOINT)
    positions = position_count(runs, VEC, CHANNELS_LAST)
    l0 = zeros(WEIGHT_ROWS, THREADS, T, K if LOG_SUMS else 0)
    l1 = zeros(BLOCK_C, THREADS, T, K if LOG_SUMS else 0)
    l2 = zeros(BLOCK_C, THREADS, T, K if LOG_SUMS else 0)
    first, count = chunk_tiles(chunk, base, extra)
    for back in range(count):
        i, offsets, valid = tile_positions(
            first + count - 1 - back, runs, row_runs, C, BLOCK_P, VEC, CHANNELS_LAST, ONE_ROW
        )
        where = in_row[:, None] + offsets[None, :]
        mask = exists[:, None] & valid[None, :]
        x = tl.load(x_ptr + where, mask=mask, other=0.0).to(T) - shift
        dy = tl.load(dy_ptr + where, mask=mask, other=0.0).to(T)
        if NU == "one":
            nu = (tl.full([1, 1], 1.0, T),)
        elif NU == "loaded":
            nu = load_weights(nu_ptr, group, i, valid, positions, K)
        else:
            nu = posterior(x, odds_quadratic, odds_linear, constants, K, JOINT)

        # Of x, not of the rows, of which a thread holds as many as it has registers for.
        twice = x + x
        dx = nu[0] * (scale[0] * dy + (linear[0] + quadratic[0] * twice))
        for k in tl.static_range(1, K):
            dx += nu[k] * (scale[k] * dy + (linear[k] + quadratic[k] * twice))
        if DLOG == "loaded":
            dlog = load_weights(dlog_ptr, group, i, valid, positions, K)
        elif DLOG == "computed":
            dnu = ()
            for k in tl.static_range(K - 1):
                terms = responsibility_gradient(
                    dy, x, dnu_scale[k], dnu_offset[k], dnu_quadratic[k], dnu_linear[k]
                )
                if JOINT:
                    terms = tl.sum(terms, axis=0, keep_dims=True)
                dnu = dnu + (terms + constant[k],)
            dlog = relative_log_odds_gradient(nu, dnu, K)
        if DLOG != "none":
            for k in tl.static_range(K - 1):
                # Σ_k dℓ_k = 0 turns the logits' slopes into those of the log-odds.
                dx += dlog[k + 1] * (odds_linear[k] + odds_quadratic[k] * twice)
        tl.store(dx_ptr + where, dx.to(dx_ptr.dtype.element_ty), mask=mask)

        if LOG_SUMS:
            l0_next, l1_next, l2_next = (), (), ()
            for k in tl.static_range(K):
                w = tl.where(valid[None, :], dlog[k], 0.0)
                wx = w * x
                l0_next = l0_next + (l0[k] + thread_sum(w, REPEATS, VECTOR),)
                l1_next = l1_next + (l1[k] + thread_sum(wx, REPEATS, VECTOR),)
                l2_next = l2_next + (l2[k] + thread_sum(wx * x, REPEATS, VECTOR),)
            l0, l1, l2 = l0_next, l1_next, l2_next

    if LOG_SUMS:
        at = log_sums_ptr + tl.full([], 2 * K * C, tl.int64) * chunk + c
        for k in tl.static_range(K):
            tl.store(at + 2 * k * C, tl.sum(l1[k], axis=1), mask=exists)
            tl.store(at + (2 * k + 1) * C, tl.sum(l2[k], axis=1), mask=exists)
            if NU == "channel":
                at_mass = log_mass_ptr + (chunk * C + c) * K + k
                tl.store(at_mass, tl.sum(l0[k], axis=1), mask=exists)
            else:
                at_mass = log_mass_ptr + (chunk * (C // SPAN) + group) * K + k
                tl.store(at_mass + tl.arange(0, 1), tl.sum(l0[k], axis=1))
