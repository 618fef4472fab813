// exp for the responsibilities.
#pragma once

#include <cmath>

#include "constants.h"

namespace mixnorm::device {

// Arguments are at most 0. On a GPU the float one is the hardware's base-2 exponential, off by 2
// units in the last place plus the rounding of x log2(e): less than that of the log-odds itself.
MIXNORM_HOST_DEVICE float exponential(float x) {
#if defined(__CUDA_ARCH__)
  return __expf(x);
#else
  return std::exp(x);
#endif
}
MIXNORM_HOST_DEVICE double exponential(double x) { return std::exp(x); }

}  // namespace mixnorm::device
