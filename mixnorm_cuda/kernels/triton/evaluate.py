"""Eval: y under the mixture's own moments, every component about its own mean.

With d_k = x − μ_k, ℓ_k = Σ_c [d_k (quadratic_k d_k + linear_k) + constant_k] up to a term that all
components share, and y = Σ_k ν_k (scale_k d_k + bias_k).

The training sweeps centre x on one value per channel near the data. Eval knows of none: it would
have to come from x, and one position must not touch another's output. About a value far from the
data, such as the mean of a mixture whose heaviest component has none here, x would lose digits.
"""

import triton
import triton.language as tl

from mixnorm_cuda.kernels.triton.coefficients import affine, mixing_factor
from mixnorm_cuda.kernels.triton.posterior import load_weights, softmax, store_weights
from mixnorm_cuda.kernels.triton.tile import (
    channel_block,
    channel_offsets,
    chunk_tiles,
    position_count,
    row,
    rows,
    tile_positions,
    zeros,
)

ROWS = tl.constexpr(6)
"""Of a component in the table [6 K, C]: mean, quadratic, linear, constant, scale, bias."""
MEAN, QUADRATIC, LINEAR = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
CONSTANT, SCALE, BIAS = tl.constexpr(3), tl.constexpr(4), tl.constexpr(5)


@triton.jit
def median(values, K: tl.constexpr):
    """The lower median of the first K values of every row of [C, P]: [C, 1]."""
    k = tl.arange(0, values.shape[1])
    mine, other = values[:, :, None], values[:, None, :]
    before = (other < mine) | ((other == mine) & (k[None, None, :] < k[None, :, None]))
    rank = tl.sum((before & (k < K)[None, None, :]).to(tl.int32), axis=2)
    chosen = (rank == (K - 1) // 2) & (k < K)[None, :]
    return tl.sum(tl.where(chosen, values, 0.0), axis=1, keep_dims=True)


@triton.jit
def _evaluation_table_kernel(
    mixing_weight_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    weight_stride_k,
    weight_stride_c,
    bias_ptr,
    bias_stride_k,
    bias_stride_c,
    table_ptr,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    EPS: tl.constexpr,
    MIXING_SCALE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Rows of all components, in float64 up to their rounding.

    Logits are relative to that of one Gaussian per channel, with the components' median mean and
    median variance. It cancels in ν, and no single component, however far from the others or
    narrow, decides how large the terms of those are that share the data.
    """
    T: tl.constexpr = table_ptr.dtype.element_ty
    # The smallest normal number: a component whose weight reached 0 stays finite.
    TINY: tl.constexpr = 2.2250738585072014e-308 if tl.float64 == T else 1.1754943508222875e-38
    c = (tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C))[:, None]
    k = tl.arange(0, BLOCK_K)[None, :]
    exists = (c < C) & (k < K)
    at = k * C + c
    mixing_weight = tl.load(mixing_weight_ptr + c // D * K + k, mask=exists, other=1.0)
    mixing_weight = mixing_weight.to(tl.float64)
    mean = tl.load(mean_ptr + at, mask=exists, other=0.0).to(tl.float64)
    variance = tl.load(var_ptr + at, mask=exists, other=1.0).to(tl.float64) + EPS
    middle = median(variance, K)
    precision = 1.0 / middle
    distance = mean - median(mean, K)
    constant = 0.5 * (distance * distance * precision + tl.log(middle) - tl.log(variance))
    # The mixing weight enters with the first channel of a group: sums over channels have it once.
    constant += tl.where(c % D == 0, tl.log(tl.maximum(mixing_weight, TINY)), 0.0)
    gamma = affine(weight_ptr, k, c, exists, weight_stride_k, weight_stride_c, 1.0)
    beta = affine(bias_ptr, k, c, exists, bias_stride_k, bias_stride_c, 0.0)
    scale = gamma * mixing_factor(mixing_weight, MIXING_SCALE) / tl.sqrt(variance)
    out = table_ptr + ROWS * k * C + c
    tl.store(out + MEAN * C, mean.to(T), mask=exists)
    tl.store(out + QUADRATIC * C, (0.5 * (precision - 1.0 / variance)).to(T), mask=exists)
    tl.store(out + LINEAR * C, (distance * precision).to(T), mask=exists)
    tl.store(out + CONSTANT * C, constant.to(T), mask=exists)
    tl.store(out + SCALE * C, scale.to(T), mask=exists)
    tl.store(out + BIAS * C, beta.to(T), mask=exists)


@triton.jit
def about_means(x, mean, K: tl.constexpr):
    """d_k = x − μ_k, exact where they are near each other."""
    found = ()
    for k in tl.static_range(K):
        found = found + (x - mean[k],)
    return found


@triton.jit
def logit_constants(ptr, c, exists, C: tl.constexpr, K: tl.constexpr, JOINT: tl.constexpr):
    """Constants of the logits: [1, 1] each for one joint mixture, [BLOCK_C, 1] per channel."""
    constants = rows(ptr, c, exists, C, CONSTANT, ROWS, K)
    if JOINT:
        totals = ()
        for k in tl.static_range(K):
            totals = totals + (tl.sum(constants[k], axis=0, keep_dims=True),)
        constants = totals
    return constants


@triton.jit
def evaluated_posterior(d, quadratic, linear, constants, K: tl.constexpr, JOINT: tl.constexpr):
    """ν: K times [1, P] for one joint mixture, [C, P] per channel."""
    logits = ()
    for k in tl.static_range(K):
        logit = d[k] * (quadratic[k] * d[k] + linear[k])
        if JOINT:
            logit = tl.sum(logit, axis=0, keep_dims=True)
        logits = logits + (logit + constants[k],)
    return softmax(logits, K)


@triton.jit
def _evaluate_kernel(
    x_ptr,
    table_ptr,
    nu_ptr,
    y_ptr,
    runs,
    row_runs,
    base,
    extra,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    K: tl.constexpr,
    NU: tl.constexpr,
    SHARED_BIAS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    VEC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ONE_ROW: tl.constexpr,
):
    """One chunk of one block; ``NU`` as in the moments."""
    T: tl.constexpr = table_ptr.dtype.element_ty
    COMPUTED: tl.constexpr = NU == "joint" or NU == "channel"
    group, c, exists = channel_block(tl.program_id(0), SPAN, BLOCK_C)
    in_row = channel_offsets(c, row_runs, VEC, CHANNELS_LAST)
    mean = rows(table_ptr, c, exists, C, MEAN, ROWS, K)
    scale = rows(table_ptr, c, exists, C, SCALE, ROWS, K)
    bias = rows(table_ptr, c, exists, C, BIAS, ROWS, 1 if SHARED_BIAS else K)
    if COMPUTED:
        quadratic = rows(table_ptr, c, exists, C, QUADRATIC, ROWS, K)
        linear = rows(table_ptr, c, exists, C, LINEAR, ROWS, K)
        constants = logit_constants(table_ptr, c, exists, C, K, NU == "joint")
    positions = position_count(runs, VEC, CHANNELS_LAST)
    first, count = chunk_tiles(tl.program_id(1), base, extra)
    for tile in range(first, first + count):
        i, offsets, valid = tile_positions(
            tile, runs, row_runs, C, BLOCK_P, VEC, CHANNELS_LAST, ONE_ROW
        )
        where = in_row[:, None] + offsets[None, :]
        mask = exists[:, None] & valid[None, :]
        d = about_means(tl.load(x_ptr + where, mask=mask, other=0.0).to(T), mean, K)
        if NU == "one":
            y = scale[0] * d[0] + bias[0]
        else:
            if NU == "loaded":
                nu = load_weights(nu_ptr, group, i, valid, positions, K)
            else:
                nu = evaluated_posterior(d, quadratic, linear, constants, K, NU == "joint")
            if SHARED_BIAS:
                y = nu[0] * (scale[0] * d[0]) + bias[0]
                for k in tl.static_range(1, K):
                    y += nu[k] * (scale[k] * d[k])
            else:
                y = nu[0] * (scale[0] * d[0] + bias[0])
                for k in tl.static_range(1, K):
                    y += nu[k] * (scale[k] * d[k] + bias[k])
        tl.store(y_ptr + where, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _evaluate_responsibilities_kernel(
    x_ptr,
    table_ptr,
    nu_ptr,
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
    """ν [G, K, M] of groups whose channels do not fit one tile: logits block by block."""
    group = tl.program_id(0)
    first, count = chunk_tiles(tl.program_id(1), base, extra)
    T: tl.constexpr = table_ptr.dtype.element_ty
    BLOCKS: tl.constexpr = (SPAN + BLOCK_C - 1) // BLOCK_C
    for tile in range(first, first + count):
        i, offsets, valid = tile_positions(
            tile, runs, row_runs, C, BLOCK_P, VEC, CHANNELS_LAST, ONE_ROW
        )
        logits = zeros(1, BLOCK_P, T, K)
        for block in range(BLOCKS):
            group, c, exists = channel_block(group * BLOCKS + block, SPAN, BLOCK_C)
            where = channel_offsets(c, row_runs, VEC, CHANNELS_LAST)[:, None] + offsets[None, :]
            x = tl.load(x_ptr + where, mask=exists[:, None] & valid[None, :], other=0.0).to(T)
            more = ()
            for k in tl.static_range(K):
                d = x - row(table_ptr, ROWS * k + MEAN, c, exists, C)
                quadratic = row(table_ptr, ROWS * k + QUADRATIC, c, exists, C)
                linear = row(table_ptr, ROWS * k + LINEAR, c, exists, C)
                constant = row(table_ptr, ROWS * k + CONSTANT, c, exists, C)
                terms = d * (quadratic * d + linear) + constant
                more = more + (logits[k] + tl.sum(terms, axis=0, keep_dims=True),)
            logits = more
        positions = position_count(runs, VEC, CHANNELS_LAST)
        store_weights(nu_ptr, softmax(logits, K), group, i, valid, positions, K)
