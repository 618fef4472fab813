#include "cuda/general_backward.cuh"

#include "cuda/general_buffers.h"

namespace mixnorm::cuda {
namespace {

template <class T>
using GeneralBackwardKernel = void (*)(BackwardProblem<T>, Weights<T>, Weights<T>,
                                       GeneralBackwardStep);

template <class T>
GeneralBackwardKernel<T> kernel_for(Scalar scalar) {
  if constexpr (sizeof(T) == 8) {
    return general_backward_kernel<double>;
  } else {
    return scalar == Scalar::kHalf       ? general_backward_kernel<__half>
           : scalar == Scalar::kBFloat16 ? general_backward_kernel<__nv_bfloat16>
                                         : general_backward_kernel<float>;
  }
}

}  // namespace

template <class T>
cudaError_t launch_general_backward(const Input& dy, const Input& x, const Output& dx,
                                    int64_t components, int64_t groups,
                                    const GradientArguments<T>& arguments, const Launch& launch) {
  using Step = GeneralBackwardStep;
  if (launch.family != Family::kAuto && launch.family != Family::kStreaming) {
    return cudaErrorNotSupported;
  }
  const Geometry g = general_geometry(x, components, groups, launch.limits);
  const GeneralGrids grids = general_grids(g, launch.limits);
  Workspace workspace(launch.workspace);
  const GeneralBuffers<T> buffers(workspace, g, Direction::kBackward);
  const BackwardProblem<T> problem{g,
                                   {{x.data, {x.stride_n, x.stride_c, x.stride_l}},
                                    {dy.data, {dy.stride_n, dy.stride_c, dy.stride_l}},
                                    {dx.data, {dx.stride_n, dx.stride_c, dx.stride_l}}},
                                   arguments,
                                   {buffers.sums, buffers.masses},
                                   buffers.table,
                                   nullptr};
  cudaError_t error = cudaSuccess;
  const auto run = [&](Step step, int blocks) {
    if (error != cudaSuccess) return;
    error = launch_kernel(kernel_for<T>(x.scalar), blocks, kGeneralThreads,
                          general_shared_memory(g, x.scalar), false, launch.stream, problem,
                          Weights<T>{buffers.nu}, Weights<T>{buffers.dlogit}, step);
  };
  const bool logits = components > 1 && arguments.responsibility_grad;
  run(Step::kPrepare, grids.columns);
  run(Step::kResponsibilities, grids.channels);
  if (arguments.given.h1 == nullptr) run(Step::kSums, grids.positions);
  run(Step::kMerge, grids.columns);
  if (arguments.wanted.h1 != nullptr) return error;
  if (logits) run(Step::kLogitGradients, grids.channels);
  run(Step::kInputGradient, grids.positions);
  if (arguments.dmixture.mean == nullptr) return error;
  if (logits) run(Step::kMixtureSums, grids.positions);
  run(Step::kMergeMixture, grids.columns);
  return error;
}

#define MIXNORM_INSTANTIATE(T)                                                                     \
  template cudaError_t launch_general_backward(const Input&, const Input&, const Output&, int64_t, \
                                               int64_t, const GradientArguments<T>&,               \
                                               const Launch&);
MIXNORM_INSTANTIATE(float)
MIXNORM_INSTANTIATE(double)
#undef MIXNORM_INSTANTIATE

}  // namespace mixnorm::cuda
