#include "cuda/forward.h"

#include <optional>
#include <tuple>

#include "ops/arguments.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/register.h"
#include "ops/cuda/tensors.h"

namespace mixnorm::ops {
namespace {

// No responsibilities: to store and to read them costs more than to compute them again.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> forward(
    const Tensor& x, const Tensor& mixing_weight, const Tensor& mean, const Tensor& var,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps,
    int64_t em_iters, bool mixing_scale) {
  check_problem("forward", x, mixing_weight, mean, var, eps);
  check_affine("forward", x, mean, weight, bias);
  MIXNORM_CHECK(em_iters >= 0, "forward: em_iters is ", em_iters, ", expected 0 or more");

  LaunchScope scope("forward", x);
  const Tensor input = readable(x);
  const Parameters parameters(mixing_weight, mean, var, weight, bias);
  const int64_t components = parameters.components(), groups = parameters.groups();
  const Tensor y = output_like(x);
  const Tensor mass = like(mixing_weight), batch_mean = like(mean), batch_var = like(var);
  const Tensor final_weight = like(mixing_weight), final_mean = like(mean), final_var = like(var);
  const cuda::Input in = input_of(input);
  const cuda::Launch launch =
      scope.launch(cuda::forward_workspace(in, components, groups, scope.limits()));
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cuda::ForwardArguments<T> arguments{components,
                                              groups,
                                              parameters.mixture<T>(),
                                              parameters.affine<T>(),
                                              eps,
                                              em_iters,
                                              mixing_scale,
                                              output_of(y),
                                              moments_of<T>(mass, batch_mean, batch_var),
                                              mixture_of<T>(final_weight, final_mean, final_var)};
    scope.check(cuda::launch_forward(in, arguments, launch));
  });
  return {y, mass, batch_mean, batch_var, empty(mean, 0), final_weight, final_mean, final_var};
}

}  // namespace

MIXNORM_CUDA_OPERATORS(m) { m.impl("forward", TORCH_BOX(&forward)); }

}  // namespace mixnorm::ops
