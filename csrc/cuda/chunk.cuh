// Several neighbouring elements as one access, and conversion to the accumulation type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

#include <cstring>
#include <type_traits>

namespace mixnorm::cuda {

template <class S>
struct Accumulation {
  using type = float;
};
template <>
struct Accumulation<double> {
  using type = double;
};
template <class S>
using accumulation_t = typename Accumulation<S>::type;

__device__ inline float widen(float value) { return value; }
__device__ inline double widen(double value) { return value; }
__device__ inline float widen(__half value) { return __half2float(value); }
__device__ inline float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ inline void narrow(float value, float* out) { *out = value; }
__device__ inline void narrow(double value, double* out) { *out = value; }
__device__ inline void narrow(float value, __half* out) { *out = __float2half_rn(value); }
__device__ inline void narrow(float value, __nv_bfloat16* out) {
  *out = __float2bfloat16_rn(value);
}

// The integer type, or vector of them, of so many bytes.
template <int kBytes>
struct Raw;
template <>
struct Raw<2> {
  using type = unsigned short;
};
template <>
struct Raw<4> {
  using type = unsigned int;
};
template <>
struct Raw<8> {
  using type = uint2;
};
template <>
struct Raw<16> {
  using type = uint4;
};

template <class S, int W>
using raw_t = typename Raw<int(sizeof(S)) * W>::type;

template <class S, int W>
__device__ __forceinline__ void unpack(raw_t<S, W> raw, accumulation_t<S> (&out)[W]) {
  if constexpr (std::is_same_v<S, __nv_bfloat16> && W % 2 == 0) {
    // The high halves of floats: a shift and a mask a pair.
    unsigned int pairs[W / 2];
    std::memcpy(pairs, &raw, sizeof(raw));
#pragma unroll
    for (int i = 0; i < W; i += 2) {
      const unsigned int floats[] = {pairs[i / 2] << 16, pairs[i / 2] & 0xffff0000u};
      std::memcpy(&out[i], floats, sizeof(floats));
    }
  } else {
    S elements[W];
    std::memcpy(elements, &raw, sizeof(raw));
#pragma unroll
    for (int i = 0; i < W; ++i) out[i] = widen(elements[i]);
  }
}

template <class S, int W>
__device__ __forceinline__ raw_t<S, W> pack(const accumulation_t<S> (&values)[W]) {
  S elements[W];
#pragma unroll
  for (int i = 0; i < W; ++i) narrow(values[i], &elements[i]);
  raw_t<S, W> raw;
  std::memcpy(&raw, elements, sizeof(raw));
  return raw;
}

// To the thread's own place in shared memory; what is not there reads as zeros.
template <class Raw>
__device__ __forceinline__ void copy_async(Raw* shared, const void* global, bool exists) {
  if constexpr (sizeof(Raw) < 4) {
    // No asynchronous copy is that small.
    *shared = exists ? __ldg(static_cast<const Raw*>(global)) : Raw{};
  } else {
#if defined(__CUDA_ARCH__)
    // __pipeline_memcpy_async branches on the number of zeros.
    constexpr int kBytes = sizeof(Raw);
    const int bytes = exists ? kBytes : 0;
    const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    if constexpr (kBytes == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
                   "r"(bytes)
                   : "memory");
    } else {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global),
                   "n"(kBytes), "r"(bytes)
                   : "memory");
    }
#else
    __pipeline_memcpy_async(shared, global, sizeof(Raw), exists ? 0 : sizeof(Raw));
#endif
  }
}

}  // namespace mixnorm::cuda
