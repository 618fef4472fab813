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

size_t backward_workspace(const Input& x, int64_t components, int64_t groups,
                          const DeviceLimits& limits);

// dy has x's element type and sizes.
template <class T>
cudaError_t launch_backward(const Input& dy, const Input& x, const BackwardArguments<T>& arguments,
                            const Launch& launch);

}  // namespace mixnorm::cuda
