"""E-step: responsibilities of a tile, and their gradient.

Logits are log-odds against component 0, a quadratic in the centred x' = x − shift per channel:
ℓ_k − ℓ_0 = Σ_c [x' (quadratic_kc x' + linear_kc) + constant_kc] (`coefficients.py`).
"""

import triton
import triton.language as tl

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

SHIFT_ROW = tl.constexpr(0)
"""Row of the posterior's table [1 + 3 (K − 1), C] that holds the shift; from the next row on,
quadratic, linear and constant of each component but the first."""


@triton.jit
def softmax(logits, K: tl.constexpr):
    """ν of K components from their logits."""
    top = logits[0]
    for k in tl.static_range(1, K):
        top = tl.maximum(top, logits[k])
    weights = (tl.exp(logits[0] - top),)
    total = weights[0]
    for k in tl.static_range(1, K):
        weight = tl.exp(logits[k] - top)
        total += weight
        weights = weights + (weight,)
    # One division a position: it costs as much as the other operations of the softmax together.
    inverse = 1.0 / total
    nu = ()
    for k in tl.static_range(K):
        nu = nu + (weights[k] * inverse,)
    return nu


@triton.jit
def odds_constants(ptr, c, valid, C: tl.constexpr, K: tl.constexpr, JOINT: tl.constexpr):
    """Constants of the log-odds: [1, 1] each for one joint mixture, [BLOCK_C, 1] per channel."""
    constants = rows(ptr, c, valid, C, 3, 3, K - 1)
    if JOINT:
        totals = ()
        for k in tl.static_range(K - 1):
            totals = totals + (tl.sum(constants[k], axis=0, keep_dims=True),)
        constants = totals
    return constants


@triton.jit
def posterior(x, quadratic, linear, constants, K: tl.constexpr, JOINT: tl.constexpr):
    """ν of the centred tile ``x``: K times [1, P] for one joint mixture, [C, P] per channel."""
    odds = (tl.zeros([1 if JOINT else x.shape[0], x.shape[1]], x.dtype),)
    for k in tl.static_range(K - 1):
        odd = x * (quadratic[k] * x + linear[k])
        if JOINT:
            odd = tl.sum(odd, axis=0, keep_dims=True)
        odds = odds + (odd + constants[k],)
    return softmax(odds, K)


@triton.jit
def load_weights(ptr, group, i, valid, positions, K: tl.constexpr):
    """ν, or dℓ, of the positions ``i`` from [G, K, M]: K times [1, P]."""
    found = ()
    for k in tl.static_range(K):
        start = ptr + (group * K + k) * tl.full([], 1, tl.int64) * positions
        found = found + (tl.load(start + i, mask=valid, other=0.0)[None, :],)
    return found


@triton.jit
def store_weights(ptr, weights, group, i, valid, positions, K: tl.constexpr):
    for k in tl.static_range(K):
        start = ptr + (group * K + k) * tl.full([], 1, tl.int64) * positions
        tl.store(start + i, tl.reshape(weights[k], [i.shape[0]]), mask=valid)


@triton.jit
def log_odds_gradient(nu, dnu, K: tl.constexpr):
    """dℓ_k = ν_k (dν_k − Σ_j ν_j dν_j)."""
    mean = nu[0] * dnu[0]
    for k in tl.static_range(1, K):
        mean += nu[k] * dnu[k]
    found = ()
    for k in tl.static_range(K):
        found = found + (nu[k] * (dnu[k] - mean),)
    return found


@triton.jit
def relative_log_odds_gradient(nu, dnu, K: tl.constexpr):
    """The same from dν_k − dν_0 of the components from 1 on."""
    mean = nu[1] * dnu[0]
    for k in tl.static_range(2, K):
        mean += nu[k] * dnu[k - 1]
    found = (-nu[0] * mean,)
    for k in tl.static_range(1, K):
        found = found + (nu[k] * (dnu[k - 1] - mean),)
    return found


@triton.jit
def _responsibilities_kernel(
    x_ptr,
    posterior_ptr,
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
    T: tl.constexpr = posterior_ptr.dtype.element_ty
    BLOCKS: tl.constexpr = (SPAN + BLOCK_C - 1) // BLOCK_C
    for tile in range(first, first + count):
        i, offsets, valid = tile_positions(
            tile, runs, row_runs, C, BLOCK_P, VEC, CHANNELS_LAST, ONE_ROW
        )
        odds = zeros(1, BLOCK_P, T, K)
        for block in range(BLOCKS):
            group, c, exists = channel_block(group * BLOCKS + block, SPAN, BLOCK_C)
            where = channel_offsets(c, row_runs, VEC, CHANNELS_LAST)[:, None] + offsets[None, :]
            x = tl.load(x_ptr + where, mask=exists[:, None] & valid[None, :], other=0.0).to(T)
            x -= row(posterior_ptr, 0, c, exists, C)
            more = (odds[0],)
            for k in tl.static_range(1, K):
                quadratic = row(posterior_ptr, 3 * k - 2, c, exists, C)
                linear = row(posterior_ptr, 3 * k - 1, c, exists, C)
                constant = row(posterior_ptr, 3 * k, c, exists, C)
                terms = x * (quadratic * x + linear) + constant
                more = more + (odds[k] + tl.sum(terms, axis=0, keep_dims=True),)
            odds = more
        positions = position_count(runs, VEC, CHANNELS_LAST)
        store_weights(nu_ptr, softmax(odds, K), group, i, valid, positions, K)
