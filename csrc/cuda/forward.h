// Training forward on CUDA (docs/method.md, section 1). Torch-free.
#pragma once

#include "cuda/launch.h"
#include "cuda/tensor.h"

namespace mixnorm::cuda {

template <class T>
struct ForwardArguments {
  int64_t components, groups;
  Mixture<const T> mixture;
  Affine<T> affine;
  double eps;
  int64_t em_iters;
  bool mixing_scale;
  Output y;
  BatchMoments<T> moments;
  Mixture<T> final_mixture;
};

// Bytes of workspace, for any strides and any family.
size_t forward_workspace(const Input& x, int64_t components, int64_t groups,
                         const DeviceLimits& limits);

// em_iters EM steps from `mixture` to `final_mixture`; moments and y under the latter. Enqueues on
// the stream and returns; cudaErrorNotSupported: see plan.h. T is double for double input.
template <class T>
cudaError_t launch_forward(const Input& x, const ForwardArguments<T>& arguments,
                           const Launch& launch);

}  // namespace mixnorm::cuda
