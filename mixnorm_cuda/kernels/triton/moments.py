"""M-step: partial sums of ν, ν x', ν x'² over chunks of positions, then merged in fixed order."""

import triton
import triton.language as tl

from mixnorm_cuda.kernels.triton.coefficients import (
    MIN_MASS,
    affine,
    mixing_factor,
    store_logit,
    store_output,
)
from mixnorm_cuda.kernels.triton.posterior import (
    load_weights,
    odds_constants,
    posterior,
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
def _moments_kernel(
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
    NU: tl.constexpr,
    STORE_NU: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    REPEATS: tl.constexpr,
    VECTOR: tl.constexpr,
    VEC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ONE_ROW: tl.constexpr,
):
    """Sums [chunks, 2K, C] of ν x' and ν x'², masses [chunks, G, K] of one chunk of one block.

    NU says where ν comes from: "joint" and "channel" compute it for the group or for each channel
    of the tile, "loaded" reads [G, K, M], "one" is the single component's.
    """
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
    mass = zeros(BLOCK_C if NU == "channel" else 1, THREADS, T, K)
    linear_sum = zeros(BLOCK_C, THREADS, T, K)
    square_sum = zeros(BLOCK_C, THREADS, T, K)
    first, count = chunk_tiles(chunk, base, extra)
    for tile in range(first, first + count):
        i, offsets, valid = tile_positions(
            tile, runs, row_runs, C, BLOCK_P, VEC, CHANNELS_LAST, ONE_ROW
        )
        where = in_row[:, None] + offsets[None, :]
        x = tl.load(x_ptr + where, mask=exists[:, None] & valid[None, :], other=0.0).to(T) - shift
        if NU == "one":
            nu = (tl.full([1, BLOCK_P], 1.0, T),)
        elif NU == "loaded":
            nu = load_weights(nu_ptr, group, i, valid, positions, K)
        else:
            nu = posterior(x, quadratic, linear, constants, K, NU == "joint")
            if STORE_NU:
                store_weights(nu_ptr, nu, group, i, valid, positions, K)
        mass_next, linear_next, square_next = (), (), ()
        for k in tl.static_range(K):
            w = tl.where(valid[None, :], nu[k], 0.0)
            wx = w * x
            mass_next = mass_next + (mass[k] + thread_sum(w, REPEATS, VECTOR),)
            linear_next = linear_next + (linear_sum[k] + thread_sum(wx, REPEATS, VECTOR),)
            square_next = square_next + (square_sum[k] + thread_sum(wx * x, REPEATS, VECTOR),)
        mass, linear_sum, square_sum = mass_next, linear_next, square_next

    out = sums_ptr + tl.full([], 2 * K * C, tl.int64) * chunk + c
    for k in tl.static_range(K):
        tl.store(out + 2 * k * C, tl.sum(linear_sum[k], axis=1), mask=exists)
        tl.store(out + (2 * k + 1) * C, tl.sum(square_sum[k], axis=1), mask=exists)
        if NU == "channel":
            tl.store(mass_ptr + (chunk * C + c) * K + k, tl.sum(mass[k], axis=1), mask=exists)
        elif NU != "one":
            # Blocks of one group write the same value.
            at = mass_ptr + (chunk * (C // SPAN) + group) * K + k
            tl.store(at + tl.arange(0, 1), tl.sum(mass[k], axis=1))


@triton.jit
def merged(ptr, chunks, stride, at, exists, BLOCK_J: tl.constexpr):
    """Σ over chunks of ptr[j, at], in float64 and in the order of the chunks."""
    total = tl.zeros([BLOCK_J, at.shape[0]], tl.float64)
    for start in range(0, chunks, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        mask = (j < chunks)[:, None] & exists[None, :]
        where = (j * tl.full([], 1, tl.int64) * stride)[:, None] + at[None, :]
        total += tl.load(ptr + where, mask=mask, other=0.0).to(tl.float64)
    return tl.sum(total, axis=0)


@triton.jit
def _merge_moments_kernel(
    mass_ptr,
    sums_ptr,
    chunks,
    positions,
    mixing_weight_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    weight_stride_k,
    weight_stride_c,
    bias_ptr,
    bias_stride_k,
    bias_stride_c,
    posterior_ptr,
    output_ptr,
    batch_mass_ptr,
    batch_mean_ptr,
    batch_var_ptr,
    final_weight_ptr,
    final_mean_ptr,
    final_var_ptr,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    EM: tl.constexpr,
    EPS: tl.constexpr,
    MIXING_SCALE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """m = Σ ν x/S̃ + μ (1 − S/S̃), q = Σ ν (x − m)²/S̃ from the chunks' sums.

    An EM step goes on to write θ = (S/M, m, q) to ``final_*`` and its table of logits; the last
    merge writes the moments, the output's table and, where ``final_*`` are given, a copy of θ.
    """
    _group, c, exists = channel_block(tl.program_id(0), SPAN, BLOCK_C)
    group = c // D
    G: tl.constexpr = C // D
    T: tl.constexpr = posterior_ptr.dtype.element_ty
    first = c % D == 0
    shift = tl.load(posterior_ptr + c, mask=exists, other=0.0).to(tl.float64)
    zero = tl.zeros([BLOCK_C], tl.float64)
    origin = (zero, zero, zero)
    for k in range(K):
        at = k * C + c
        at_group = group * K + k
        if K == 1:
            mass = zero + positions
        else:
            mass = merged(mass_ptr, chunks, G * K, at_group, exists, BLOCK_J)
        linear = merged(sums_ptr, chunks, 2 * K * C, 2 * k * C + c, exists, BLOCK_J)
        square = merged(sums_ptr, chunks, 2 * K * C, (2 * k + 1) * C + c, exists, BLOCK_J)
        mixing_weight = tl.load(mixing_weight_ptr + at_group, mask=exists, other=1.0)
        mu = tl.load(mean_ptr + at, mask=exists, other=0.0)
        inverse = 1.0 / tl.maximum(mass, MIN_MASS)
        mean = linear * inverse + (mu.to(tl.float64) - shift) * (1.0 - mass * inverse)
        var = (square - mean * (2.0 * linear - mean * mass)) * inverse
        # As a comparison, which keeps NaN.
        var = tl.where(var < 0.0, 0.0, var)
        if EM:
            share = mass / tl.maximum(zero + positions, 1.0)
            tl.store(final_weight_ptr + at_group, share.to(T), mask=exists & first)
            tl.store(final_mean_ptr + at, (mean + shift).to(T), mask=exists)
            tl.store(final_var_ptr + at, var.to(T), mask=exists)
            if K > 1:
                origin = store_logit(
                    posterior_ptr, k, c, first, exists, share, mean, var, origin, C, EPS
                )
        else:
            tl.store(batch_mass_ptr + at_group, mass.to(T), mask=exists & first)
            tl.store(batch_mean_ptr + at, (mean + shift).to(T), mask=exists)
            tl.store(batch_var_ptr + at, var.to(T), mask=exists)
            if final_mean_ptr is not None:
                theta_var = tl.load(var_ptr + at, mask=exists)
                tl.store(final_weight_ptr + at_group, mixing_weight, mask=exists & first)
                tl.store(final_mean_ptr + at, mu, mask=exists)
                tl.store(final_var_ptr + at, theta_var, mask=exists)
            if output_ptr is not None:
                gamma = affine(weight_ptr, k, c, exists, weight_stride_k, weight_stride_c, 1.0)
                beta = affine(bias_ptr, k, c, exists, bias_stride_k, bias_stride_c, 0.0)
                factor = mixing_factor(mixing_weight.to(tl.float64), MIXING_SCALE)
                scale = gamma * factor / tl.sqrt(var + EPS)
                store_output(output_ptr, k, c, exists, scale, mean, beta, C)
