// A layer's whole training step in one operator, and its backward: for small inputs the calls cost
// more than the kernels. What the backward needs of the statistics is one tensor, `state`.
#pragma once

#include <cstdint>
#include <optional>

#include "ops/tensors.h"

namespace mixnorm::ops {

// The parts of `state`, one after the other: the batch's moments and the mixture that they are
// under, [G, K], [K, C], [K, C] each.
struct StepState {
  int64_t components, groups, channels;

  int64_t half() const { return groups * components + 2 * components * channels; }
  int64_t size() const { return 2 * half(); }
  template <class T>
  device::BatchMoments<T> moments(T* state) const {
    return {state, state + groups * components,
            state + groups * components + components * channels};
  }
  template <class T>
  device::Mixture<T> mixture(T* state) const {
    const auto [weight, mean, var] = moments(state + half());
    return {weight, mean, var};
  }
};

// Stricter than the other operators, whose callers have checked it: here nothing else does.
inline void check_affine_dtype(const Tensor& x, const char* name,
                               const std::optional<Tensor>& parameter) {
  if (!parameter) return;
  const ScalarType type = parameter->scalar_type();
  MIXNORM_CHECK(type == x.scalar_type() || type == accumulation_type(x), "step: ", name,
                " has dtype ", type, ", expected ", x.scalar_type(), " or ", accumulation_type(x));
}

inline void check_step(const Tensor& x, const Tensor& running_weight, const Tensor& running_mean,
                       const Tensor& running_var, const Tensor& num_batches_tracked,
                       const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                       double eps, int64_t em_iters) {
  check_problem("step", x, running_weight, running_mean, running_var, eps);
  check_affine("step", x, running_mean, weight, bias);
  check_affine_dtype(x, "weight", weight);
  check_affine_dtype(x, "bias", bias);
  MIXNORM_CHECK(num_batches_tracked.scalar_type() == ScalarType::Long &&
                    num_batches_tracked.dim() == 0 && num_batches_tracked.device() == x.device(),
                "step: num_batches_tracked has shape ", shape_of(num_batches_tracked),
                " and dtype ", num_batches_tracked.scalar_type(),
                ", expected a 0-dim Long on the device of x");
  MIXNORM_CHECK(em_iters >= 0, "step: em_iters is ", em_iters, ", expected 0 or more");
  MIXNORM_CHECK(positions_of(x) > 0, "step: x has shape ", shape_of(x),
                ", expected 1 or more positions");
  for (const Tensor* running : {&running_weight, &running_mean, &running_var}) {
    MIXNORM_CHECK(running->is_contiguous(), "step: running statistics expected contiguous");
  }
}

inline StepState check_step_backward(const Tensor& dy, const Tensor& x, const Tensor& state,
                                     int64_t components, int64_t groups, double eps) {
  check_input("step_backward", x);
  check_gradient("step_backward", dy, x);
  check_eps("step_backward", eps);
  const StepState layout{components, groups, x.size(1)};
  MIXNORM_CHECK(components > 0 && components <= device::kMaxComponents && groups > 0 &&
                    layout.channels % groups == 0 && state.numel() == layout.size() &&
                    state.is_contiguous() && state.scalar_type() == accumulation_type(x) &&
                    state.device() == x.device(),
                "step_backward: state has shape ", shape_of(state),
                ", expected what step returned");
  return layout;
}

}  // namespace mixnorm::ops
