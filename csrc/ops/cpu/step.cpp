#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "cpu/backward.h"
#include "cpu/forward.h"
#include "cpu/running.h"
#include "ops/cpu/tensors.h"
#include "ops/step.h"

namespace mixnorm::ops {
namespace {

// momentum: none is the cumulative average.
std::tuple<Tensor, Tensor, Tensor> step(const Tensor& x, Tensor running_weight, Tensor running_mean,
                                        Tensor running_var, Tensor num_batches_tracked,
                                        const std::optional<Tensor>& weight,
                                        const std::optional<Tensor>& bias,
                                        std::optional<double> momentum, double eps,
                                        int64_t em_iters, bool mixing_scale) {
  check_step(x, running_weight, running_mean, running_var, num_batches_tracked, weight, bias, eps,
             em_iters);

  const Tensor input = dense(x);
  const Parameters parameters(running_weight, running_mean, running_var, weight, bias);
  const StepState layout{parameters.components(), parameters.groups(), x.size(1)};
  const int64_t positions = positions_of(x);
  const Tensor y = output_like(input);
  const Tensor state = empty(running_mean, layout.size());
  const Tensor responsibilities = cpu::keeps_responsibilities(layout.components, layout.groups)
                                      ? empty(running_mean, layout.components, positions)
                                      : empty(running_mean, 0);
  int64_t& tracked = *num_batches_tracked.mutable_data_ptr<int64_t>();
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    T* const parts = state.mutable_data_ptr<T>();
    const cpu::BatchMoments<T> moments = layout.moments(parts);
    const cpu::ForwardArguments<T> arguments{layout.components,
                                             layout.groups,
                                             parameters.mixture<T>(),
                                             parameters.affine<T>(),
                                             eps,
                                             em_iters,
                                             mixing_scale,
                                             output_of(y),
                                             moments,
                                             responsibilities.mutable_data_ptr<T>(),
                                             layout.mixture(parts)};
    cpu::forward(input_of(input), arguments, run_on_torch_threads);
    const bool finite =
        cpu::update_running<T>(layout.groups, layout.components, layout.channels,
                               mixture_of<T>(running_weight, running_mean, running_var),
                               {moments.mass, moments.mean, moments.var}, positions,
                               momentum.value_or(T(1) / T(tracked + 1)));
    tracked += finite;
  });
  return {y, state, responsibilities};
}

std::tuple<Tensor, Tensor, Tensor> step_backward(
    const Tensor& dy, const Tensor& x, const Tensor& state, const Tensor& responsibilities,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, int64_t components,
    int64_t groups, double eps, bool mixing_scale, bool responsibility_grad) {
  const StepState layout = check_step_backward(dy, x, state, components, groups, eps);
  const int64_t kept =
      cpu::keeps_responsibilities(components, groups) ? components * positions_of(x) : 0;
  check_responsibilities("step_backward", responsibilities, x, kept);

  const Tensor input = dense(x);
  const Tensor gradient = in_format_of(input, dy);
  const Tensor dx = output_like(input);
  Tensor dweight = empty(state, components, layout.channels), dbias = like(dweight);
  check_affine("step_backward", x, dweight, weight, bias);
  const AffineParameters parameters(weight, bias, state);
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const T* const parts = state.const_data_ptr<T>();
    const cpu::BackwardArguments<T> arguments{components,
                                              groups,
                                              responsibilities.const_data_ptr<T>(),
                                              layout.moments(parts),
                                              layout.mixture(parts),
                                              parameters.affine<T>(),
                                              eps,
                                              mixing_scale,
                                              responsibility_grad,
                                              output_of(dx),
                                              dweight.mutable_data_ptr<T>(),
                                              dbias.mutable_data_ptr<T>(),
                                              cpu::Mixture<T>{}};
    cpu::backward(input_of(gradient), input_of(input), arguments, run_on_torch_threads);
    dweight = of_parameter<T>(dweight, weight);
    dbias = of_parameter<T>(dbias, bias);
  });
  return {dx, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixnorm, CPU, m) {
  m.impl("step", TORCH_BOX(&step));
  m.impl("step_backward", TORCH_BOX(&step_backward));
}

}  // namespace mixnorm::ops
