// Training forward, moments and eval: one kernel whose steps are separated by a barrier or
// by launches (streaming).
#pragma once

#include "cuda/between_steps.h"
#include "cuda/instantiate.cuh"
#include "cuda/merge_moments.cuh"
#include "cuda/moments.cuh"
#include "cuda/normalize.cuh"
#include "cuda/prepare.cuh"
#include "cuda/shared_memory.h"

namespace mixnorm::cuda {

// Step 0 prepares; then sums and merges alternate, em_iters + 1 times; the output is the last step.
// Without statistics of the batch (eval) only the first and the last are left.
template <class T>
struct ForwardProblem {
  Geometry geometry;
  Tensor x, y;  // y: null where only moments are wanted
  Start<T> start;
  MergeArguments<T> merge;
  Partials<T> partials;
  T* table;
  unsigned int* barrier;
  int steps;
};

template <class T>
__device__ bool is_output_step(const ForwardProblem<T>& p, int step) {
  return step == p.steps - 1 && p.y.data != nullptr;
}

template <class T, int K>
__device__ void merge_moments_of_step(const ForwardProblem<T>& p, int step, double* buffer) {
  MergeArguments<T> merge = p.merge;
  if (step > 2) merge.mixture = {merge.next.mixing_weight, merge.next.mean, merge.next.var};
  const bool last = step == p.steps - (p.y.data != nullptr ? 2 : 1);
  merge_moments<T, K>(p.geometry, {p.partials.sums, p.partials.masses}, merge, !last, p.table,
                      buffer);
}

template <class S, int K, Access kAccess>
__global__ void __launch_bounds__(kMaxThreads<accumulation_t<S>, K>, 1)
    forward_kernel(const __grid_constant__ ForwardProblem<accumulation_t<S>> p, int first_step,
                   int last_step) {
  using T = accumulation_t<S>;
  MIXNORM_DYNAMIC_SHARED(shared);
  const Geometry& g = p.geometry;
#pragma unroll 1
  for (int step = first_step; step < last_step; ++step) {
    if (step > first_step) wait_between_steps(g.scope, p.barrier, step - first_step - 1);
    const Scratch<T, K> scratch(shared, g, TileAccess<S, K, kAccess>::slot_bytes());
    if (step == 0) {
      prepare<S, K>(g, p.x, p.start, p.table, scratch.doubles());
    } else if (is_output_step(p, step)) {
      normalize<S, K, kAccess>(g, p.x, p.y, p.table, scratch, shared, step / 2);
    } else if (step % 2 == 1) {
      sum_moments<S, K, kAccess>(g, p.x, p.table, p.partials, scratch, shared, step / 2);
    } else {
      merge_moments_of_step<T, K>(p, step, scratch.doubles());
    }
  }
}

template <class T>
using ForwardKernel = void (*)(ForwardProblem<T>, int, int);

template <class S>
struct FindForward {
  template <int K, Access kAccess>
  ForwardKernel<accumulation_t<S>> operator()(Instance<K, kAccess>) const {
    return forward_kernel<S, K, kAccess>;
  }
};

// The compiled kernel for this element type, access and at least so many components; `components`
// becomes the compiled number.
template <class S>
ForwardKernel<accumulation_t<S>> find_forward_kernel(Access access, int* components);

}  // namespace mixnorm::cuda
