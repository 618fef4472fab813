// Gradients of the training forward and of eval: one kernel whose steps are separated by a
// barrier or by launches (streaming).
#pragma once

#include "cuda/between_steps.h"
#include "cuda/gradients.cuh"
#include "cuda/instantiate.cuh"
#include "cuda/merge_gradients.cuh"
#include "cuda/prepare.cuh"
#include "cuda/shared_memory.h"

namespace mixnorm::cuda {

enum BackwardStep {
  kPrepareTables,
  kSumOutputGradients,
  kMergeOutputGradients,
  kDifferentiateInput,
  kBackwardSteps,
};

template <class T>
struct BackwardProblem {
  Geometry geometry;
  GradientTensors<T> tensors;
  GradientArguments<T> arguments;
  Partials<T> partials;
  T* table;
  unsigned int* barrier;
};

template <class S, int K, Access kAccess>
__global__ void __launch_bounds__(kMaxThreads<accumulation_t<S>, K>, 1)
    backward_kernel(const __grid_constant__ BackwardProblem<accumulation_t<S>> p, int first_step,
                    int last_step) {
  using T = accumulation_t<S>;
  MIXNORM_DYNAMIC_SHARED(shared);
  const Geometry& g = p.geometry;
  const GradientArguments<T>& a = p.arguments;
  const Partials<const T> partials{p.partials.sums, p.partials.masses};
#pragma unroll 1
  for (int step = first_step; step < last_step; ++step) {
    if (step > first_step) wait_between_steps(g.scope, p.barrier, step - first_step - 1);
    const Scratch<T, K> scratch(shared, g, 2 * TileAccess<S, K, kAccess>::slot_bytes());
    if (step == kPrepareTables) {
      const Start<T> start{a.mixture, a.statistics, a.affine, a.eps, a.mixing_scale};
      prepare<S, K>(g, p.tensors.x, start, p.table, scratch.doubles());
    } else if (step == kSumOutputGradients) {
      sum_output_gradients<S, K, kAccess>(g, p.tensors, p.table, p.partials, scratch, shared, 0);
    } else if (step == kMergeOutputGradients) {
      merge_output_gradients<T, K>(g, partials, a, p.table, scratch.doubles());
    } else {
      differentiate_input<S, K, kAccess>(g, p.tensors, p.table, a.responsibility_grad, scratch,
                                         shared, 1);
      return;  // the last step: it has no register for a next one
    }
  }
}

template <class T>
using BackwardKernel = void (*)(BackwardProblem<T>, int, int);

template <class S>
struct FindBackward {
  template <int K, Access kAccess>
  BackwardKernel<accumulation_t<S>> operator()(Instance<K, kAccess>) const {
    return backward_kernel<S, K, kAccess>;
  }
};

// The compiled kernel for this element type, access and at least so many components; `components`
// becomes the compiled number.
template <class S>
BackwardKernel<accumulation_t<S>> find_backward_kernel(Access access, int* components);

}  // namespace mixnorm::cuda
