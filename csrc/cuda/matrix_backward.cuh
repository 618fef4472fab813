// Gradients of a joint mixture of many components: the steps of backward_kernel.cuh with sweeps by
// matrix products.
#pragma once

#include "cuda/backward_kernel.cuh"
#include "cuda/matrix_gradients.cuh"

namespace mixnorm::cuda {

template <class S, int K, Access kAccess>
__global__ void __launch_bounds__((kMatrixBackwardThreads<S, K>), 1)
    matrix_backward_kernel(const __grid_constant__ BackwardProblem<float> p, int first_step,
                           int last_step) {
  MIXNORM_DYNAMIC_SHARED(shared);
  const Geometry& g = p.geometry;
  const GradientArguments<float>& a = p.arguments;
  const Partials<const float> partials{p.partials.sums, p.partials.masses};
#pragma unroll 1
  for (int step = first_step; step < last_step; ++step) {
    if (step > first_step) wait_between_steps(g.scope, p.barrier, step - first_step - 1);
    const Scratch<float, K> scratch(shared, g, 2 * MatrixTiles<S, kAccess>::slot_bytes());
    if (step == kPrepareTables) {
      const Start<float> start{a.mixture, a.statistics, a.affine, a.eps, a.mixing_scale};
      prepare<S, K>(g, p.tensors.x, start, p.table, scratch.doubles());
    } else if (step == kSumOutputGradients) {
      sum_matrix_output_gradients<S, K, kAccess>(g, p.tensors, p.table, p.partials, scratch, shared,
                                                 0);
    } else if (step == kMergeOutputGradients) {
      merge_output_gradients<float, K>(g, partials, a, p.table, scratch.doubles());
    } else {
      differentiate_by_products<S, K, kAccess>(g, p.tensors, p.table, a.responsibility_grad,
                                               scratch, shared, 1);
    }
  }
}

template <class S>
struct FindMatrixBackward {
  template <int K, Access kAccess>
  BackwardKernel<float> operator()(Instance<K, kAccess>) const {
    return matrix_backward_kernel<S, K, kAccess>;
  }
};

// As find_backward_kernel.
template <class S>
BackwardKernel<float> find_matrix_backward_kernel(Access access, int* components);

}  // namespace mixnorm::cuda
