// From tensors to the plain pointers and strides that the CPU kernels take.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>

#include "cpu/executor.h"
#include "cpu/tensor.h"
#include "device/constants.h"
#include "ops/arguments.h"
#include "ops/cpu/allocate.h"

namespace mixnorm::ops {

inline void run_on_torch_threads(int64_t count, cpu::Task task, void* context) {
  torch::stable::parallel_for(0, count, /*grain_size=*/1,
                              [&](int64_t begin, int64_t end) { task(context, begin, end); });
}

// The kernels keep one register per component.
inline void check_components(const char* op, const Tensor& mixing_weight) {
  MIXNORM_CHECK(mixing_weight.size(1) <= device::kMaxComponents, op,
                ": mixing_weight has K = ", mixing_weight.size(1), " components, expected at most ",
                device::kMaxComponents, " on the CPU");
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

// Whether x is densely packed with the channels innermost, [N, *S, C] in memory.
inline bool is_channels_last(const Tensor& x) {
  int64_t expected = 1;
  const auto packed = [&](int64_t d) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
    return true;
  };
  if (!packed(1)) return false;
  for (int64_t d = x.dim() - 1; d >= 2; --d) {
    if (!packed(d)) return false;
  }
  return packed(0);
}

// x itself where it is contiguous or channels-last, else a contiguous copy.
inline Tensor dense(const Tensor& x) {
  return x.is_contiguous() || is_channels_last(x) ? x : as_contiguous(x);
}

// dy in the memory format of x, which is dense.
inline Tensor in_format_of(const Tensor& x, const Tensor& dy) {
  const bool same = x.is_contiguous() ? dy.is_contiguous() : is_channels_last(dy);
  if (same) return dy;
  Tensor copy = torch::stable::empty_like(x);
  torch::stable::copy_(copy, dy);
  return copy;
}

struct Geometry {
  int64_t batch, channels, length, stride_n, stride_c, stride_l;
};

inline Geometry geometry_of(const Tensor& x) {
  Geometry g{x.size(0), x.size(1), 1, x.stride(0), x.stride(1), 1};
  for (int64_t d = x.dim() - 1; d >= 2; --d) {
    if (g.length == 1) g.stride_l = x.stride(d);
    g.length *= x.size(d);
  }
  return g;
}

// x must be dense and outlive the result.
inline cpu::Input input_of(const Tensor& x) {
  const Geometry g = geometry_of(x);
  return {x.const_data_ptr(), scalar_of(x), g.batch,    g.channels,
          g.length,           g.stride_n,   g.stride_c, g.stride_l};
}

inline cpu::Output output_of(const Tensor& y) {
  const Geometry g = geometry_of(y);
  return {y.mutable_data_ptr(), g.stride_n, g.stride_c, g.stride_l};
}

// The parameters of one call in the accumulation type, kept alive beside the pointers to them.
struct Parameters {
  Tensor mixing_weight, mean, var;
  std::optional<Tensor> weight, bias;

  Parameters(const Tensor& mixing_weight, const Tensor& mean, const Tensor& var,
             const std::optional<Tensor>& weight, const std::optional<Tensor>& bias)
      : mixing_weight(as_contiguous(mixing_weight)),
        mean(as_contiguous(mean)),
        var(as_contiguous(var)),
        weight(rows(weight, mean)),
        bias(rows(bias, mean)) {}

  int64_t components() const { return mean.size(0); }
  int64_t groups() const { return mixing_weight.size(0); }

  template <class T>
  cpu::Mixture<const T> mixture() const {
    return {mixing_weight.const_data_ptr<T>(), mean.const_data_ptr<T>(), var.const_data_ptr<T>()};
  }
  template <class T>
  cpu::Affine<T> affine() const {
    return {weight ? weight->const_data_ptr<T>() : nullptr, row_stride(weight),
            bias ? bias->const_data_ptr<T>() : nullptr, row_stride(bias)};
  }

 private:
  static int64_t row_stride(const std::optional<Tensor>& parameter) {
    return parameter && parameter->dim() == 2 ? parameter->stride(0) : 0;
  }
  // Any stride between components, none between channels.
  static std::optional<Tensor> rows(const std::optional<Tensor>& parameter, const Tensor& like) {
    if (!parameter) return parameter;
    Tensor result = *parameter;
    if (result.scalar_type() != like.scalar_type()) {
      result = torch::stable::to(result, like.scalar_type());
    }
    const int64_t channels = result.dim() - 1;
    return result.size(channels) == 1 || result.stride(channels) == 1 ? result
                                                                      : as_contiguous(result);
  }
};

// Moments that one call reads, likewise.
struct Moments {
  Tensor mass, mean, var;

  Moments(const Tensor& mass, const Tensor& mean, const Tensor& var)
      : mass(as_contiguous(mass)), mean(as_contiguous(mean)), var(as_contiguous(var)) {}

  template <class T>
  cpu::BatchMoments<const T> moments() const {
    return {mass.const_data_ptr<T>(), mean.const_data_ptr<T>(), var.const_data_ptr<T>()};
  }
};

template <class T>
cpu::Mixture<T> mixture_of(const Tensor& mixing_weight, const Tensor& mean, const Tensor& var) {
  return {mixing_weight.mutable_data_ptr<T>(), mean.mutable_data_ptr<T>(),
          var.mutable_data_ptr<T>()};
}

template <class T>
cpu::BatchMoments<T> moments_of(const Tensor& mass, const Tensor& mean, const Tensor& var) {
  return {mass.mutable_data_ptr<T>(), mean.mutable_data_ptr<T>(), var.mutable_data_ptr<T>()};
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

// f(T{}) with the accumulation type of x.
template <class F>
void with_accumulation_type(const Tensor& x, F&& f) {
  if (accumulation_type(x) == ScalarType::Double) {
    f(double{});
  } else {
    f(float{});
  }
}

}  // namespace mixnorm::ops
