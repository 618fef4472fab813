// The two sweeps of backward as operators of their own, for what exchanges sums between them.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "cpu/backward.h"
#include "ops/arguments.h"
#include "ops/cpu/tensors.h"

namespace mixnorm::ops {
namespace {

std::tuple<Tensor, Tensor> backward_sums(const Tensor& dy, const Tensor& x,
                                         const Tensor& mixing_weight, const Tensor& mean,
                                         const Tensor& var, const Tensor& mass,
                                         const Tensor& batch_mean, const Tensor& batch_var,
                                         double eps) {
  check_input("backward_sums", x);
  check_gradient("backward_sums", dy, x);
  check_mixture("backward_sums", x, mixing_weight, mean, var);
  check_components("backward_sums", mixing_weight);
  check_moments("backward_sums", x, mass, batch_mean, batch_var, mixing_weight);
  check_eps("backward_sums", eps);

  const Tensor input = dense(x);
  const Tensor gradient = in_format_of(input, dy);
  const Parameters parameters(mixing_weight, mean, var, std::nullopt, std::nullopt);
  const Moments moments(mass, batch_mean, batch_var);
  const Tensor h1 = like(mean), h2 = like(mean);
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cpu::BackwardSumsArguments<T> arguments{parameters.components(),
                                                  parameters.groups(),
                                                  moments.moments<T>(),
                                                  parameters.mixture<T>(),
                                                  eps,
                                                  h1.mutable_data_ptr<T>(),
                                                  h2.mutable_data_ptr<T>()};
    cpu::backward_sums(input_of(gradient), input_of(input), arguments, run_on_torch_threads);
  });
  return {h1, h2};
}

std::tuple<Tensor, Tensor, Tensor> backward_apply(
    const Tensor& dy, const Tensor& x, const Tensor& mixing_weight, const Tensor& mean,
    const Tensor& var, const Tensor& mass, const Tensor& batch_mean, const Tensor& batch_var,
    const Tensor& h1, const Tensor& h2, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& bias, double eps, bool mixing_scale, bool responsibility_grad) {
  check_input("backward_apply", x);
  check_gradient("backward_apply", dy, x);
  check_mixture("backward_apply", x, mixing_weight, mean, var);
  check_components("backward_apply", mixing_weight);
  check_moments("backward_apply", x, mass, batch_mean, batch_var, mixing_weight);
  check_statistic("backward_apply", "h1", h1, x, mean.size(0), mean.size(1), "[K, C]");
  check_statistic("backward_apply", "h2", h2, x, mean.size(0), mean.size(1), "[K, C]");
  check_affine("backward_apply", x, mean, weight, bias);
  check_eps("backward_apply", eps);

  const Tensor input = dense(x);
  const Tensor gradient = in_format_of(input, dy);
  const Parameters parameters(mixing_weight, mean, var, weight, bias);
  const Moments moments(mass, batch_mean, batch_var);
  const Tensor sums[] = {as_contiguous(h1), as_contiguous(h2)};
  const Tensor dx = output_like(input);
  Tensor dweight = like(mean), dbias = like(mean);
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cpu::BackwardArguments<T> arguments{parameters.components(),
                                              parameters.groups(),
                                              nullptr,
                                              moments.moments<T>(),
                                              parameters.mixture<T>(),
                                              parameters.affine<T>(),
                                              eps,
                                              mixing_scale,
                                              responsibility_grad,
                                              output_of(dx),
                                              dweight.mutable_data_ptr<T>(),
                                              dbias.mutable_data_ptr<T>(),
                                              {}};
    cpu::backward_apply(input_of(gradient), input_of(input), sums[0].const_data_ptr<T>(),
                        sums[1].const_data_ptr<T>(), arguments, run_on_torch_threads);
    dweight = of_parameter<T>(dweight, weight);
    dbias = of_parameter<T>(dbias, bias);
  });
  return {dx, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixnorm, CPU, m) {
  m.impl("backward_sums", TORCH_BOX(&backward_sums));
  m.impl("backward_apply", TORCH_BOX(&backward_apply));
}

}  // namespace mixnorm::ops
