"""Tables of per-channel coefficients: of the logits, of the output. In float64, K · C numbers.

v = σ² + ε, p = 1/v and μ' = μ − shift give component k's logit on x' = x − shift as
−½ p x'² + μ' p x' − ½ (μ'² p + log v); the tables hold differences to component 0.
"""

import triton
import triton.language as tl

from mixnorm_cuda.kernels.triton.tile import channel_block

MIN_MASS = tl.constexpr(1e-6)
MIN_MIXING_WEIGHT = tl.constexpr(1e-3)


@triton.jit
def store_logit(ptr, k, c, first, exists, mixing_weight, mean, var, origin, C, EPS: tl.constexpr):
    """Write component ``k``'s rows; returns the logit of component 0, which they are relative to.

    ``mean`` is μ'. The mixing weight enters with the first channel of a group, so that the sum over
    channels has it once.
    """
    T: tl.constexpr = ptr.dtype.element_ty
    # The smallest normal number: a component whose weight reached 0 stays finite.
    TINY: tl.constexpr = 2.2250738585072014e-308 if tl.float64 == T else 1.1754943508222875e-38
    variance = var + EPS
    precision = 1.0 / variance
    quadratic = -0.5 * precision
    linear = mean * precision
    constant = -0.5 * (mean * mean * precision + tl.log(variance))
    constant += tl.where(first, tl.log(tl.maximum(mixing_weight, TINY)), 0.0)
    is_origin = k == 0
    origin = (
        tl.where(is_origin, quadratic, origin[0]),
        tl.where(is_origin, linear, origin[1]),
        tl.where(is_origin, constant, origin[2]),
    )
    at = ptr + (3 * k - 2) * C + c
    mask = exists & (k > 0)
    tl.store(at, (quadratic - origin[0]).to(T), mask=mask)
    tl.store(at + C, (linear - origin[1]).to(T), mask=mask)
    tl.store(at + 2 * C, (constant - origin[2]).to(T), mask=mask)
    return origin


@triton.jit
def mixing_factor(mixing_weight, MIXING_SCALE: tl.constexpr):
    """λ̃^(−½), or 1."""
    if MIXING_SCALE:
        factor = 1.0 / tl.sqrt(tl.maximum(mixing_weight, MIN_MIXING_WEIGHT))
    else:
        factor = tl.full(mixing_weight.shape, 1.0, tl.float64)
    return factor


@triton.jit
def affine(ptr, k, c, exists, stride_k, stride_c, default):
    """γ or β of component ``k``; absent pairs are null."""
    if ptr is None:
        value = tl.full(c.shape, default, tl.float64)
    else:
        value = tl.load(ptr + k * stride_k + c * stride_c, mask=exists, other=default).to(
            tl.float64
        )
    return value


@triton.jit
def store_output(ptr, k, c, exists, scale, mean, bias, C):
    """Rows 2k and 2k + 1: y = Σ_k ν_k (scale_k x' + offset_k)."""
    T: tl.constexpr = ptr.dtype.element_ty
    tl.store(ptr + 2 * k * C + c, scale.to(T), mask=exists)
    tl.store(ptr + (2 * k + 1) * C + c, (bias - scale * mean).to(T), mask=exists)


@triton.jit
def sampled_mean(
    x_ptr,
    c,
    exists,
    positions,
    length,
    SAMPLES: tl.constexpr,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Mean of each channel over SAMPLES positions spread evenly; 0 where it is not finite."""
    sample = tl.arange(0, SAMPLES)
    i = sample * tl.full([], 1, tl.int64) * positions // SAMPLES
    if CHANNELS_LAST:
        where = i[None, :] * C + c[:, None]
    else:
        n = i // length
        where = (n * C)[None, :] * length + c[:, None] * length + (i - n * length)[None, :]
    x = tl.load(x_ptr + where, mask=exists[:, None], other=0.0).to(tl.float64)
    mean = tl.sum(x, axis=1) / SAMPLES
    return tl.where(tl.abs(mean) < float("inf"), mean, 0.0)


@triton.jit
def _coefficients_kernel(
    x_ptr,
    mixing_weight_ptr,
    mean_ptr,
    var_ptr,
    mass_ptr,
    batch_mean_ptr,
    batch_var_ptr,
    weight_ptr,
    weight_stride_k,
    weight_stride_c,
    bias_ptr,
    bias_stride_k,
    bias_stride_c,
    posterior_ptr,
    output_ptr,
    positions,
    length,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    EPS: tl.constexpr,
    MIXING_SCALE: tl.constexpr,
    SAMPLES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """The posterior's table of θ and, unless ``output_ptr`` is null, the output's under the
    moments (S, m, q).

    The shift is Σ_k S_k m_k / Σ_k S_k, or a mean of sampled x where the moments are not known
    (null): near the data in both cases, so that squares about it lose no digits.
    """
    _group, c, exists = channel_block(tl.program_id(0), SPAN, BLOCK_C)
    group = c // D
    T: tl.constexpr = posterior_ptr.dtype.element_ty
    if mass_ptr is None:
        shift = sampled_mean(x_ptr, c, exists, positions, length, SAMPLES, C, CHANNELS_LAST)
    else:
        total = tl.zeros([BLOCK_C], tl.float64)
        shift = tl.zeros([BLOCK_C], tl.float64)
        for k in range(K):
            w = tl.load(mass_ptr + group * K + k, mask=exists, other=1.0).to(tl.float64)
            m = tl.load(batch_mean_ptr + k * C + c, mask=exists, other=0.0).to(tl.float64)
            total += w
            shift += w * m
        shift = shift / total
        shift = tl.where(tl.abs(shift) < float("inf"), shift, 0.0)
    shift = shift.to(T)
    tl.store(posterior_ptr + c, shift, mask=exists)
    zero = tl.zeros([BLOCK_C], tl.float64)
    origin = (zero, zero, zero)
    for k in range(K):
        at = k * C + c
        mixing_weight = tl.load(mixing_weight_ptr + group * K + k, mask=exists, other=1.0)
        if K > 1:
            mean = tl.load(mean_ptr + at, mask=exists, other=0.0).to(tl.float64)
            var = tl.load(var_ptr + at, mask=exists, other=1.0).to(tl.float64)
            origin = store_logit(
                posterior_ptr, k, c, c % D == 0, exists, mixing_weight.to(tl.float64),
                mean - shift.to(tl.float64), var, origin, C, EPS,
            )  # fmt: skip
        if output_ptr is not None:
            m = tl.load(batch_mean_ptr + at, mask=exists, other=0.0).to(tl.float64)
            q = tl.load(batch_var_ptr + at, mask=exists, other=1.0).to(tl.float64)
            gamma = affine(weight_ptr, k, c, exists, weight_stride_k, weight_stride_c, 1.0)
            beta = affine(bias_ptr, k, c, exists, bias_stride_k, bias_stride_c, 0.0)
            scale = gamma * mixing_factor(mixing_weight.to(tl.float64), MIXING_SCALE)
            scale = scale / tl.sqrt(q + EPS)
            store_output(output_ptr, k, c, exists, scale, m - shift.to(tl.float64), beta, C)
