#include "cuda/backward.h"

#include <algorithm>

#include "cuda/backward_kernel.cuh"
#include "cuda/evaluate.h"
#include "cuda/evaluate_backward_kernel.cuh"
#include "cuda/general.h"
#include "cuda/matrix_backward.cuh"
#include "cuda/mixture_kernel.cuh"
#include "cuda/per_channel_backward.cuh"
#include "cuda/run.h"

namespace mixnorm::cuda {
namespace {

template <class T>
struct Kernels {
  BackwardKernel<T> backward, mixture, evaluate;  // null: the first has their steps, too
};

template <class S>
BackwardKernel<accumulation_t<S>> kernel_of(const Cut& c) {
  int components = c.compiled;
  if constexpr (sizeof(accumulation_t<S>) == 4) {
    if (c.geometry.matrix) return find_matrix_backward_kernel<S>(c.access, &components);
  }
  return c.geometry.per_channel ? find_per_channel_backward_kernel<S>(c.access, &components)
                                : find_backward_kernel<S>(c.access, &components);
}

// `other`: the cut of those that are made for fewer threads.
template <class S>
Kernels<accumulation_t<S>> kernels_of(const Cut& c, const Cut& other) {
  if (c.geometry.per_channel) return {kernel_of<S>(c), nullptr, nullptr};
  int components = other.compiled;
  return {kernel_of<S>(c), find_mixture_kernel<S>(other.access, &components),
          find_evaluate_backward_kernel<S>(other.access, &components)};
}

template <class T>
Kernels<T> kernels_for(Scalar scalar, const Cut& c, const Cut& other) {
  if constexpr (sizeof(T) == 8) {
    return kernels_of<double>(c, other);
  } else {
    return scalar == Scalar::kHalf       ? kernels_of<__half>(c, other)
           : scalar == Scalar::kBFloat16 ? kernels_of<__nv_bfloat16>(c, other)
                                         : kernels_of<float>(c, other);
  }
}

template <class T>
cudaError_t launch(const Input& dy, const Input& x, const Output& dx, int64_t components,
                   int64_t groups, const GradientArguments<T>& arguments, const Launch& launch) {
  if ((x.scalar == Scalar::kDouble) != (sizeof(T) == 8)) return cudaErrorInvalidValue;
  const bool sums_alone = arguments.wanted.h1 != nullptr;
  const bool sums_given = arguments.given.h1 != nullptr;
  const std::initializer_list<Tensor> others = {{dy.data, {dy.stride_n, dy.stride_c, dy.stride_l}},
                                                {dx.data, {dx.stride_n, dx.stride_c, dx.stride_l}}};
  const bool learned = arguments.dmixture.mean != nullptr;
  const BackwardCuts cuts = cut_backward(x, others, components, groups, learned, launch.limits);
  if (!cuts.supported) {
    return launch_general_backward(dy, x, dx, components, groups, arguments, launch);
  }
  const Cut &c = cuts.backward, &mixture_cut = cuts.fewer_threads;
  const bool mixture = learned && !c.geometry.per_channel;
  const Kernels<T> kernels = kernels_for<T>(x.scalar, c, mixture_cut);
  const bool one_sweep = sums_alone || sums_given;  // keeps nothing for another
  const Plan p = plan(c, reinterpret_cast<const void*>(kernels.backward), 2, launch.limits,
                      one_sweep ? Family::kStreaming : launch.family);
  if (p.error != cudaSuccess) return p.error;
  Workspace workspace(launch.workspace);
  const Buffers<T> buffers(workspace, c);
  const auto tensors = [&](const Geometry& g) {
    return GradientTensors<T>{flattened(g, x), flattened(g, dy), flattened(g, x, dx)};
  };
  BackwardProblem<T> problem{p.geometry,    tensors(p.geometry),
                             arguments,     {buffers.sums, buffers.masses},
                             buffers.table, buffers.barrier};
  if (sums_alone) {
    return run_each(p, kernels.backward, problem,
                    {kPrepareTables, kSumOutputGradients, kMergeOutputGradients}, launch.stream);
  }
  if (sums_given) {
    return run_each(p, kernels.backward, problem,
                    {kPrepareTables, kMergeOutputGradients, kDifferentiateInput}, launch.stream);
  }
  // One sweep instead of two, but of one element at a time where matrix products would do.
  if (arguments.constant_statistics && p.family == Family::kStreaming && mixture_cut.supported &&
      kernels.evaluate != nullptr && !c.geometry.matrix) {
    const Plan one = plan(mixture_cut, reinterpret_cast<const void*>(kernels.evaluate), 2,
                          launch.limits, Family::kStreaming);
    if (one.error != cudaSuccess) return one.error;
    problem.geometry = one.geometry;
    problem.tensors = tensors(one.geometry);
    return run(one, kernels.evaluate, problem, kEvaluateSteps, buffers.barrier, launch.stream);
  }
  const int steps = c.geometry.per_channel
                        ? own_backward_steps(arguments.constant_statistics, learned)
                        : kBackwardSteps;
  const cudaError_t error =
      run(p, kernels.backward, problem, steps, buffers.barrier, launch.stream);
  if (error != cudaSuccess || !mixture) return error;
  const Plan mixture_plan = plan(mixture_cut, reinterpret_cast<const void*>(kernels.mixture), 2,
                                 launch.limits, Family::kStreaming);
  if (mixture_plan.error != cudaSuccess) return mixture_plan.error;
  problem.geometry = mixture_plan.geometry;
  problem.tensors = tensors(mixture_plan.geometry);
  return run(mixture_plan, kernels.mixture, problem, kMixtureSteps, buffers.barrier, launch.stream);
}

template <class T>
GradientArguments<T> gradient_arguments(const BackwardArguments<T>& a) {
  return {a.mixture,
          a.moments,
          a.affine,
          a.eps,
          a.mixing_scale,
          false,
          a.responsibility_grad,
          a.dweight,
          a.dbias,
          a.dmixture,
          {},
          {}};
}

}  // namespace

const void* backward_kernel_address(Scalar scalar, const Cut& cut) {
  return scalar == Scalar::kDouble
             ? reinterpret_cast<const void*>(kernels_for<double>(scalar, cut, cut).backward)
             : reinterpret_cast<const void*>(kernels_for<float>(scalar, cut, cut).backward);
}

size_t backward_workspace(const Input& x, int64_t components, int64_t groups,
                          const DeviceLimits& limits) {
  const size_t bytes = workspace_bytes(x, components, groups, limits);
  // Those of a mixture that is learned hold fewer channels: the general ones then serve all of it.
  if (cut_backward(x, {}, components, groups, true, limits).supported) return bytes;
  return std::max(bytes, general_workspace(x, components, groups, limits, Direction::kBackward));
}
size_t evaluate_backward_workspace(const Input& x, int64_t components, int64_t groups,
                                   const DeviceLimits& limits) {
  return backward_workspace(x, components, groups, limits);
}

template <class T>
cudaError_t launch_backward(const Input& dy, const Input& x, const BackwardArguments<T>& a,
                            const Launch& l) {
  return launch(dy, x, a.dx, a.components, a.groups, gradient_arguments(a), l);
}

template <class T>
cudaError_t launch_backward_sums(const Input& dy, const Input& x, const BackwardSumsArguments<T>& a,
                                 const Launch& l) {
  GradientArguments<T> arguments{};
  arguments.mixture = a.mixture;
  arguments.statistics = a.moments;
  arguments.eps = a.eps;
  arguments.wanted = {a.h1, a.h2};
  // No dx is written: dy's strides stand for those of one.
  const Output like_dy{const_cast<void*>(dy.data), dy.stride_n, dy.stride_c, dy.stride_l};
  return launch(dy, x, like_dy, a.components, a.groups, arguments, l);
}

template <class T>
cudaError_t launch_backward_apply(const Input& dy, const Input& x, const T* h1, const T* h2,
                                  const BackwardArguments<T>& a, const Launch& l) {
  GradientArguments<T> arguments = gradient_arguments(a);
  arguments.given = {h1, h2};
  return launch(dy, x, a.dx, a.components, a.groups, arguments, l);
}

template <class T>
cudaError_t launch_evaluate_backward(const Input& dy, const Input& x,
                                     const EvaluateBackwardArguments<T>& a, const Launch& l) {
  const BatchMoments<const T> own{a.mixture.mixing_weight, a.mixture.mean, a.mixture.var};
  const GradientArguments<T> arguments{
      a.mixture, own, a.affine, a.eps, a.mixing_scale, true, a.responsibility_grad, a.dweight,
      a.dbias,   {},  {},       {}};
  return launch(dy, x, a.dx, a.components, a.groups, arguments, l);
}

#define MIXNORM_INSTANTIATE(T)                                                                  \
  template cudaError_t launch_backward(const Input&, const Input&, const BackwardArguments<T>&, \
                                       const Launch&);                                          \
  template cudaError_t launch_backward_sums(const Input&, const Input&,                         \
                                            const BackwardSumsArguments<T>&, const Launch&);    \
  template cudaError_t launch_backward_apply(const Input&, const Input&, const T*, const T*,    \
                                             const BackwardArguments<T>&, const Launch&);       \
  template cudaError_t launch_evaluate_backward(                                                \
      const Input&, const Input&, const EvaluateBackwardArguments<T>&, const Launch&);
MIXNORM_INSTANTIATE(float)
MIXNORM_INSTANTIATE(double)
#undef MIXNORM_INSTANTIATE

}  // namespace mixnorm::cuda
