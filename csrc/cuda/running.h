// Running statistics: mass-weighted averages, updated in place on CUDA. Torch-free.
#pragma once

#include "cuda/launch.h"
#include "cuda/tensor.h"

namespace mixnorm::cuda {

template <class T>
struct RunningArguments {
  int64_t components, groups, channels;
  Mixture<T> running;
  BatchMoments<const T> moments;
  int64_t count;           // positions of the batch
  double momentum;         // the factor, where device_factor is null
  const T* device_factor;  // a scalar on the device, or null
  bool* finite;            // on the device: whether all moments were finite; or null
  int64_t* tracked;        // on the device: the number of batches, counted up if so; or null
  bool cumulative;         // the factor is 1 / (tracked + 1)
};

// Moves the running mixture towards the moments, unless one of them is not finite. Needs no
// workspace and never waits for the device.
template <class T>
cudaError_t launch_update_running(const RunningArguments<T>& arguments, cudaStream_t stream);

}  // namespace mixnorm::cuda
