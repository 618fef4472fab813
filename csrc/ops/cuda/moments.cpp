#include "cuda/moments.h"

#include <tuple>

#include "ops/arguments.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/register.h"
#include "ops/cuda/tensors.h"

namespace mixnorm::ops {
namespace {

std::tuple<Tensor, Tensor, Tensor> moments(const Tensor& x, const Tensor& mixing_weight,
                                           const Tensor& mean, const Tensor& var, double eps) {
  check_problem("moments", x, mixing_weight, mean, var, eps);

  LaunchScope scope("moments", x);
  const Tensor input = readable(x);
  const Parameters parameters(mixing_weight, mean, var, std::nullopt, std::nullopt);
  const int64_t components = parameters.components(), groups = parameters.groups();
  const Tensor mass = like(mixing_weight), batch_mean = like(mean), batch_var = like(var);
  const cuda::Input in = input_of(input);
  const cuda::Launch launch =
      scope.launch(cuda::moments_workspace(in, components, groups, scope.limits()));
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cuda::MomentsArguments<T> arguments{components, groups, parameters.mixture<T>(), eps,
                                              moments_of<T>(mass, batch_mean, batch_var)};
    scope.check(cuda::launch_moments(in, arguments, launch));
  });
  return {mass, batch_mean, batch_var};
}

}  // namespace

MIXNORM_CUDA_OPERATORS(m) { m.impl("moments", TORCH_BOX(&moments)); }

}  // namespace mixnorm::ops
