#include "cpu/moments.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "ops/arguments.h"
#include "ops/cpu/tensors.h"

namespace mixnorm::ops {
namespace {

std::tuple<Tensor, Tensor, Tensor> moments(const Tensor& x, const Tensor& mixing_weight,
                                           const Tensor& mean, const Tensor& var, double eps) {
  check_problem("moments", x, mixing_weight, mean, var, eps);

  const Tensor input = dense(x);
  const Parameters parameters(mixing_weight, mean, var, std::nullopt, std::nullopt);
  const Tensor mass = like(mixing_weight), batch_mean = like(mean), batch_var = like(var);
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cpu::Mixture<const T> mixture = parameters.mixture<T>();
    const cpu::MomentsArguments<T> arguments{parameters.components(),
                                             parameters.groups(),
                                             mixture.mixing_weight,
                                             mixture.mean,
                                             mixture.var,
                                             eps,
                                             mass.mutable_data_ptr<T>(),
                                             batch_mean.mutable_data_ptr<T>(),
                                             batch_var.mutable_data_ptr<T>()};
    cpu::moments(input_of(input), arguments, run_on_torch_threads);
  });
  return {mass, batch_mean, batch_var};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixnorm, CPU, m) { m.impl("moments", TORCH_BOX(&moments)); }

}  // namespace mixnorm::ops
