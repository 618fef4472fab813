// CUDA errors as exceptions that say which operator met them.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>

#include "ops/check.h"

namespace mixnorm::ops {

inline void check_cuda(const char* op, cudaError_t error) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // it is reported here; the next call must not report it again
  throw std::runtime_error(message("mixnorm::", op, ": ", cudaGetErrorString(error)));
}

}  // namespace mixnorm::ops
