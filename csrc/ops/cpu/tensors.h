// From tensors to the plain pointers and strides that the CPU kernels take.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "cpu/moments.h"
#include "ops/arguments.h"

namespace mixnorm::ops {

inline void run_on_torch_threads(int64_t count, cpu::Task task, void* context) {
  torch::stable::parallel_for(0, count, /*grain_size=*/1,
                              [&](int64_t begin, int64_t end) { task(context, begin, end); });
}

inline cpu::Scalar scalar_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return cpu::Scalar::kDouble;
    case ScalarType::Half:
      return cpu::Scalar::kHalf;
    case ScalarType::BFloat16:
      return cpu::Scalar::kBFloat16;
    default:
      return cpu::Scalar::kFloat;
  }
}

// Whether all spatial dimensions are one dimension with one stride: true of contiguous tensors, of
// channels-last ones and of slices of both over N and C.
inline bool has_flat_positions(const Tensor& x) {
  int64_t inner = x.dim();  // the innermost spatial dimension of more than one position
  for (int64_t d = x.dim() - 1; d >= 2; --d) {
    if (x.size(d) == 1) continue;
    if (inner < x.dim() && x.stride(d) != x.stride(inner) * x.size(inner)) return false;
    inner = d;
  }
  return true;
}

inline Tensor with_flat_positions(const Tensor& x) {
  return has_flat_positions(x) ? x : torch::stable::contiguous(x);
}

// x must have flat positions and outlive the result.
inline cpu::Input input_of(const Tensor& x) {
  cpu::Input input{x.const_data_ptr(), scalar_of(x), x.size(0), x.size(1), 1,
                   x.stride(0),        x.stride(1),  1};
  for (int64_t d = x.dim() - 1; d >= 2; --d) {
    if (input.length == 1) input.stride_l = x.stride(d);
    input.length *= x.size(d);
  }
  return input;
}

}  // namespace mixnorm::ops
