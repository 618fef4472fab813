// The variables that every thread of a kernel sees; the scheduler sets them when it changes thread.
#pragma once

#include <vector_types.h>

#include "emulation/scheduler.h"

inline uint3 threadIdx{}, blockIdx{};
inline dim3 blockDim, gridDim;
constexpr int warpSize = mixnorm::emulation::kWarpSize;

namespace mixnorm::emulation {

struct Builtins {
  unsigned char* shared_memory = nullptr;
};
inline Builtins builtins;

// Of the running block: what `extern __shared__` names on a GPU.
inline unsigned char* dynamic_shared_memory() { return builtins.shared_memory; }

}  // namespace mixnorm::emulation
