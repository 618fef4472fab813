#include "cuda/backward.h"

#include <optional>
#include <tuple>

#include "ops/arguments.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/register.h"
#include "ops/cuda/tensors.h"

namespace mixnorm::ops {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& dy, const Tensor& x, const Tensor& responsibilities, const Tensor& mass,
    const Tensor& batch_mean, const Tensor& batch_var, const Tensor& mixing_weight,
    const Tensor& mean, const Tensor& var, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& bias, double eps, bool mixing_scale, bool responsibility_grad,
    bool mixture_grad) {
  check_problem("backward", x, mixing_weight, mean, var, eps);
  check_gradient("backward", dy, x);
  check_moments("backward", x, mass, batch_mean, batch_var, mixing_weight);
  check_affine("backward", x, mean, weight, bias);
  check_responsibilities("backward", responsibilities, x, 0);

  LaunchScope scope("backward", x);
  const Tensor input = readable(x);
  const Tensor gradient = readable_beside(x, dy);
  const Parameters parameters(mixing_weight, mean, var, weight, bias);
  const Moments moments(mass, batch_mean, batch_var);
  const int64_t components = parameters.components(), groups = parameters.groups();
  const Tensor dx = output_like(x);
  const Tensor dweight = like(mean), dbias = like(mean);
  const auto wanted = [&](const Tensor& tensor) {
    return mixture_grad ? like(tensor) : empty(tensor, 0);
  };
  const Tensor dmixing_weight = wanted(mixing_weight), dmean = wanted(mean), dvar = wanted(var);
  const cuda::Input in = input_of(input);
  const cuda::Launch launch =
      scope.launch(cuda::backward_workspace(in, components, groups, scope.limits()));
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cuda::BackwardArguments<T> arguments{
        components,
        groups,
        moments.moments<T>(),
        parameters.mixture<T>(),
        parameters.affine<T>(),
        eps,
        mixing_scale,
        responsibility_grad,
        output_of(dx),
        dweight.mutable_data_ptr<T>(),
        dbias.mutable_data_ptr<T>(),
        mixture_grad ? mixture_of<T>(dmixing_weight, dmean, dvar) : cuda::Mixture<T>{}};
    scope.check(cuda::launch_backward(input_of(gradient), in, arguments, launch));
  });
  return {dx,  of_parameter(dweight, weight), of_parameter(dbias, bias), dmixing_weight, dmean,
          dvar};
}

}  // namespace

MIXNORM_CUDA_OPERATORS(m) { m.impl("backward", TORCH_BOX(&backward)); }

}  // namespace mixnorm::ops
