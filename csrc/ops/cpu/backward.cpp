#include "cpu/backward.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "cpu/forward.h"
#include "ops/arguments.h"
#include "ops/cpu/tensors.h"

namespace mixnorm::ops {
namespace {

// How many elements forward returned.
int64_t kept_responsibilities(const Tensor& x, int64_t components, int64_t groups) {
  return cpu::keeps_responsibilities(components, groups) ? components * positions_of(x) : 0;
}

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
  check_responsibilities("backward", responsibilities, x,
                         kept_responsibilities(x, mixing_weight.size(1), mixing_weight.size(0)));

  const Tensor input = dense(x);
  const Tensor gradient = in_format_of(input, dy);
  const Parameters parameters(mixing_weight, mean, var, weight, bias);
  const Moments moments(mass, batch_mean, batch_var);
  const int64_t components = parameters.components(), groups = parameters.groups();
  const Tensor dx = output_like(input);
  Tensor dweight = like(mean), dbias = like(mean);
  const auto wanted = [&](const Tensor& tensor) {
    return mixture_grad ? like(tensor) : empty(tensor, 0);
  };
  const Tensor dmixing_weight = wanted(mixing_weight), dmean = wanted(mean), dvar = wanted(var);
  with_accumulation_type(x, [&](auto zero) {
    using T = decltype(zero);
    const cpu::BackwardArguments<T> arguments{
        components,
        groups,
        responsibilities.const_data_ptr<T>(),
        moments.moments<T>(),
        parameters.mixture<T>(),
        parameters.affine<T>(),
        eps,
        mixing_scale,
        responsibility_grad,
        output_of(dx),
        dweight.mutable_data_ptr<T>(),
        dbias.mutable_data_ptr<T>(),
        mixture_grad ? mixture_of<T>(dmixing_weight, dmean, dvar) : cpu::Mixture<T>{}};
    cpu::backward(input_of(gradient), input_of(input), arguments, run_on_torch_threads);
    dweight = of_parameter<T>(dweight, weight);
    dbias = of_parameter<T>(dbias, bias);
  });
  return {dx, dweight, dbias, dmixing_weight, dmean, dvar};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixnorm, CPU, m) { m.impl("backward", TORCH_BOX(&backward)); }

}  // namespace mixnorm::ops
