// Steps of a planned kernel: one launch of all, cooperative where all blocks wait for each other,
// of clusters where some do, or a launch of each.
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
  const bool resident = plan.family == Family::kResident;
  if (resident) {
    const cudaError_t error = cudaMemsetAsync(barrier, 0, sizeof(*barrier), stream);
    if (error != cudaSuccess) return error;
  }
  if (plan.family == Family::kCluster) {
    return launch_clusters(kernel, plan.blocks, plan.threads, plan.shared_memory,
                           plan.geometry.chunks, stream, problem, 0, steps);
  }
  if (resident || plan.family == Family::kSmall) {
    return launch_kernel(kernel, plan.blocks, plan.threads, plan.shared_memory, resident, stream,
                         problem, 0, steps);
  }
  for (int step = 0; step < steps; ++step) {
    const cudaError_t error = run_each(plan, kernel, problem, {step}, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace mixnorm::cuda
