// What separates the steps of one launch.
#pragma once

#include "cuda/cluster_barrier.h"
#include "cuda/geometry.h"
#include "cuda/grid_barrier.h"

namespace mixnorm::cuda {

// Before a step, `rounds` of such waits after the launch's first.
__device__ inline void wait_between_steps(Scope scope, unsigned int* counter, int rounds) {
  if (scope == Scope::kBlock) {
    __syncthreads();
  } else if (scope == Scope::kCluster) {
    cluster_barrier();
  } else {
    GridBarrier(counter, rounds).arrive_and_wait();
  }
}

}  // namespace mixnorm::cuda
