#include "ops/step.h"

#include <optional>
#include <tuple>

#include "cuda/backward.h"
#include "cuda/forward.h"
#include "cuda/running.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/register.h"
#include "ops/cuda/tensors.h"

namespace mixnorm::ops {
namespace {

// momentum: none is the cumulative average, whose count stays on the device.
std::tuple<Tensor, Tensor, Tensor> step(const Tensor& x, Tensor running_weight, Tensor running_mean,
                                        Tensor running_var, Tensor num_batches_tracked,
                                        const std::optional<Tensor>& weight,
                                        const std::optional<Tensor>& bias,
                                        std::optional<double> momentum, double eps,
                                        int64_t em_iters, bool mixing_scale) {
  check_step(x, running_weight, running_mean, running_var, num_batches_tracked, weight, bias, eps,
             em_iters);

  LaunchScope scope("step", x);
  const Tensor input = readable(x);
  const Parameters parameters(running_weight, running_mean, running_var, weight, bias);
  const StepState layout{parameters.components(), parameters.groups(), x.size(1)};
  const Tensor y = output_like(x);
  const Tensor state = empty(running_mean, layout.size());
  const cuda::Input in = input_of(input);
  const cuda::Launch launch =
      scope.launch(cuda::forward_workspace(in, layout.components, layout.groups, scope.limits()));
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    T* const parts = state.mutable_data_ptr<T>();
    const cuda::BatchMoments<T> moments = layout.moments(parts);
    const cuda::ForwardArguments<T> arguments{
        layout.components,      layout.groups, parameters.mixture<T>(),
        parameters.affine<T>(), eps,           em_iters,
        mixing_scale,           output_of(y),  moments,
        layout.mixture(parts)};
    scope.check(cuda::launch_forward(in, arguments, launch));
    const cuda::RunningArguments<T> update{layout.components,
                                           layout.groups,
                                           layout.channels,
                                           mixture_of<T>(running_weight, running_mean, running_var),
                                           {moments.mass, moments.mean, moments.var},
                                           positions_of(x),
                                           momentum.value_or(0),
                                           nullptr,
                                           nullptr,
                                           num_batches_tracked.mutable_data_ptr<int64_t>(),
                                           !momentum};
    scope.check(cuda::launch_update_running(update, scope.stream()));
  });
  return {y, state, empty(running_mean, 0)};
}

std::tuple<Tensor, Tensor, Tensor> step_backward(
    const Tensor& dy, const Tensor& x, const Tensor& state, const Tensor& responsibilities,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, int64_t components,
    int64_t groups, double eps, bool mixing_scale, bool responsibility_grad) {
  const StepState layout = check_step_backward(dy, x, state, components, groups, eps);
  check_responsibilities("step_backward", responsibilities, x, 0);

  LaunchScope scope("step_backward", x);
  const Tensor input = readable(x);
  const Tensor gradient = readable_beside(x, dy);
  const AffineParameters parameters(weight, bias, state);
  const Tensor dx = output_like(x);
  const Tensor dweight = empty(state, components, layout.channels), dbias = like(dweight);
  check_affine("step_backward", x, dweight, weight, bias);
  const cuda::Input in = input_of(input);
  const cuda::Launch launch =
      scope.launch(cuda::backward_workspace(in, components, groups, scope.limits()));
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const T* const parts = state.const_data_ptr<T>();
    const cuda::BackwardArguments<T> arguments{components,
                                               groups,
                                               layout.moments(parts),
                                               layout.mixture(parts),
                                               parameters.affine<T>(),
                                               eps,
                                               mixing_scale,
                                               responsibility_grad,
                                               output_of(dx),
                                               dweight.mutable_data_ptr<T>(),
                                               dbias.mutable_data_ptr<T>(),
                                               cuda::Mixture<T>{}};
    scope.check(cuda::launch_backward(input_of(gradient), in, arguments, launch));
  });
  return {dx, of_parameter(dweight, weight), of_parameter(dbias, bias)};
}

}  // namespace

MIXNORM_CUDA_OPERATORS(m) {
  m.impl("step", TORCH_BOX(&step));
  m.impl("step_backward", TORCH_BOX(&step_backward));
}

}  // namespace mixnorm::ops
