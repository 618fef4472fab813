// The output under moments that are given, on CUDA. Torch-free.
#pragma once

#include "cuda/launch.h"
#include "cuda/tensor.h"

namespace mixnorm::cuda {

template <class T>
struct NormalizeArguments {
  int64_t components, groups;
  Mixture<const T> mixture;
  BatchMoments<const T> moments;  // of x, or of more than x
  Affine<T> affine;
  double eps;
  bool mixing_scale;
  Output y;
};

size_t normalize_workspace(const Input& x, int64_t components, int64_t groups,
                           const DeviceLimits& limits);

template <class T>
cudaError_t launch_normalize(const Input& x, const NormalizeArguments<T>& arguments,
                             const Launch& launch);

}  // namespace mixnorm::cuda
