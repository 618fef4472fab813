// The two sweeps of backward as operators of their own, for what exchanges sums between them.
#include <optional>
#include <tuple>

#include "cuda/backward.h"
#include "ops/arguments.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/register.h"
#include "ops/cuda/tensors.h"

namespace mixnorm::ops {
namespace {

std::tuple<Tensor, Tensor> backward_sums(const Tensor& dy, const Tensor& x,
                                         const Tensor& mixing_weight, const Tensor& mean,
                                         const Tensor& var, const Tensor& mass,
                                         const Tensor& batch_mean, const Tensor& batch_var,
                                         double eps) {
  check_problem("backward_sums", x, mixing_weight, mean, var, eps);
  check_gradient("backward_sums", dy, x);
  check_moments("backward_sums", x, mass, batch_mean, batch_var, mixing_weight);

  LaunchScope scope("backward_sums", x);
  const Tensor input = readable(x);
  const Tensor gradient = readable_beside(x, dy);
  const Parameters parameters(mixing_weight, mean, var, std::nullopt, std::nullopt);
  const Moments moments(mass, batch_mean, batch_var);
  const int64_t components = parameters.components(), groups = parameters.groups();
  const Tensor h1 = like(mean), h2 = like(mean);
  const cuda::Input in = input_of(input);
  const cuda::Launch launch =
      scope.launch(cuda::backward_workspace(in, components, groups, scope.limits()));
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cuda::BackwardSumsArguments<T> arguments{components,
                                                   groups,
                                                   moments.moments<T>(),
                                                   parameters.mixture<T>(),
                                                   eps,
                                                   h1.mutable_data_ptr<T>(),
                                                   h2.mutable_data_ptr<T>()};
    scope.check(cuda::launch_backward_sums(input_of(gradient), in, arguments, launch));
  });
  return {h1, h2};
}

std::tuple<Tensor, Tensor, Tensor> backward_apply(
    const Tensor& dy, const Tensor& x, const Tensor& mixing_weight, const Tensor& mean,
    const Tensor& var, const Tensor& mass, const Tensor& batch_mean, const Tensor& batch_var,
    const Tensor& h1, const Tensor& h2, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& bias, double eps, bool mixing_scale, bool responsibility_grad) {
  check_problem("backward_apply", x, mixing_weight, mean, var, eps);
  check_gradient("backward_apply", dy, x);
  check_moments("backward_apply", x, mass, batch_mean, batch_var, mixing_weight);
  check_statistic("backward_apply", "h1", h1, x, mean.size(0), mean.size(1), "[K, C]");
  check_statistic("backward_apply", "h2", h2, x, mean.size(0), mean.size(1), "[K, C]");
  check_affine("backward_apply", x, mean, weight, bias);

  LaunchScope scope("backward_apply", x);
  const Tensor input = readable(x);
  const Tensor gradient = readable_beside(x, dy);
  const Parameters parameters(mixing_weight, mean, var, weight, bias);
  const Moments moments(mass, batch_mean, batch_var);
  const Tensor sums[] = {as_contiguous(h1), as_contiguous(h2)};
  const int64_t components = parameters.components(), groups = parameters.groups();
  const Tensor dx = output_like(x);
  const Tensor dweight = like(mean), dbias = like(mean);
  const cuda::Input in = input_of(input);
  const cuda::Launch launch =
      scope.launch(cuda::backward_workspace(in, components, groups, scope.limits()));
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cuda::BackwardArguments<T> arguments{components,
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
                                               {}};
    scope.check(cuda::launch_backward_apply(input_of(gradient), in, sums[0].const_data_ptr<T>(),
                                            sums[1].const_data_ptr<T>(), arguments, launch));
  });
  return {dx, of_parameter(dweight, weight), of_parameter(dbias, bias)};
}

}  // namespace

MIXNORM_CUDA_OPERATORS(m) {
  m.impl("backward_sums", TORCH_BOX(&backward_sums));
  m.impl("backward_apply", TORCH_BOX(&backward_apply));
}

}  // namespace mixnorm::ops
