// What a launch is given beside its tensors. Torch-free.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace mixnorm::cuda {

// Which kernels serve a problem.
enum class Family {
  kAuto,       // the plan chooses
  kStreaming,  // one launch per sweep: every sweep reads the tensors again
  kResident,   // one cooperative launch: tiles stay in shared memory between the sweeps
  kSmall,      // one ordinary launch: likewise, and a block has all positions of its groups
  kGeneral,    // what the others do not serve: responsibilities pass through the workspace
};

// What the plan needs to know of a device.
struct DeviceLimits {
  int multiprocessors;
  int shared_memory_per_block;           // the most a kernel may opt in to, in bytes
  int shared_memory_per_multiprocessor;  // of all resident blocks together
  bool cooperative_launch;
};

cudaError_t device_limits(int device, DeviceLimits* limits);

struct Launch {
  DeviceLimits limits;  // of the current device
  cudaStream_t stream;
  void* workspace;                // device memory, aligned to 256 bytes; contents do not matter
  Family family = Family::kAuto;  // other than kAuto: an error where it cannot be had
};

// One-dimensional, with dynamic shared memory; cooperative: all blocks are resident at once.
template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), int blocks, int threads,
                          size_t shared_memory, bool cooperative, cudaStream_t stream,
                          const Arguments&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_memory;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = cooperative ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace mixnorm::cuda
