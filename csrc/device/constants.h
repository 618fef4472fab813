// Numerical floors and limits shared by every kernel (docs/method.md, sections 1 and 4).
// Torch-free.
#pragma once

#if defined(__CUDACC__)
#define MIXNORM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define MIXNORM_HOST_DEVICE inline
#endif

namespace mixnorm::device {

// Sums are divided by max(S, kMassFloor), so an empty component needs no branch.
constexpr double kMassFloor = 1e-6;

// Floor of the mixing weight inside the output scale 1 / sqrt(mixing weight).
constexpr double kMixingFloor = 1e-3;

constexpr int kMaxComponents = 16;

}  // namespace mixnorm::device
