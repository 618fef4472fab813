#include "cuda/normalize.h"

#include <optional>

#include "ops/arguments.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/register.h"
#include "ops/cuda/tensors.h"

namespace mixnorm::ops {
namespace {

Tensor normalize(const Tensor& x, const Tensor& mixing_weight, const Tensor& mean,
                 const Tensor& var, const Tensor& mass, const Tensor& batch_mean,
                 const Tensor& batch_var, const std::optional<Tensor>& weight,
                 const std::optional<Tensor>& bias, double eps, bool mixing_scale) {
  check_problem("normalize", x, mixing_weight, mean, var, eps);
  check_moments("normalize", x, mass, batch_mean, batch_var, mixing_weight);
  check_affine("normalize", x, mean, weight, bias);

  LaunchScope scope("normalize", x);
  const Tensor input = readable(x);
  const Parameters parameters(mixing_weight, mean, var, weight, bias);
  const Moments moments(mass, batch_mean, batch_var);
  const int64_t components = parameters.components(), groups = parameters.groups();
  const Tensor y = output_like(x);
  const cuda::Input in = input_of(input);
  const cuda::Launch launch =
      scope.launch(cuda::normalize_workspace(in, components, groups, scope.limits()));
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cuda::NormalizeArguments<T> arguments{components,
                                                groups,
                                                parameters.mixture<T>(),
                                                moments.moments<T>(),
                                                parameters.affine<T>(),
                                                eps,
                                                mixing_scale,
                                                output_of(y)};
    scope.check(cuda::launch_normalize(in, arguments, launch));
  });
  return y;
}

}  // namespace

MIXNORM_CUDA_OPERATORS(m) { m.impl("normalize", TORCH_BOX(&normalize)); }

}  // namespace mixnorm::ops
