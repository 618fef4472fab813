// exp and the reciprocal for the responsibilities.
#pragma once

#include <cmath>

#include "constants.h"

namespace mixnorm::device {

#if defined(__CUDA_ARCH__)
// 2^x to 2 units in the last place; what is not normal becomes 0, which takes one instruction
// instead of four.
__device__ __forceinline__ float exp2_of(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
#endif

// Arguments are at most 0. On a GPU the float one is the hardware's base-2 exponential, off by 2
// units in the last place plus the rounding of x log2(e): less than that of the log-odds itself.
MIXNORM_HOST_DEVICE float exponential(float x) {
#if defined(__CUDA_ARCH__)
  return exp2_of(x * 1.4426950408889634f);
#else
  return std::exp(x);
#endif
}
MIXNORM_HOST_DEVICE double exponential(double x) { return std::exp(x); }

// A factor common to all x of the same `top`, their maximum, times exp(x - top): the rounding of
// top log2(e) is that factor, which normalization takes out again.
MIXNORM_HOST_DEVICE float exponential_below(float x, float top) {
#if defined(__CUDA_ARCH__)
  return exp2_of(fmaf(x, 1.4426950408889634f, -1.4426950408889634f * top));
#else
  return std::exp(x - top);
#endif
}
MIXNORM_HOST_DEVICE double exponential_below(double x, double top) { return std::exp(x - top); }

// Likewise of x = 0.
MIXNORM_HOST_DEVICE float exponential_below(float top) {
#if defined(__CUDA_ARCH__)
  return exp2_of(-1.4426950408889634f * top);
#else
  return std::exp(-top);
#endif
}
MIXNORM_HOST_DEVICE double exponential_below(double top) { return std::exp(-top); }

// Of a sum of such: 1 to kMaxComponents. On a GPU the float one is off by 1 unit.
MIXNORM_HOST_DEVICE float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1 / x;
#endif
}
MIXNORM_HOST_DEVICE double reciprocal(double x) { return 1 / x; }

}  // namespace mixnorm::device
