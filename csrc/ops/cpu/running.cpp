#include "cpu/running.h"

#include <torch/csrc/stable/library.h>

#include "ops/arguments.h"
#include "ops/cpu/tensors.h"

namespace mixnorm::ops {
namespace {

// factor, a tensor, stands in for momentum where it is given.
Tensor update_running(Tensor running_weight, Tensor running_mean, Tensor running_var,
                      const Tensor& mass, const Tensor& mean, const Tensor& var, int64_t count,
                      double momentum, const std::optional<Tensor>& factor) {
  check_update_running(running_weight, running_mean, running_var, mass, mean, var, count);
  const int64_t groups = mass.size(0), components = mass.size(1), channels = mean.size(1);

  double weight = momentum;
  if (factor) weight = *torch::stable::to(*factor, ScalarType::Double).const_data_ptr<double>();
  const Tensor finite = empty_flag(mass);
  const Tensor batch[] = {as_contiguous(mass), as_contiguous(mean), as_contiguous(var)};
  with_accumulation_type(mass, [&](auto zero) {
    using T = decltype(zero);
    *finite.mutable_data_ptr<bool>() = cpu::update_running<T>(
        groups, components, channels, mixture_of<T>(running_weight, running_mean, running_var),
        {batch[0].const_data_ptr<T>(), batch[1].const_data_ptr<T>(), batch[2].const_data_ptr<T>()},
        count, weight);
  });
  return finite;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixnorm, CPU, m) { m.impl("update_running", TORCH_BOX(&update_running)); }

}  // namespace mixnorm::ops
