#include "cpu/moments.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "ops/arguments.h"
#include "ops/cpu/tensors.h"

namespace mixnorm::ops {
namespace {

template <class T>
void run(const Tensor& x, const Tensor& mixing_weight, const Tensor& mean, const Tensor& var,
         double eps, const Tensor& mass, const Tensor& batch_mean, const Tensor& batch_var) {
  cpu::MomentsArguments<T> arguments{};
  arguments.components = mixing_weight.size(1);
  arguments.groups = mixing_weight.size(0);
  arguments.mixing_weight = mixing_weight.const_data_ptr<T>();
  arguments.mean = mean.const_data_ptr<T>();
  arguments.var = var.const_data_ptr<T>();
  arguments.eps = eps;
  arguments.mass = mass.mutable_data_ptr<T>();
  arguments.batch_mean = batch_mean.mutable_data_ptr<T>();
  arguments.batch_var = batch_var.mutable_data_ptr<T>();
  cpu::moments(input_of(x), arguments, run_on_torch_threads);
}

std::tuple<Tensor, Tensor, Tensor> moments(const Tensor& x, const Tensor& mixing_weight,
                                           const Tensor& mean, const Tensor& var, double eps) {
  check_input("moments", x);
  check_mixture("moments", x, mixing_weight, mean, var);
  check_eps("moments", eps);

  const Tensor flat = with_flat_positions(x);
  const Tensor weight_c = torch::stable::contiguous(mixing_weight);
  const Tensor mean_c = torch::stable::contiguous(mean);
  const Tensor var_c = torch::stable::contiguous(var);
  const Tensor mass = torch::stable::new_empty(mixing_weight, mixing_weight.sizes());
  const Tensor batch_mean = torch::stable::new_empty(mean, mean.sizes());
  const Tensor batch_var = torch::stable::new_empty(var, var.sizes());
  if (accumulation_type(x) == ScalarType::Double) {
    run<double>(flat, weight_c, mean_c, var_c, eps, mass, batch_mean, batch_var);
  } else {
    run<float>(flat, weight_c, mean_c, var_c, eps, mass, batch_mean, batch_var);
  }
  return {mass, batch_mean, batch_var};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixnorm, CPU, m) { m.impl("moments", TORCH_BOX(&moments)); }

}  // namespace mixnorm::ops
