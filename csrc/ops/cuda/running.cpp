#include "cuda/running.h"

#include <optional>

#include "ops/arguments.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/register.h"
#include "ops/cuda/tensors.h"

namespace mixnorm::ops {
namespace {

// factor, a tensor, stands in for momentum where it is given; it is read on the device.
Tensor update_running(Tensor running_weight, Tensor running_mean, Tensor running_var,
                      const Tensor& mass, const Tensor& mean, const Tensor& var, int64_t count,
                      double momentum, const std::optional<Tensor>& factor) {
  check_update_running(running_weight, running_mean, running_var, mass, mean, var, count);
  MIXNORM_CHECK(!factor || factor->device() == mass.device(),
                "update_running: factor is not on the device of the moments");

  LaunchScope scope("update_running", mass);
  const Tensor finite = empty_flag(mass);
  const Tensor batch[] = {as_contiguous(mass), as_contiguous(mean), as_contiguous(var)};
  std::optional<Tensor> scalar = factor;
  if (scalar && scalar->scalar_type() != mass.scalar_type()) {
    scalar = torch::stable::to(*scalar, mass.scalar_type());
  }
  with_accumulation_type(mass, [&](auto zero) {
    using T = decltype(zero);
    const cuda::RunningArguments<T> arguments{
        mass.size(1),
        mass.size(0),
        mean.size(1),
        mixture_of<T>(running_weight, running_mean, running_var),
        {batch[0].const_data_ptr<T>(), batch[1].const_data_ptr<T>(), batch[2].const_data_ptr<T>()},
        count,
        momentum,
        scalar ? scalar->const_data_ptr<T>() : nullptr,
        finite.mutable_data_ptr<bool>(),
        nullptr,
        false};
    scope.check(cuda::launch_update_running(arguments, scope.stream()));
  });
  return finite;
}

}  // namespace

MIXNORM_CUDA_OPERATORS(m) { m.impl("update_running", TORCH_BOX(&update_running)); }

}  // namespace mixnorm::ops
