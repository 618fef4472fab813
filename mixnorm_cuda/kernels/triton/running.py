"""Mass-weighted running averages of the mixture, in place."""

import triton
import triton.language as tl


@triton.jit
def count_not_finite(ptr, size, BLOCK: tl.constexpr):
    bad = tl.zeros([BLOCK], tl.int32)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(ptr + at, mask=at < size, other=0.0)
        bad += tl.where(tl.abs(value) < float("inf"), 0, 1)
    return tl.sum(bad, axis=0)


@triton.jit
def _update_running_kernel(
    running_weight_ptr,
    running_mean_ptr,
    running_var_ptr,
    mass_ptr,
    mean_ptr,
    var_ptr,
    factor_ptr,
    factor: "fp64",  # noqa: F821  (Triton's name for the type of a Python number)
    count,
    finite_ptr,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One component. λ' = λ + f (λ̂ − λ), ρ = f λ̂/λ', μ' = μ + ρ (m − μ), σ²' = σ² + ρ (q̂ − σ²).

    Every program looks at all the moments: one that is not finite leaves all buffers alone.
    """
    k = tl.program_id(0)
    G: tl.constexpr = C // D
    T: tl.constexpr = running_mean_ptr.dtype.element_ty
    TINY: tl.constexpr = 2.2250738585072014e-308 if tl.float64 == T else 1.1754943508222875e-38
    bad = count_not_finite(mass_ptr, G * K, BLOCK)
    bad += count_not_finite(mean_ptr, K * C, BLOCK)
    bad += count_not_finite(var_ptr, K * C, BLOCK)
    finite = tl.zeros([BLOCK], tl.int32) + bad == 0
    if factor_ptr is not None:
        f = tl.load(factor_ptr).to(tl.float64)
    else:
        f = tl.full([], 1.0, tl.float64) * factor
    # The weights are read by every channel of their group: they change after all of these.
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)
        exists = c < C
        at_group = c // D * K + k
        at = k * C + c
        mass = tl.load(mass_ptr + at_group, mask=exists, other=1.0).to(tl.float64)
        old_weight = tl.load(running_weight_ptr + at_group, mask=exists, other=1.0).to(tl.float64)
        share = mass / count
        new_weight = (old_weight + f * (share - old_weight)).to(T).to(tl.float64)
        rho = tl.minimum(f * share / tl.maximum(new_weight, TINY), 1.0)
        unbiased = tl.where(mass > 1.0, tl.minimum(mass / tl.maximum(mass - 1.0, TINY), 2.0), 1.0)
        old_mean = tl.load(running_mean_ptr + at, mask=exists, other=0.0).to(tl.float64)
        old_var = tl.load(running_var_ptr + at, mask=exists, other=0.0).to(tl.float64)
        mean = tl.load(mean_ptr + at, mask=exists, other=0.0).to(tl.float64)
        var = tl.load(var_ptr + at, mask=exists, other=0.0).to(tl.float64)
        changed = exists & finite
        tl.store(running_mean_ptr + at, (old_mean + rho * (mean - old_mean)).to(T), mask=changed)
        new_var = old_var + rho * (var * unbiased - old_var)
        tl.store(running_var_ptr + at, new_var.to(T), mask=changed)
    tl.debug_barrier()
    for start in range(0, G, BLOCK):
        g = start + tl.arange(0, BLOCK)
        at_group = g * K + k
        share = tl.load(mass_ptr + at_group, mask=g < G, other=0.0).to(tl.float64) / count
        old_weight = tl.load(running_weight_ptr + at_group, mask=g < G, other=0.0).to(tl.float64)
        new_weight = old_weight + f * (share - old_weight)
        tl.store(running_weight_ptr + at_group, new_weight.to(T), mask=(g < G) & finite)
    if k == 0:
        tl.store(finite_ptr + tl.arange(0, 1), tl.zeros([1], tl.int32) + bad == 0)
