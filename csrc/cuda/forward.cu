#include "cuda/forward.h"

#include "cuda/evaluate.h"
#include "cuda/forward_kernel.cuh"
#include "cuda/general.h"
#include "cuda/matrix_forward.cuh"
#include "cuda/moments.h"
#include "cuda/normalize.h"
#include "cuda/per_channel_forward.cuh"
#include "cuda/plan.h"
#include "cuda/run.h"

namespace mixnorm::cuda {
namespace {

template <class S>
ForwardKernel<accumulation_t<S>> kernel_of(const Cut& c) {
  int components = c.compiled;
  if constexpr (sizeof(accumulation_t<S>) == 4) {
    if (c.geometry.matrix) return find_matrix_forward_kernel<S>(c.access, &components);
  }
  return c.geometry.per_channel ? find_per_channel_forward_kernel<S>(c.access, &components)
                                : find_forward_kernel<S>(c.access, &components);
}

template <class T>
ForwardKernel<T> kernel_for(Scalar scalar, const Cut& c) {
  if constexpr (sizeof(T) == 8) {
    return kernel_of<double>(c);
  } else {
    return scalar == Scalar::kHalf       ? kernel_of<__half>(c)
           : scalar == Scalar::kBFloat16 ? kernel_of<__nv_bfloat16>(c)
                                         : kernel_of<float>(c);
  }
}

// Everything of `problem` but what the cut and the workspace give; steps as in the kernel.
template <class T>
cudaError_t launch(const Input& x, const Output* y, int64_t components, int64_t groups,
                   ForwardProblem<T> problem, const Launch& launch) {
  if ((x.scalar == Scalar::kDouble) != (sizeof(T) == 8)) return cudaErrorInvalidValue;
  const Cut c = y == nullptr ? cut(x, {}, components, groups, launch.limits, kForwardCut)
                             : cut(x, {{y->data, {y->stride_n, y->stride_c, y->stride_l}}},
                                   components, groups, launch.limits, kForwardCut);
  if (!c.supported) return launch_general_forward(x, y, components, groups, problem, launch);
  const ForwardKernel<T> kernel = kernel_for<T>(x.scalar, c);
  const Plan p = plan(c, reinterpret_cast<const void*>(kernel), 1, launch.limits, launch.family);
  if (p.error != cudaSuccess) return p.error;
  const Geometry& g = p.geometry;
  Workspace workspace(launch.workspace);
  const Buffers<T> buffers(workspace, c);
  problem.geometry = g;
  problem.x = flattened(g, x);
  problem.y = y == nullptr ? Tensor{} : flattened(g, x, *y);
  // A null output means that there is none to write; an empty batch's, too, may be null.
  if (y != nullptr && problem.y.data == nullptr) problem.y.data = launch.workspace;
  problem.partials = {buffers.sums, buffers.masses};
  problem.table = buffers.table;
  problem.barrier = buffers.barrier;
  return run(p, kernel, problem, problem.steps, buffers.barrier, launch.stream);
}

}  // namespace

const void* forward_kernel_address(Scalar scalar, const Cut& cut) {
  return scalar == Scalar::kDouble ? reinterpret_cast<const void*>(kernel_for<double>(scalar, cut))
                                   : reinterpret_cast<const void*>(kernel_for<float>(scalar, cut));
}

size_t forward_workspace(const Input& x, int64_t components, int64_t groups,
                         const DeviceLimits& limits) {
  const size_t bytes = workspace_bytes(x, components, groups, limits);
  return bytes > 0 ? bytes : general_workspace(x, components, groups, limits, Direction::kForward);
}
size_t moments_workspace(const Input& x, int64_t components, int64_t groups,
                         const DeviceLimits& limits) {
  return forward_workspace(x, components, groups, limits);
}
size_t evaluate_workspace(const Input& x, int64_t components, int64_t groups,
                          const DeviceLimits& limits) {
  return forward_workspace(x, components, groups, limits);
}

size_t normalize_workspace(const Input& x, int64_t components, int64_t groups,
                           const DeviceLimits& limits) {
  return forward_workspace(x, components, groups, limits);
}

template <class T>
cudaError_t launch_forward(const Input& x, const ForwardArguments<T>& a, const Launch& l) {
  ForwardProblem<T> problem{};
  problem.start = {a.mixture, {}, a.affine, a.eps, a.mixing_scale};
  problem.merge = {a.mixture, a.final_mixture, a.moments, a.affine, a.eps, a.mixing_scale};
  problem.steps = int(4 + 2 * a.em_iters);
  return launch(x, &a.y, a.components, a.groups, problem, l);
}

template <class T>
cudaError_t launch_moments(const Input& x, const MomentsArguments<T>& a, const Launch& l) {
  ForwardProblem<T> problem{};
  problem.start = {a.mixture, {}, {}, a.eps, false};
  problem.merge = {a.mixture, {}, a.moments, {}, a.eps, false};
  problem.steps = 3;
  return launch(x, nullptr, a.components, a.groups, problem, l);
}

template <class T>
cudaError_t launch_normalize(const Input& x, const NormalizeArguments<T>& a, const Launch& l) {
  ForwardProblem<T> problem{};
  problem.start = {a.mixture, a.moments, a.affine, a.eps, a.mixing_scale};
  problem.steps = 2;
  return launch(x, &a.y, a.components, a.groups, problem, l);
}

template <class T>
cudaError_t launch_evaluate(const Input& x, const EvaluateArguments<T>& a, const Launch& l) {
  const BatchMoments<const T> own{a.mixture.mixing_weight, a.mixture.mean, a.mixture.var};
  return launch_normalize<T>(
      x, {a.components, a.groups, a.mixture, own, a.affine, a.eps, a.mixing_scale, a.y}, l);
}

#define MIXNORM_INSTANTIATE(T)                                                                  \
  template cudaError_t launch_forward(const Input&, const ForwardArguments<T>&, const Launch&); \
  template cudaError_t launch_moments(const Input&, const MomentsArguments<T>&, const Launch&); \
  template cudaError_t launch_normalize(const Input&, const NormalizeArguments<T>&,             \
                                        const Launch&);                                         \
  template cudaError_t launch_evaluate(const Input&, const EvaluateArguments<T>&, const Launch&);
MIXNORM_INSTANTIATE(float)
MIXNORM_INSTANTIATE(double)
#undef MIXNORM_INSTANTIATE

}  // namespace mixnorm::cuda
