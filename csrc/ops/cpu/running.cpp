#include "cpu/running.h"

#include <torch/csrc/stable/library.h>

#include "ops/arguments.h"
#include "ops/cpu/tensors.h"

namespace mixnorm::ops {
namespace {

void check_buffer(const char* name, const Tensor& buffer, const Tensor& value) {
  MIXNORM_CHECK(buffer.is_contiguous(), "update_running: ", name, " expected contiguous");
  MIXNORM_CHECK(buffer.scalar_type() == value.scalar_type(), "update_running: ", name,
                " has dtype ", buffer.scalar_type(), ", expected ", value.scalar_type());
  MIXNORM_CHECK(buffer.dim() == 2 && value.dim() == 2 && buffer.size(0) == value.size(0) &&
                    buffer.size(1) == value.size(1),
                "update_running: ", name, " has shape ", shape_of(buffer), ", expected ",
                shape_of(value));
}

// factor, a tensor, stands in for momentum where it is given.
Tensor update_running(Tensor running_weight, Tensor running_mean, Tensor running_var,
                      const Tensor& mass, const Tensor& mean, const Tensor& var, int64_t count,
                      double momentum, const std::optional<Tensor>& factor) {
  check_buffer("running_weight", running_weight, mass);
  check_buffer("running_mean", running_mean, mean);
  check_buffer("running_var", running_var, var);
  const int64_t groups = mass.size(0), components = mass.size(1), channels = mean.size(1);
  MIXNORM_CHECK(mean.size(0) == components && groups > 0 && channels % groups == 0,
                "update_running: mean has shape ", shape_of(mean), ", expected [K, C] for mass ",
                shape_of(mass));
  MIXNORM_CHECK(count > 0, "update_running: count is ", count, ", expected 1 or more");

  double weight = momentum;
  if (factor) weight = *torch::stable::to(*factor, ScalarType::Double).const_data_ptr<double>();
  const Tensor finite = empty_flag();
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
