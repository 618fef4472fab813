#include "cuda/backward.h"

#include "cuda/backward_kernel.cuh"
#include "cuda/evaluate.h"
#include "cuda/mixture_kernel.cuh"
#include "cuda/per_channel_backward.cuh"
#include "cuda/run.h"

namespace mixnorm::cuda {
namespace {

template <class T>
struct Kernels {
  BackwardKernel<T> backward, mixture;  // the latter null where the former has its steps
};

template <class S>
Kernels<accumulation_t<S>> kernels_of(const Cut& c) {
  int components = c.compiled;
  if (c.geometry.per_channel) {
    return {find_per_channel_backward_kernel<S>(c.access, &components), nullptr};
  }
  return {find_backward_kernel<S>(c.access, &components),
          find_mixture_kernel<S>(c.access, &components)};
}

template <class T>
Kernels<T> kernels_for(Scalar scalar, const Cut& c) {
  if constexpr (sizeof(T) == 8) {
    return kernels_of<double>(c);
  } else {
    return scalar == Scalar::kHalf       ? kernels_of<__half>(c)
           : scalar == Scalar::kBFloat16 ? kernels_of<__nv_bfloat16>(c)
                                         : kernels_of<float>(c);
  }
}

template <class T>
cudaError_t launch(const Input& dy, const Input& x, const Output& dx, int64_t components,
                   int64_t groups, const GradientArguments<T>& arguments, const Launch& launch) {
  if ((x.scalar == Scalar::kDouble) != (sizeof(T) == 8)) return cudaErrorInvalidValue;
  const std::initializer_list<Tensor> others = {{dy.data, {dy.stride_n, dy.stride_c, dy.stride_l}},
                                                {dx.data, {dx.stride_n, dx.stride_c, dx.stride_l}}};
  const Cut c = cut(x, others, components, groups, launch.limits);
  if (!c.supported) return cudaErrorNotSupported;
  const Kernels<T> kernels = kernels_for<T>(x.scalar, c);
  const Plan p =
      plan(c, reinterpret_cast<const void*>(kernels.backward), 2, launch.limits, launch.family);
  if (p.error != cudaSuccess) return p.error;
  const bool learned = arguments.dmixture.mean != nullptr;
  const bool mixture = learned && kernels.mixture != nullptr;
  const Cut mixture_cut = cut(x, others, components, groups, launch.limits, kMixtureThreads);
  if (mixture && !mixture_cut.supported) return cudaErrorNotSupported;

  Workspace workspace(launch.workspace);
  const Buffers<T> buffers(workspace, c);
  BackwardProblem<T> problem{
      p.geometry,
      {flattened(p.geometry, x), flattened(p.geometry, dy), flattened(p.geometry, x, dx)},
      arguments,
      {buffers.sums, buffers.masses},
      buffers.table,
      buffers.barrier};
  const cudaError_t error =
      run(p, kernels.backward, problem, kBackwardSteps + (learned && !mixture), buffers.barrier,
          launch.stream);
  if (error != cudaSuccess || !mixture) return error;
  const Plan mixture_plan = plan(mixture_cut, reinterpret_cast<const void*>(kernels.mixture), 2,
                                 launch.limits, Family::kStreaming);
  if (mixture_plan.error != cudaSuccess) return mixture_plan.error;
  problem.geometry = mixture_plan.geometry;
  return run(mixture_plan, kernels.mixture, problem, kMixtureSteps, buffers.barrier, launch.stream);
}

}  // namespace

const void* backward_kernel_address(Scalar scalar, const Cut& cut) {
  return scalar == Scalar::kDouble
             ? reinterpret_cast<const void*>(kernels_for<double>(scalar, cut).backward)
             : reinterpret_cast<const void*>(kernels_for<float>(scalar, cut).backward);
}

size_t backward_workspace(const Input& x, int64_t components, int64_t groups,
                          const DeviceLimits& limits) {
  return workspace_bytes(x, components, groups, limits);
}
size_t evaluate_backward_workspace(const Input& x, int64_t components, int64_t groups,
                                   const DeviceLimits& limits) {
  return backward_workspace(x, components, groups, limits);
}

template <class T>
cudaError_t launch_backward(const Input& dy, const Input& x, const BackwardArguments<T>& a,
                            const Launch& l) {
  const GradientArguments<T> arguments{
      a.mixture, a.moments, a.affine,  a.eps, a.mixing_scale, false, a.responsibility_grad,
      a.dweight, a.dbias,   a.dmixture};
  return launch(dy, x, a.dx, a.components, a.groups, arguments, l);
}

template <class T>
cudaError_t launch_evaluate_backward(const Input& dy, const Input& x,
                                     const EvaluateBackwardArguments<T>& a, const Launch& l) {
  const BatchMoments<const T> own{a.mixture.mixing_weight, a.mixture.mean, a.mixture.var};
  const GradientArguments<T> arguments{
      a.mixture, own,     a.affine, a.eps, a.mixing_scale, true, a.responsibility_grad,
      a.dweight, a.dbias, {}};
  return launch(dy, x, a.dx, a.components, a.groups, arguments, l);
}

#define MIXNORM_INSTANTIATE(T)                                                                  \
  template cudaError_t launch_backward(const Input&, const Input&, const BackwardArguments<T>&, \
                                       const Launch&);                                          \
  template cudaError_t launch_evaluate_backward(                                                \
      const Input&, const Input&, const EvaluateBackwardArguments<T>&, const Launch&);
MIXNORM_INSTANTIATE(float)
MIXNORM_INSTANTIATE(double)
#undef MIXNORM_INSTANTIATE

}  // namespace mixnorm::cuda
