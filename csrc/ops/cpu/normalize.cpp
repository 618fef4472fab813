#include "cpu/normalize.h"

#include <torch/csrc/stable/library.h>

#include <optional>

#include "ops/arguments.h"
#include "ops/cpu/tensors.h"

namespace mixnorm::ops {
namespace {

Tensor normalize(const Tensor& x, const Tensor& mixing_weight, const Tensor& mean,
                 const Tensor& var, const Tensor& mass, const Tensor& batch_mean,
                 const Tensor& batch_var, const std::optional<Tensor>& weight,
                 const std::optional<Tensor>& bias, double eps, bool mixing_scale) {
  check_input("normalize", x);
  check_mixture("normalize", x, mixing_weight, mean, var);
  check_components("normalize", mixing_weight);
  check_moments("normalize", x, mass, batch_mean, batch_var, mixing_weight);
  check_affine("normalize", x, mean, weight, bias);
  check_eps("normalize", eps);

  const Tensor input = dense(x);
  const Parameters parameters(mixing_weight, mean, var, weight, bias);
  const Moments moments(mass, batch_mean, batch_var);
  const Tensor y = output_like(input);
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cpu::NormalizeArguments<T> arguments{parameters.components(),
                                               parameters.groups(),
                                               parameters.mixture<T>(),
                                               moments.moments<T>(),
                                               parameters.affine<T>(),
                                               eps,
                                               mixing_scale,
                                               output_of(y)};
    cpu::normalize(input_of(input), arguments, run_on_torch_threads);
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixnorm, CPU, m) { m.impl("normalize", TORCH_BOX(&normalize)); }

}  // namespace mixnorm::ops
