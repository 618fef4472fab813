"""Backward beside the sweeps: from chunks' sums to coefficients and gradients of parameters."""

import triton
import triton.language as tl

from mixnorm_cuda.kernels.triton.coefficients import (
    MIN_MASS,
    MIN_MIXING_WEIGHT,
    affine,
    mixing_factor,
    store_output,
)
from mixnorm_cuda.kernels.triton.moments import merged
from mixnorm_cuda.kernels.triton.tile import channel_block


@triton.jit
def _merge_output_sums_kernel(
    sums_ptr,
    chunks,
    mass_ptr,
    mean_ptr,
    var_ptr,
    mixing_weight_ptr,
    weight_ptr,
    weight_stride_k,
    weight_stride_c,
    bias_ptr,
    bias_stride_k,
    bias_stride_c,
    posterior_ptr,
    output_ptr,
    statistics_ptr,
    scale_sums_ptr,
    dweight_ptr,
    dbias_ptr,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    STATISTICS: tl.constexpr,
    CENTRED: tl.constexpr,
    SHARED_WEIGHT: tl.constexpr,
    SHARED_BIAS: tl.constexpr,
    EPS: tl.constexpr,
    MIXING_SCALE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """dβ = H1 and dγ = λ̃^(−½) r H2, [K, C] or, of shared pairs, summed over k; in training also
    the tables that dx needs.

    ``statistics`` [3K, C] holds b, a, h; ``scale_sums`` [K, C], unless null, holds α H2, which λ's
    gradient sums. CENTRED: the sums are of ν dy (x − m), not ν dy x'.
    """
    _group, c, exists = channel_block(tl.program_id(0), SPAN, BLOCK_C)
    group = c // D
    T: tl.constexpr = posterior_ptr.dtype.element_ty
    shift = tl.load(posterior_ptr + c, mask=exists, other=0.0).to(tl.float64)
    dweight = tl.zeros([BLOCK_C], tl.float64)
    dbias = tl.zeros([BLOCK_C], tl.float64)
    for k in range(K):
        at = k * C + c
        h1 = merged(sums_ptr, chunks, 2 * K * C, 2 * k * C + c, exists, BLOCK_J)
        h2 = merged(sums_ptr, chunks, 2 * K * C, (2 * k + 1) * C + c, exists, BLOCK_J)
        mean = tl.load(mean_ptr + at, mask=exists, other=0.0).to(tl.float64) - shift
        var = tl.load(var_ptr + at, mask=exists, other=1.0).to(tl.float64)
        mixing_weight = tl.load(mixing_weight_ptr + group * K + k, mask=exists, other=1.0)
        if not CENTRED:
            h2 -= mean * h1
        r = 1.0 / tl.sqrt(var + EPS)
        factor = mixing_factor(mixing_weight.to(tl.float64), MIXING_SCALE)
        dbias += h1
        dweight += factor * r * h2
        if not SHARED_BIAS:
            tl.store(dbias_ptr + at, h1.to(T), mask=exists)
        if not SHARED_WEIGHT:
            tl.store(dweight_ptr + at, (factor * r * h2).to(T), mask=exists)
        if STATISTICS:
            gamma = affine(weight_ptr, k, c, exists, weight_stride_k, weight_stride_c, 1.0)
            beta = affine(bias_ptr, k, c, exists, bias_stride_k, bias_stride_c, 0.0)
            mass = tl.load(mass_ptr + group * K + k, mask=exists, other=1.0).to(tl.float64)
            inverse = 1.0 / tl.maximum(mass, MIN_MASS)
            scale = gamma * r * factor
            store_output(output_ptr, k, c, exists, scale, mean, beta, C)
            through_mean = scale * h1 * inverse
            quadratic = -0.5 * scale * r * r * h2 * inverse
            linear = -through_mean - 2.0 * quadratic * mean
            constant = mean * through_mean + quadratic * (mean * mean - var)
            row = statistics_ptr + 3 * k * C + c
            tl.store(row, quadratic.to(T), mask=exists)
            tl.store(row + C, linear.to(T), mask=exists)
            tl.store(row + 2 * C, constant.to(T), mask=exists)
            if scale_sums_ptr is not None:
                tl.store(scale_sums_ptr + at, (scale * h2).to(T), mask=exists)
    if SHARED_BIAS:
        tl.store(dbias_ptr + c, dbias.to(T), mask=exists)
    if SHARED_WEIGHT:
        tl.store(dweight_ptr + c, dweight.to(T), mask=exists)


@triton.jit
def _output_gradient_sums_kernel(
    sums_ptr,
    chunks,
    mean_ptr,
    posterior_ptr,
    h1_ptr,
    h2_ptr,
    C: tl.constexpr,
    K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """H1 = Σ ν dy and H2 = Σ ν dy (x − m), [K, C]: what processes exchange."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = c < C
    T: tl.constexpr = h1_ptr.dtype.element_ty
    shift = tl.load(posterior_ptr + c, mask=exists, other=0.0).to(tl.float64)
    for k in range(K):
        at = k * C + c
        h1 = merged(sums_ptr, chunks, 2 * K * C, 2 * k * C + c, exists, BLOCK_J)
        h2 = merged(sums_ptr, chunks, 2 * K * C, (2 * k + 1) * C + c, exists, BLOCK_J)
        mean = tl.load(mean_ptr + at, mask=exists, other=0.0).to(tl.float64) - shift
        tl.store(h1_ptr + at, h1.to(T), mask=exists)
        tl.store(h2_ptr + at, (h2 - mean * h1).to(T), mask=exists)


@triton.jit
def _mixture_gradient_kernel(
    log_mass_ptr,
    log_sums_ptr,
    chunks,
    mean_ptr,
    var_ptr,
    posterior_ptr,
    dmean_ptr,
    dvar_ptr,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """dμ = L1/(σ²+ε) and dσ² = ½ [L2/(σ²+ε) − L0]/(σ²+ε), sums about μ."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = c < C
    group = c // D
    G: tl.constexpr = C // D
    T: tl.constexpr = dmean_ptr.dtype.element_ty
    shift = tl.load(posterior_ptr + c, mask=exists, other=0.0).to(tl.float64)
    for k in range(K):
        at = k * C + c
        l0 = merged(log_mass_ptr, chunks, G * K, group * K + k, exists, BLOCK_J)
        l1 = merged(log_sums_ptr, chunks, 2 * K * C, 2 * k * C + c, exists, BLOCK_J)
        l2 = merged(log_sums_ptr, chunks, 2 * K * C, (2 * k + 1) * C + c, exists, BLOCK_J)
        mean = tl.load(mean_ptr + at, mask=exists, other=0.0).to(tl.float64) - shift
        var = tl.load(var_ptr + at, mask=exists, other=1.0).to(tl.float64)
        precision = 1.0 / (var + EPS)
        about_mean = l2 - 2.0 * mean * l1 + mean * mean * l0
        tl.store(dmean_ptr + at, ((l1 - mean * l0) * precision).to(T), mask=exists)
        dvar = 0.5 * (about_mean * precision - l0) * precision
        tl.store(dvar_ptr + at, dvar.to(T), mask=exists)


@triton.jit
def _mixing_weight_gradient_kernel(
    log_mass_ptr,
    chunks,
    scale_sums_ptr,
    mixing_weight_ptr,
    dmixing_weight_ptr,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    LOG_SUMS: tl.constexpr,
    MIXING_SCALE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """dλ = L0/λ − ½ Σ_c α H2/λ (the second term 0 where λ is below its floor), one (g, k) each."""
    entry = tl.program_id(0)
    group = entry // K
    k = entry % K
    G: tl.constexpr = C // D
    T: tl.constexpr = dmixing_weight_ptr.dtype.element_ty
    TINY: tl.constexpr = 2.2250738585072014e-308 if tl.float64 == T else 1.1754943508222875e-38
    at = entry + tl.arange(0, 1)
    here = at == entry
    mixing_weight = tl.load(mixing_weight_ptr + at).to(tl.float64)
    gradient = tl.zeros([1], tl.float64)
    if LOG_SUMS:
        l0 = merged(log_mass_ptr, chunks, G * K, at, here, BLOCK_J)
        gradient = l0 / tl.maximum(mixing_weight, TINY)
    if MIXING_SCALE:
        total = tl.zeros([BLOCK_C], tl.float64)
        for start in range(0, D, BLOCK_C):
            inner = start + tl.arange(0, BLOCK_C)
            total += tl.load(
                scale_sums_ptr + k * C + group * D + inner, mask=inner < D, other=0.0
            ).to(tl.float64)
        through_scale = -0.5 * tl.sum(total, axis=0) / mixing_weight
        gradient += tl.where(mixing_weight >= MIN_MIXING_WEIGHT, through_scale, 0.0)
    tl.store(dmixing_weight_ptr + at, gradient.to(T))
