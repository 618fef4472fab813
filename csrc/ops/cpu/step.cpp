// A layer's whole training step in one call, and its backward: for small inputs the calls cost more
// than the kernels. What the backward needs of the statistics is one tensor, `state`.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "cpu/backward.h"
#include "cpu/forward.h"
#include "cpu/running.h"
#include "ops/arguments.h"
#include "ops/cpu/tensors.h"

namespace mixnorm::ops {
namespace {

// The parts of `state`, one after the other: the batch's moments and the mixture that they are
// under, [G, K], [K, C], [K, C] each.
struct StateLayout {
  int64_t components, groups, channels;

  int64_t half() const { return groups * components + 2 * components * channels; }
  int64_t size() const { return 2 * half(); }
  template <class T>
  cpu::BatchMoments<T> moments(T* state) const {
    return {state, state + groups * components,
            state + groups * components + components * channels};
  }
  template <class T>
  cpu::Mixture<T> mixture(T* state) const {
    const auto [weight, mean, var] = moments(state + half());
    return {weight, mean, var};
  }
};

void check_tracked(const Tensor& x, const Tensor& num_batches_tracked) {
  MIXNORM_CHECK(num_batches_tracked.scalar_type() == ScalarType::Long &&
                    num_batches_tracked.dim() == 0 && num_batches_tracked.device() == x.device(),
                "step: num_batches_tracked has shape ", shape_of(num_batches_tracked),
                " and dtype ", num_batches_tracked.scalar_type(),
                ", expected a 0-dim Long on the device of x");
}

// Stricter than the other operators, which serve callers that have checked it: nothing else does
// here.
void check_affine_dtype(const Tensor& x, const char* name, const std::optional<Tensor>& parameter) {
  if (!parameter) return;
  const ScalarType type = parameter->scalar_type();
  MIXNORM_CHECK(type == x.scalar_type() || type == accumulation_type(x), "step: ", name,
                " has dtype ", type, ", expected ", x.scalar_type(), " or ", accumulation_type(x));
}

// momentum: none is the cumulative average.
std::tuple<Tensor, Tensor, Tensor> step(const Tensor& x, Tensor running_weight, Tensor running_mean,
                                        Tensor running_var, Tensor num_batches_tracked,
                                        const std::optional<Tensor>& weight,
                                        const std::optional<Tensor>& bias,
                                        std::optional<double> momentum, double eps,
                                        int64_t em_iters, bool mixing_scale) {
  check_problem("step", x, running_weight, running_mean, running_var, eps);
  check_affine("step", x, running_mean, weight, bias);
  check_affine_dtype(x, "weight", weight);
  check_affine_dtype(x, "bias", bias);
  check_tracked(x, num_batches_tracked);
  MIXNORM_CHECK(em_iters >= 0, "step: em_iters is ", em_iters, ", expected 0 or more");
  const int64_t positions = positions_of(x);
  MIXNORM_CHECK(positions > 0, "step: x has shape ", shape_of(x), ", expected 1 or more positions");
  for (const Tensor* running : {&running_weight, &running_mean, &running_var}) {
    MIXNORM_CHECK(running->is_contiguous(), "step: running statistics expected contiguous");
  }

  const Tensor input = dense(x);
  const Parameters parameters(running_weight, running_mean, running_var, weight, bias);
  const StateLayout layout{parameters.components(), parameters.groups(), x.size(1)};
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
  check_input("step_backward", x);
  check_gradient("step_backward", dy, x);
  check_eps("step_backward", eps);
  const StateLayout layout{components, groups, x.size(1)};
  MIXNORM_CHECK(components > 0 && groups > 0 && layout.channels % groups == 0 &&
                    state.numel() == layout.size() && state.is_contiguous() &&
                    state.scalar_type() == accumulation_type(x) && state.device() == x.device(),
                "step_backward: state has shape ", shape_of(state),
                ", expected what step returned");
  const int64_t kept =
      cpu::keeps_responsibilities(components, groups) ? components * positions_of(x) : 0;
  check_responsibilities("step_backward", responsibilities, x, kept);

  const Tensor input = dense(x);
  const Tensor gradient = in_format_of(input, dy);
  const Tensor dx = output_like(input);
  Tensor dweight = empty(state, components, layout.channels), dbias = like(dweight);
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
