// From tensors to the plain pointers and strides that the CPU kernels take.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>

#include "cpu/executor.h"
#include "ops/arguments.h"
#include "ops/cpu/huge_pages.h"
#include "ops/tensors.h"

namespace mixnorm::ops {

inline void run_on_torch_threads(int64_t count, cpu::Task task, void* context) {
  torch::stable::parallel_for(0, count, /*grain_size=*/1,
                              [&](int64_t begin, int64_t end) { task(context, begin, end); });
}

// x itself where it is contiguous or channels-last, else a contiguous copy.
inline Tensor dense(const Tensor& x) {
  return x.is_contiguous() || is_channels_last(x) ? x : as_contiguous(x);
}

// Uninitialised, of the shape, dtype and strides of a dense tensor.
inline Tensor output_like(const Tensor& x) {
  Tensor y = empty_strided(x, x.dim(), x.sizes().data(), x.strides().data());
  prefer_huge_pages(y);
  return y;
}

// The gradient of an affine parameter from that of each component, [K, C]: summed over the
// components, in order, for a parameter that they share.
template <class T>
Tensor of_parameter(const Tensor& gradient, const std::optional<Tensor>& parameter) {
  if (!parameter || parameter->dim() == 2) return gradient;
  const int64_t components = gradient.size(0), channels = gradient.size(1);
  const Tensor sum = empty(gradient, channels);
  const T* rows = gradient.const_data_ptr<T>();
  T* out = sum.mutable_data_ptr<T>();
  std::copy(rows, rows + channels, out);
  for (int64_t k = 1; k < components; ++k) {
    for (int64_t c = 0; c < channels; ++c) out[c] += rows[k * channels + c];
  }
  return sum;
}

}  // namespace mixnorm::ops
