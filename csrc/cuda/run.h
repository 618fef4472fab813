// Steps of a planned kernel: one cooperative launch of all, or a launch of each.
#pragma once

#include <initializer_list>

#include "cuda/plan.h"
#include "cuda/workspace.h"

namespace mixnorm::cuda {

template <class Problem>
cudaError_t run_each(const Plan& plan, void (*kernel)(Problem, int, int), const Problem& problem,
                     std::initializer_list<int> steps, cudaStream_t stream) {
  for (const int step : steps) {
    const cudaError_t error = launch_kernel(kernel, plan.blocks, plan.threads, plan.shared_memory,
                                            false, stream, problem, step, step + 1);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

template <class Problem>
cudaError_t run(const Plan& plan, void (*kernel)(Problem, int, int), const Problem& problem,
                int steps, unsigned int* barrier, cudaStream_t stream) {
  if (plan.family == Family::kResident) {
    const cudaError_t error = cudaMemsetAsync(barrier, 0, sizeof(*barrier), stream);
    if (error != cudaSuccess) return error;
    return launch_kernel(kernel, plan.blocks, plan.threads, plan.shared_memory, true, stream,
                         problem, 0, steps);
  }
  for (int step = 0; step < steps; ++step) {
    const cudaError_t error = run_each(plan, kernel, problem, {step}, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace mixnorm::cuda
