// Responsibility-weighted moments of one batch on CUDA (docs/method.md, section 1). Torch-free.
#pragma once

#include "cuda/launch.h"
#include "cuda/tensor.h"

namespace mixnorm::cuda {

template <class T>
struct MomentsArguments {
  int64_t components, groups;
  Mixture<const T> mixture;
  double eps;
  BatchMoments<T> moments;
};

size_t moments_workspace(const Input& x, int64_t components, int64_t groups,
                         const DeviceLimits& limits);

template <class T>
cudaError_t launch_moments(const Input& x, const MomentsArguments<T>& arguments,
                           const Launch& launch);

}  // namespace mixnorm::cuda
