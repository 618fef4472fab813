// Normalization by the mixture's own mean and variance, and its gradients, on CUDA. Torch-free.
#pragma once

#include "cuda/launch.h"
#include "cuda/tensor.h"

namespace mixnorm::cuda {

template <class T>
struct EvaluateArguments {
  int64_t components, groups;
  Mixture<const T> mixture;
  Affine<T> affine;
  double eps;
  bool mixing_scale;
  Output y;
};

size_t evaluate_workspace(const Input& x, int64_t components, int64_t groups,
                          const DeviceLimits& limits);

template <class T>
cudaError_t launch_evaluate(const Input& x, const EvaluateArguments<T>& arguments,
                            const Launch& launch);

template <class T>
struct EvaluateBackwardArguments {
  int64_t components, groups;
  Mixture<const T> mixture;
  Affine<T> affine;
  double eps;
  bool mixing_scale;
  bool responsibility_grad;
  Output dx;
  T* dweight;  // [K, C]
  T* dbias;    // [K, C]
};

size_t evaluate_backward_workspace(const Input& x, int64_t components, int64_t groups,
                                   const DeviceLimits& limits);

// dy has x's element type and sizes.
template <class T>
cudaError_t launch_evaluate_backward(const Input& dy, const Input& x,
                                     const EvaluateBackwardArguments<T>& arguments,
                                     const Launch& launch);

}  // namespace mixnorm::cuda
