// A barrier over all blocks of a cooperative launch.
#pragma once

#include "cuda/thread.cuh"

namespace mixnorm::cuda {

// One counter in global memory, 0 before the launch; never reset: each round counts on from the
// last. What any thread wrote to global memory before it, every thread may read after it: the fence
// behind the wait drops what the first-level cache holds from before.
class GridBarrier {
 public:
  // rounds: how many the launch has behind it.
  __device__ explicit GridBarrier(unsigned int* counter, unsigned int rounds = 0)
      : counter_(counter), target_(rounds * grid_blocks()) {}

  __device__ void arrive_and_wait() {
    target_ += grid_blocks();
    __syncthreads();
    if (grid_blocks() > 1 && opaque(threadIdx.x) == 0) {
      __threadfence();
      atomicAdd(counter_, 1u);
      // Signed distance: right even after the counter wraps.
      while (static_cast<int>(load() - target_) < 0) __nanosleep(32);
      __threadfence();
    }
    __syncthreads();
  }

 private:
  __device__ unsigned int load() const {
    return *static_cast<const volatile unsigned int*>(counter_);
  }

  unsigned int* counter_;
  unsigned int target_;
};

}  // namespace mixnorm::cuda
