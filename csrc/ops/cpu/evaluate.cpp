#include "cpu/evaluate.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "ops/arguments.h"
#include "ops/cpu/tensors.h"

namespace mixnorm::ops {
namespace {

Tensor evaluate(const Tensor& x, const Tensor& mixing_weight, const Tensor& mean, const Tensor& var,
                const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps,
                bool mixing_scale) {
  check_problem("evaluate", x, mixing_weight, mean, var, eps);
  check_affine("evaluate", x, mean, weight, bias);

  const Tensor input = dense(x);
  const Parameters parameters(mixing_weight, mean, var, weight, bias);
  const Tensor y = output_like(input);
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cpu::EvaluateArguments<T> arguments{parameters.components(),
                                              parameters.groups(),
                                              parameters.mixture<T>(),
                                              parameters.affine<T>(),
                                              eps,
                                              mixing_scale,
                                              output_of(y)};
    cpu::evaluate(input_of(input), arguments, run_on_torch_threads);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> evaluate_backward(const Tensor& dy, const Tensor& x,
                                                     const Tensor& mixing_weight,
                                                     const Tensor& mean, const Tensor& var,
                                                     const std::optional<Tensor>& weight,
                                                     const std::optional<Tensor>& bias, double eps,
                                                     bool mixing_scale, bool responsibility_grad) {
  check_problem("evaluate_backward", x, mixing_weight, mean, var, eps);
  check_gradient("evaluate_backward", dy, x);
  check_affine("evaluate_backward", x, mean, weight, bias);

  const Tensor input = dense(x);
  const Tensor gradient = in_format_of(input, dy);
  const Parameters parameters(mixing_weight, mean, var, weight, bias);
  const Tensor dx = output_like(input);
  Tensor dweight = like(mean), dbias = like(mean);
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cpu::EvaluateBackwardArguments<T> arguments{parameters.components(),
                                                      parameters.groups(),
                                                      parameters.mixture<T>(),
                                                      parameters.affine<T>(),
                                                      eps,
                                                      mixing_scale,
                                                      responsibility_grad,
                                                      output_of(dx),
                                                      dweight.mutable_data_ptr<T>(),
                                                      dbias.mutable_data_ptr<T>()};
    cpu::evaluate_backward(input_of(gradient), input_of(input), arguments, run_on_torch_threads);
    dweight = of_parameter<T>(dweight, weight);
    dbias = of_parameter<T>(dbias, bias);
  });
  return {dx, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixnorm, CPU, m) {
  m.impl("evaluate", TORCH_BOX(&evaluate));
  m.impl("evaluate_backward", TORCH_BOX(&evaluate_backward));
}

}  // namespace mixnorm::ops
