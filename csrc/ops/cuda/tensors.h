// From tensors to what the CUDA kernels take.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "cuda/plan.h"
#include "ops/tensors.h"

namespace mixnorm::ops {

// Whether one stride leads through the positions of a sample.
inline bool has_one_position_stride(const Tensor& x) {
  int64_t expected = -1;
  for (int64_t d = x.dim() - 1; d >= 2; --d) {
    if (x.size(d) == 1) continue;
    if (expected >= 0 && x.stride(d) != expected) return false;
    expected = x.stride(d) * x.size(d);
  }
  return true;
}

// x itself where the kernels can read it in place, else a contiguous copy.
inline Tensor readable(const Tensor& x) {
  return has_one_position_stride(x) ? x : as_contiguous(x);
}

// dy to read beside x: in x's memory format, where x has one of the two.
inline Tensor readable_beside(const Tensor& x, const Tensor& dy) {
  return x.is_contiguous() || is_channels_last(x) ? in_format_of(x, dy) : readable(dy);
}

// Uninitialised, in the memory format of x where x is contiguous or channels-last, contiguous for
// any other.
inline Tensor output_like(const Tensor& x) {
  if (x.is_contiguous() || is_channels_last(x)) {
    return empty_strided(x, x.dim(), x.sizes().data(), x.strides().data());
  }
  std::vector<int64_t> strides(x.dim());
  int64_t stride = 1;
  for (int64_t d = x.dim() - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= x.size(d);
  }
  return empty_strided(x, x.dim(), x.sizes().data(), strides.data());
}

// The gradient of an affine parameter from that of each component, [K, C]: summed over the
// components for a parameter that they share.
inline Tensor of_parameter(const Tensor& gradient, const std::optional<Tensor>& parameter) {
  if (!parameter || parameter->dim() == 2) return gradient;
  if (gradient.size(0) == 1) {
    const int64_t channels[] = {gradient.size(1)};
    return torch::stable::view(gradient, channels);
  }
  const int64_t components[] = {0};
  return torch::stable::sum(gradient, components);
}

}  // namespace mixnorm::ops
