// Steps of a planned kernel: one launch of all, cooperative where blocks wait for each other, or a
// launch of each.
#pragma once

#include "cuda/plan.h"
#include "cuda/workspace.h"

namespace mixnorm::cuda {

template <class Problem>
cudaError_t run(const Plan& plan, void (*kernel)(Problem, int, int), const Problem& problem,
                int steps, unsigned int* barrier, cudaStream_t stream) {
  const auto launch = [&](int first, int last, bool cooperative) {
    return launch_kernel(kernel, plan.blocks, plan.threads, plan.shared_memory, cooperative, stream,
                         problem, first, last);
  };
  if (plan.family == Family::kResident) {
    const cudaError_t error = cudaMemsetAsync(barrier, 0, sizeof(*barrier), stream);
    return error == cudaSuccess ? launch(0, steps, true) : error;
  }
  if (plan.family == Family::kSmall) return launch(0, steps, false);
  for (int step = 0; step < steps; ++step) {
    const cudaError_t error = launch(step, step + 1, false);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace mixnorm::cuda
