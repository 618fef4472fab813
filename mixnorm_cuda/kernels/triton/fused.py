"""Small problems: all passes of a forward or a backward in one launch.

A program has whole groups of channels (of one component: any channels), so it reads nothing that
another one writes: the kernels of the separate launches follow one another, with a barrier where
one reads what the other wrote. x stays in the multiprocessor's cache from the first pass on.
"""

import triton
import triton.language as tl

from mixnorm_cuda.kernels.triton.coefficients import _coefficients_kernel
from mixnorm_cuda.kernels.triton.gradient_merge import _merge_output_sums_kernel
from mixnorm_cuda.kernels.triton.gradients import _input_gradient_kernel, _output_sums_kernel
from mixnorm_cuda.kernels.triton.moments import _merge_moments_kernel, _moments_kernel
from mixnorm_cuda.kernels.triton.normalize import _normalize_kernel
from mixnorm_cuda.kernels.triton.tile import channel_block


@triton.jit
def copy_mixture(
    mixing_weight_ptr,
    mean_ptr,
    var_ptr,
    final_weight_ptr,
    final_mean_ptr,
    final_var_ptr,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """θ of the block's channels and, with their groups' first channels, mixing weights."""
    _group, c, exists = channel_block(tl.program_id(0), SPAN, BLOCK_C)
    first = exists & (c % D == 0)
    for k in range(K):
        at, at_group = k * C + c, c // D * K + k
        tl.store(final_mean_ptr + at, tl.load(mean_ptr + at, mask=exists), mask=exists)
        tl.store(final_var_ptr + at, tl.load(var_ptr + at, mask=exists), mask=exists)
        mixing_weight = tl.load(mixing_weight_ptr + at_group, mask=first)
        tl.store(final_weight_ptr + at_group, mixing_weight, mask=first)


@triton.jit
def _fused_forward_kernel(
    x_ptr,
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
    nu_ptr,
    mass_ptr,
    sums_ptr,
    batch_mass_ptr,
    batch_mean_ptr,
    batch_var_ptr,
    final_weight_ptr,
    final_mean_ptr,
    final_var_ptr,
    y_ptr,
    em_iters,
    positions,
    length,
    runs,
    row_runs,
    base,
    extra,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    NU: tl.constexpr,
    STORE_NU: tl.constexpr,
    EPS: tl.constexpr,
    MIXING_SCALE: tl.constexpr,
    SAMPLES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    REPEATS: tl.constexpr,
    VECTOR: tl.constexpr,
    VEC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ONE_ROW: tl.constexpr,
):
    """EM steps, moments and output of one block of channels, over all positions."""
    OUTPUT_NU: tl.constexpr = "loaded" if STORE_NU else NU
    # Programs share a group when there is one component, which is never estimated here: its weight
    # is read where no other program writes it.
    theta_weight_ptr = mixing_weight_ptr if K == 1 else final_weight_ptr
    copy_mixture(
        mixing_weight_ptr, mean_ptr, var_ptr, final_weight_ptr, final_mean_ptr, final_var_ptr,
        C, SPAN, D, K, BLOCK_C,
    )  # fmt: skip
    _coefficients_kernel(
        x_ptr, mixing_weight_ptr, mean_ptr, var_ptr, None, None, None,
        None, 0, 0, None, 0, 0, posterior_ptr, None, positions, length,
        C, SPAN, D, K, EPS, MIXING_SCALE, SAMPLES, BLOCK_C, CHANNELS_LAST,
    )  # fmt: skip
    tl.debug_barrier()
    # One copy of the moments for all steps: the compiler's time grows faster than the code.
    for step in range(em_iters + 1):
        _moments_kernel(
            x_ptr, posterior_ptr, nu_ptr, mass_ptr, sums_ptr, runs, row_runs, base, extra,
            C, SPAN, K, NU, STORE_NU,
            BLOCK_C, BLOCK_P, REPEATS, VECTOR, VEC, CHANNELS_LAST, ONE_ROW,
        )  # fmt: skip
        tl.debug_barrier()
        if step < em_iters:
            _merge_moments_kernel(
                mass_ptr, sums_ptr, 1, positions, final_weight_ptr, final_mean_ptr, final_var_ptr,
                None, 0, 0, None, 0, 0, posterior_ptr, None, None, None, None,
                final_weight_ptr, final_mean_ptr, final_var_ptr,
                C, SPAN, D, K, True, EPS, MIXING_SCALE, BLOCK_C, 1,
            )  # fmt: skip
        else:
            _merge_moments_kernel(
                mass_ptr, sums_ptr, 1, positions, theta_weight_ptr, final_mean_ptr, final_var_ptr,
                weight_ptr, weight_stride_k, weight_stride_c,
                bias_ptr, bias_stride_k, bias_stride_c,
                posterior_ptr, output_ptr, batch_mass_ptr, batch_mean_ptr, batch_var_ptr,
                None, None, None,
                C, SPAN, D, K, False, EPS, MIXING_SCALE, BLOCK_C, 1,
            )  # fmt: skip
        tl.debug_barrier()
    _normalize_kernel(
        x_ptr, posterior_ptr, nu_ptr, output_ptr, y_ptr, runs, row_runs, base, extra,
        C, SPAN, K, OUTPUT_NU, BLOCK_C, BLOCK_P, VEC, CHANNELS_LAST, ONE_ROW,
    )  # fmt: skip


@triton.jit
def _fused_backward_kernel(
    dy_ptr,
    x_ptr,
    nu_ptr,
    batch_mass_ptr,
    batch_mean_ptr,
    batch_var_ptr,
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
    statistics_ptr,
    sums_ptr,
    scale_sums_ptr,
    dweight_ptr,
    dbias_ptr,
    dx_ptr,
    log_sums_ptr,
    log_mass_ptr,
    positions,
    length,
    runs,
    row_runs,
    base,
    extra,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    NU: tl.constexpr,
    DLOG: tl.constexpr,
    LOG_SUMS: tl.constexpr,
    SHARED_WEIGHT: tl.constexpr,
    SHARED_BIAS: tl.constexpr,
    EPS: tl.constexpr,
    MIXING_SCALE: tl.constexpr,
    SAMPLES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    REPEATS: tl.constexpr,
    VECTOR: tl.constexpr,
    VEC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ONE_ROW: tl.constexpr,
):
    """dγ, dβ, dx and the sums of θ's gradient of one block of channels, over all positions."""
    _coefficients_kernel(
        x_ptr, mixing_weight_ptr, mean_ptr, var_ptr, batch_mass_ptr, batch_mean_ptr, batch_var_ptr,
        None, 0, 0, None, 0, 0, posterior_ptr, None, positions, length,
        C, SPAN, D, K, EPS, MIXING_SCALE, SAMPLES, BLOCK_C, CHANNELS_LAST,
    )  # fmt: skip
    tl.debug_barrier()
    _output_sums_kernel(
        dy_ptr, x_ptr, posterior_ptr, nu_ptr, sums_ptr, runs, row_runs, base, extra,
        C, SPAN, K, NU, BLOCK_C, BLOCK_P, REPEATS, VECTOR, VEC, CHANNELS_LAST, ONE_ROW,
    )  # fmt: skip
    tl.debug_barrier()
    _merge_output_sums_kernel(
        sums_ptr, 1, batch_mass_ptr, batch_mean_ptr, batch_var_ptr, mixing_weight_ptr,
        weight_ptr, weight_stride_k, weight_stride_c, bias_ptr, bias_stride_k, bias_stride_c,
        posterior_ptr, output_ptr, statistics_ptr, scale_sums_ptr, dweight_ptr, dbias_ptr,
        C, SPAN, D, K, True, False, SHARED_WEIGHT, SHARED_BIAS, EPS, MIXING_SCALE, BLOCK_C, 1,
    )  # fmt: skip
    tl.debug_barrier()
    _input_gradient_kernel(
        dy_ptr, x_ptr, posterior_ptr, nu_ptr, output_ptr, statistics_ptr, None, dx_ptr,
        log_sums_ptr, log_mass_ptr, runs, row_runs, base, extra,
        C, SPAN, K, NU, DLOG, LOG_SUMS,
        BLOCK_C, BLOCK_P, REPEATS, VECTOR, VEC, CHANNELS_LAST, ONE_ROW,
    )  # fmt: skip
