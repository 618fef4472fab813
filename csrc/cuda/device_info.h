// What a CUDA device offers and which of the library's binaries it runs. Torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace mixnorm::cuda {

struct DeviceInfo {
  int64_t multiprocessors;
  int64_t shared_memory_per_block;  // the most a kernel may opt in to, in bytes
  int64_t l2_bytes;
  int64_t binary_version;  // 10 * major + minor of the machine code that was loaded
  int64_t ptx_version;     // of the PTX that it came from; the same unless compiled on loading
};

cudaError_t device_info(int device, DeviceInfo* info);

}  // namespace mixnorm::cuda
