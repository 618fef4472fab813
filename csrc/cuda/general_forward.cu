#include "cuda/general_forward.cuh"

#include "cuda/general_buffers.h"

namespace mixnorm::cuda {
namespace {

template <class T>
using GeneralForwardKernel = void (*)(ForwardProblem<T>, Weights<T>, GeneralForwardStep);

template <class T>
GeneralForwardKernel<T> kernel_for(Scalar scalar) {
  if constexpr (sizeof(T) == 8) {
    return general_forward_kernel<double>;
  } else {
    return scalar == Scalar::kHalf       ? general_forward_kernel<__half>
           : scalar == Scalar::kBFloat16 ? general_forward_kernel<__nv_bfloat16>
                                         : general_forward_kernel<float>;
  }
}

}  // namespace

template <class T>
cudaError_t launch_general_forward(const Input& x, const Output* y, int64_t components,
                                   int64_t groups, ForwardProblem<T> problem,
                                   const Launch& launch) {
  using Step = GeneralForwardStep;
  if (launch.family != Family::kAuto && launch.family != Family::kStreaming) {
    return cudaErrorNotSupported;
  }
  const Geometry g = general_geometry(x, components, groups, launch.limits);
  const GeneralGrids grids = general_grids(g, launch.limits);
  Workspace workspace(launch.workspace);
  const GeneralBuffers<T> buffers(workspace, g, Direction::kForward);
  problem.geometry = g;
  problem.x = {x.data, {x.stride_n, x.stride_c, x.stride_l}};
  problem.y = y == nullptr ? Tensor{} : Tensor{y->data, {y->stride_n, y->stride_c, y->stride_l}};
  problem.partials = {buffers.sums, buffers.masses};
  problem.table = buffers.table;
  cudaError_t error = cudaSuccess;
  const auto run = [&](Step step, int blocks) {
    if (error != cudaSuccess) return;
    error = launch_kernel(kernel_for<T>(x.scalar), blocks, kGeneralThreads,
                          general_shared_memory(g, x.scalar), false, launch.stream, problem,
                          Weights<T>{buffers.nu}, step);
  };
  // As in the one kernel: a start, pairs of sums and merges, an output.
  const int merges = (problem.steps - (y == nullptr ? 1 : 2)) / 2;
  run(Step::kPrepare, grids.columns);
  run(Step::kResponsibilities, grids.channels);
  for (int i = 1; i <= merges; ++i) {
    run(Step::kSums, grids.positions);
    run(i == merges ? Step::kMerge : Step::kMergeEmStep, grids.columns);
    if (i == merges) break;
    const Mixture<T>& next = problem.merge.next;
    problem.merge.mixture = {next.mixing_weight, next.mean, next.var};
    run(Step::kResponsibilities, grids.channels);
  }
  if (y != nullptr) run(Step::kOutput, grids.positions);
  return error;
}

#define MIXNORM_INSTANTIATE(T)                                                               \
  template cudaError_t launch_general_forward(const Input&, const Output*, int64_t, int64_t, \
                                              ForwardProblem<T>, const Launch&);
MIXNORM_INSTANTIATE(float)
MIXNORM_INSTANTIATE(double)
#undef MIXNORM_INSTANTIATE

}  // namespace mixnorm::cuda
