// Gradients of the training forward on CUDA (docs/method.md, section 2). Torch-free.
#pragma once

#include "cuda/launch.h"
#include "cuda/tensor.h"

namespace mixnorm::cuda {

// Responsibilities are computed again: to store them would cost the traffic that it saves.
template <class T>
struct BackwardArguments {
  int64_t components, groups;
  BatchMoments<const T> moments;
  Mixture<const T> mixture;  // forward's final_mixture
  Affine<T> affine;
  double eps;
  bool mixing_scale;
  bool responsibility_grad;
  Output dx;
  T* dweight;           // [K, C]
  T* dbias;             // [K, C]
  Mixture<T> dmixture;  // null pointers unless wanted
};

// The two sweeps of backward apart: the sums of one x, then its gradients from the sums of all that
// the moments are of.
template <class T>
struct BackwardSumsArguments {
  int64_t components, groups;
  BatchMoments<const T> moments;
  Mixture<const T> mixture;
  double eps;
  T* h1;  // sum nu dy, [K, C]
  T* h2;  // sum nu dy (x - m), [K, C]
};

// Of all three.
size_t backward_workspace(const Input& x, int64_t components, int64_t groups,
                          const DeviceLimits& limits);

// dy has x's element type and sizes.
template <class T>
cudaError_t launch_backward(const Input& dy, const Input& x, const BackwardArguments<T>& arguments,
                            const Launch& launch);

template <class T>
cudaError_t launch_backward_sums(const Input& dy, const Input& x,
                                 const BackwardSumsArguments<T>& arguments, const Launch& launch);

// Without dmixture.
template <class T>
cudaError_t launch_backward_apply(const Input& dy, const Input& x, const T* h1, const T* h2,
                                  const BackwardArguments<T>& arguments, const Launch& launch);

}  // namespace mixnorm::cuda
