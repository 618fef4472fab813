// From tensors to the plain pointers and strides that kernels take.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>

#include "device/tensor.h"
#include "ops/allocate.h"
#include "ops/arguments.h"

namespace mixnorm::ops {

inline device::Scalar scalar_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return device::Scalar::kDouble;
    case ScalarType::Half:
      return device::Scalar::kHalf;
    case ScalarType::BFloat16:
      return device::Scalar::kBFloat16;
    default:
      return device::Scalar::kFloat;
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

// dy in the memory format of x, which is dense.
inline Tensor in_format_of(const Tensor& x, const Tensor& dy) {
  const bool same = x.is_contiguous() ? dy.is_contiguous() : is_channels_last(dy);
  if (same) return dy;
  Tensor copy = torch::stable::empty_like(x);
  torch::stable::copy_(copy, dy);
  return copy;
}

// N times the sizes after the channels.
inline int64_t positions_of(const Tensor& x) {
  int64_t positions = x.size(0);
  for (int64_t d = 2; d < x.dim(); ++d) positions *= x.size(d);
  return positions;
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
inline device::Input input_of(const Tensor& x) {
  const Geometry g = geometry_of(x);
  return {x.const_data_ptr(), scalar_of(x), g.batch,    g.channels,
          g.length,           g.stride_n,   g.stride_c, g.stride_l};
}

inline device::Output output_of(const Tensor& y) {
  const Geometry g = geometry_of(y);
  return {y.mutable_data_ptr(), g.stride_n, g.stride_c, g.stride_l};
}

// weight and bias of one call in the accumulation type, that of `statistics`, kept alive beside the
// pointers to them.
struct AffineParameters {
  std::optional<Tensor> weight, bias;

  AffineParameters(const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                   const Tensor& statistics)
      : weight(rows(weight, statistics)), bias(rows(bias, statistics)) {}

  template <class T>
  device::Affine<T> affine() const {
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

// All parameters of one call, likewise.
struct Parameters : AffineParameters {
  Tensor mixing_weight, mean, var;

  Parameters(const Tensor& mixing_weight, const Tensor& mean, const Tensor& var,
             const std::optional<Tensor>& weight, const std::optional<Tensor>& bias)
      : AffineParameters(weight, bias, mean),
        mixing_weight(as_contiguous(mixing_weight)),
        mean(as_contiguous(mean)),
        var(as_contiguous(var)) {}

  int64_t components() const { return mean.size(0); }
  int64_t groups() const { return mixing_weight.size(0); }

  template <class T>
  device::Mixture<const T> mixture() const {
    return {mixing_weight.const_data_ptr<T>(), mean.const_data_ptr<T>(), var.const_data_ptr<T>()};
  }
};

// Moments that one call reads, likewise.
struct Moments {
  Tensor mass, mean, var;

  Moments(const Tensor& mass, const Tensor& mean, const Tensor& var)
      : mass(as_contiguous(mass)), mean(as_contiguous(mean)), var(as_contiguous(var)) {}

  template <class T>
  device::BatchMoments<const T> moments() const {
    return {mass.const_data_ptr<T>(), mean.const_data_ptr<T>(), var.const_data_ptr<T>()};
  }
};

template <class T>
device::Mixture<T> mixture_of(const Tensor& mixing_weight, const Tensor& mean, const Tensor& var) {
  return {mixing_weight.mutable_data_ptr<T>(), mean.mutable_data_ptr<T>(),
          var.mutable_data_ptr<T>()};
}

template <class T>
device::BatchMoments<T> moments_of(const Tensor& mass, const Tensor& mean, const Tensor& var) {
  return {mass.mutable_data_ptr<T>(), mean.mutable_data_ptr<T>(), var.mutable_data_ptr<T>()};
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
