#include "cpu/forward.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "ops/arguments.h"
#include "ops/cpu/tensors.h"

namespace mixnorm::ops {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> forward(
    const Tensor& x, const Tensor& mixing_weight, const Tensor& mean, const Tensor& var,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps,
    int64_t em_iters, bool mixing_scale) {
  check_problem("forward", x, mixing_weight, mean, var, eps);
  check_affine("forward", x, mean, weight, bias);
  MIXNORM_CHECK(em_iters >= 0, "forward: em_iters is ", em_iters, ", expected 0 or more");

  const Tensor input = dense(x);
  const Parameters parameters(mixing_weight, mean, var, weight, bias);
  const int64_t components = parameters.components(), groups = parameters.groups();
  const Tensor y = output_like(input);
  const Tensor mass = like(mixing_weight), batch_mean = like(mean), batch_var = like(var);
  const Tensor final_weight = like(mixing_weight), final_mean = like(mean), final_var = like(var);
  const cpu::Input in = input_of(input);
  const Tensor responsibilities = cpu::keeps_responsibilities(components, groups)
                                      ? empty(mean, components, in.batch * in.length)
                                      : empty(mean, 0);
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cpu::ForwardArguments<T> arguments{components,
                                             groups,
                                             parameters.mixture<T>(),
                                             parameters.affine<T>(),
                                             eps,
                                             em_iters,
                                             mixing_scale,
                                             output_of(y),
                                             moments_of<T>(mass, batch_mean, batch_var),
                                             responsibilities.mutable_data_ptr<T>(),
                                             mixture_of<T>(final_weight, final_mean, final_var)};
    cpu::forward(in, arguments, run_on_torch_threads);
  });
  return {y, mass, batch_mean, batch_var, responsibilities, final_weight, final_mean, final_var};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixnorm, CPU, m) { m.impl("forward", TORCH_BOX(&forward)); }

}  // namespace mixnorm::ops
