#include "cuda/evaluate.h"

#include <optional>
#include <tuple>

#include "ops/arguments.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/register.h"
#include "ops/cuda/tensors.h"

namespace mixnorm::ops {
namespace {

Tensor evaluate(const Tensor& x, const Tensor& mixing_weight, const Tensor& mean, const Tensor& var,
                const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps,
                bool mixing_scale) {
  check_problem("evaluate", x, mixing_weight, mean, var, eps);
  check_affine("evaluate", x, mean, weight, bias);

  LaunchScope scope("evaluate", x);
  const Tensor input = readable(x);
  const Parameters parameters(mixing_weight, mean, var, weight, bias);
  const int64_t components = parameters.components(), groups = parameters.groups();
  const Tensor y = output_like(x);
  const cuda::Input in = input_of(input);
  const cuda::Launch launch =
      scope.launch(cuda::evaluate_workspace(in, components, groups, scope.limits()));
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cuda::EvaluateArguments<T> arguments{
        components,   groups,      parameters.mixture<T>(), parameters.affine<T>(), eps,
        mixing_scale, output_of(y)};
    scope.check(cuda::launch_evaluate(in, arguments, launch));
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

  LaunchScope scope("evaluate_backward", x);
  const Tensor input = readable(x);
  const Tensor gradient = readable_beside(x, dy);
  const Parameters parameters(mixing_weight, mean, var, weight, bias);
  const int64_t components = parameters.components(), groups = parameters.groups();
  const Tensor dx = output_like(x);
  const Tensor dweight = like(mean), dbias = like(mean);
  const cuda::Input in = input_of(input);
  const cuda::Launch launch =
      scope.launch(cuda::evaluate_backward_workspace(in, components, groups, scope.limits()));
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cuda::EvaluateBackwardArguments<T> arguments{components,
                                                       groups,
                                                       parameters.mixture<T>(),
                                                       parameters.affine<T>(),
                                                       eps,
                                                       mixing_scale,
                                                       responsibility_grad,
                                                       output_of(dx),
                                                       dweight.mutable_data_ptr<T>(),
                                                       dbias.mutable_data_ptr<T>()};
    scope.check(cuda::launch_evaluate_backward(input_of(gradient), in, arguments, launch));
  });
  return {dx, of_parameter(dweight, weight), of_parameter(dbias, bias)};
}

}  // namespace

MIXNORM_CUDA_OPERATORS(m) {
  m.impl("evaluate", TORCH_BOX(&evaluate));
  m.impl("evaluate_backward", TORCH_BOX(&evaluate_backward));
}

}  // namespace mixnorm::ops
