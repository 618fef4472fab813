// The arguments that several operators share, checked before anything is computed.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "device/constants.h"
#include "ops/check.h"

namespace mixnorm::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Statistics are float64 for float64 input and float32 otherwise.
inline ScalarType accumulation_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_input(const char* op, const Tensor& x) {
  const ScalarType type = x.scalar_type();
  MIXNORM_CHECK(type == ScalarType::Float || type == ScalarType::Double ||
                    type == ScalarType::Half || type == ScalarType::BFloat16,
                op, ": x has dtype ", type, ", expected Float, Double, Half or BFloat16");
  MIXNORM_CHECK(x.dim() >= 2, op, ": x has shape ", shape_of(x), ", expected [N, C, *S]");
  MIXNORM_CHECK(x.size(1) > 0, op, ": x has shape ", shape_of(x), ", expected C >= 1 channels");
}

inline void check_statistic(const char* op, const char* name, const Tensor& tensor, const Tensor& x,
                            int64_t rows, int64_t columns, const char* shape) {
  MIXNORM_CHECK(tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == columns, op, ": ",
                name, " has shape ", shape_of(tensor), ", expected ", shape, " = [", rows, ", ",
                columns, "]");
  MIXNORM_CHECK(tensor.scalar_type() == accumulation_type(x), op, ": ", name, " has dtype ",
                tensor.scalar_type(), ", expected ", accumulation_type(x), " for x of ",
                x.scalar_type());
  MIXNORM_CHECK(tensor.device() == x.device(), op, ": ", name, " is not on the device of x");
}

// theta = (mixing_weight [G, K], mean [K, C], var [K, C]); returns with G dividing C.
inline void check_mixture(const char* op, const Tensor& x, const Tensor& mixing_weight,
                          const Tensor& mean, const Tensor& var) {
  MIXNORM_CHECK(mixing_weight.dim() == 2 && mixing_weight.size(0) > 0 && mixing_weight.size(1) > 0,
                op, ": mixing_weight has shape ", shape_of(mixing_weight),
                ", expected [G, K] with G, K >= 1");
  const int64_t channels = x.size(1), groups = mixing_weight.size(0);
  const int64_t components = mixing_weight.size(1);
  MIXNORM_CHECK(channels % groups == 0, op, ": mixing_weight has G = ", groups,
                " groups, expected a divisor of the ", channels, " channels of x");
  check_statistic(op, "mixing_weight", mixing_weight, x, groups, components, "[G, K]");
  check_statistic(op, "mean", mean, x, components, channels, "[K, C]");
  check_statistic(op, "var", var, x, components, channels, "[K, C]");
}

// The kernels keep one register per component.
inline void check_components(const char* op, const Tensor& mixing_weight) {
  MIXNORM_CHECK(mixing_weight.size(1) <= device::kMaxComponents, op,
                ": mixing_weight has K = ", mixing_weight.size(1), " components, expected at most ",
                device::kMaxComponents);
}

// weight and bias, [C] or [K, C]; any floating dtype, as a half-precision layer has them.
inline void check_affine(const char* op, const Tensor& x, const Tensor& mean,
                         const std::optional<Tensor>& weight, const std::optional<Tensor>& bias) {
  const auto check = [&](const char* name, const std::optional<Tensor>& parameter) {
    if (!parameter) return;
    const bool shared = parameter->dim() == 1 && parameter->size(0) == mean.size(1);
    MIXNORM_CHECK(shared || (parameter->dim() == 2 && parameter->size(0) == mean.size(0) &&
                             parameter->size(1) == mean.size(1)),
                  op, ": ", name, " has shape ", shape_of(*parameter),
                  ", expected [C] or [K, C] = [", mean.size(0), ", ", mean.size(1), "]");
    MIXNORM_CHECK(parameter->device() == x.device(), op, ": ", name, " is not on the device of x");
  };
  check("weight", weight);
  check("bias", bias);
}

// The gradient of an output that has the shape and dtype of x.
inline void check_gradient(const char* op, const Tensor& dy, const Tensor& x) {
  bool same = dy.dim() == x.dim();
  for (int64_t d = 0; same && d < x.dim(); ++d) same = dy.size(d) == x.size(d);
  MIXNORM_CHECK(same, op, ": dy has shape ", shape_of(dy), ", expected that of x, ", shape_of(x));
  MIXNORM_CHECK(dy.scalar_type() == x.scalar_type(), op, ": dy has dtype ", dy.scalar_type(),
                ", expected that of x, ", x.scalar_type());
  MIXNORM_CHECK(dy.device() == x.device(), op, ": dy is not on the device of x");
}

inline void check_eps(const char* op, double eps) {
  MIXNORM_CHECK(eps > 0, op, ": eps is ", eps, ", expected a positive number");
}

// What every operator on x under a mixture is given.
inline void check_problem(const char* op, const Tensor& x, const Tensor& mixing_weight,
                          const Tensor& mean, const Tensor& var, double eps) {
  check_input(op, x);
  check_mixture(op, x, mixing_weight, mean, var);
  check_components(op, mixing_weight);
  check_eps(op, eps);
}

// What the components saw of a batch.
inline void check_moments(const char* op, const Tensor& x, const Tensor& mass,
                          const Tensor& batch_mean, const Tensor& batch_var,
                          const Tensor& mixing_weight) {
  const int64_t components = mixing_weight.size(1);
  check_statistic(op, "mass", mass, x, mixing_weight.size(0), components, "[G, K]");
  check_statistic(op, "batch_mean", batch_mean, x, components, x.size(1), "[K, C]");
  check_statistic(op, "batch_var", batch_var, x, components, x.size(1), "[K, C]");
}

// The responsibilities that forward returned, of so many elements.
inline void check_responsibilities(const char* op, const Tensor& responsibilities, const Tensor& x,
                                   int64_t expected) {
  MIXNORM_CHECK(responsibilities.numel() == expected && responsibilities.is_contiguous() &&
                    responsibilities.scalar_type() == accumulation_type(x),
                op, ": responsibilities has shape ", shape_of(responsibilities), " and dtype ",
                responsibilities.scalar_type(), ", expected what forward returned: ", expected,
                " elements of ", accumulation_type(x));
}

inline void check_buffer(const char* name, const Tensor& buffer, const Tensor& value) {
  MIXNORM_CHECK(buffer.is_contiguous(), "update_running: ", name, " expected contiguous");
  MIXNORM_CHECK(buffer.scalar_type() == value.scalar_type(), "update_running: ", name,
                " has dtype ", buffer.scalar_type(), ", expected ", value.scalar_type());
  MIXNORM_CHECK(buffer.dim() == 2 && value.dim() == 2 && buffer.size(0) == value.size(0) &&
                    buffer.size(1) == value.size(1),
                "update_running: ", name, " has shape ", shape_of(buffer), ", expected ",
                shape_of(value));
  MIXNORM_CHECK(buffer.device() == value.device(), "update_running: ", name,
                " is not on the device of the moments");
}

inline void check_update_running(const Tensor& running_weight, const Tensor& running_mean,
                                 const Tensor& running_var, const Tensor& mass, const Tensor& mean,
                                 const Tensor& var, int64_t count) {
  check_buffer("running_weight", running_weight, mass);
  check_buffer("running_mean", running_mean, mean);
  check_buffer("running_var", running_var, var);
  const int64_t groups = mass.size(0), components = mass.size(1), channels = mean.size(1);
  MIXNORM_CHECK(mean.size(0) == components && groups > 0 && channels % groups == 0,
                "update_running: mean has shape ", shape_of(mean), ", expected [K, C] for mass ",
                shape_of(mass));
  MIXNORM_CHECK(count > 0, "update_running: count is ", count, ", expected 1 or more");
}

}  // namespace mixnorm::ops
