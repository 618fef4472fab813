// A barrier over the blocks of a thread-block cluster.
#pragma once

#include <cuda_runtime.h>

namespace mixnorm::cuda {

// What any thread of the cluster wrote before it, to global memory too, every one reads after it:
// it releases and acquires at the scope of the cluster, which drops what the first-level cache
// holds from before. Every thread of the cluster takes part.
__device__ inline void cluster_barrier() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
#else
  __trap();  // older GPUs have no clusters, and the plan makes none
#endif
}

}  // namespace mixnorm::cuda
