#include "cuda/device_info.h"

#include <cuda_runtime.h>

namespace mixnorm::cuda {
namespace {

// Never launched: its attributes say which binary of this library the driver has chosen.
__global__ void probe_kernel() {}

}  // namespace

cudaError_t device_info(int device, DeviceInfo* info) {
  const auto read = [device](cudaDeviceAttr attribute, int64_t* value) {
    int result = 0;
    const cudaError_t error = cudaDeviceGetAttribute(&result, attribute, device);
    *value = result;
    return error;
  };
  cudaError_t error = read(cudaDevAttrMultiProcessorCount, &info->multiprocessors);
  if (error == cudaSuccess) {
    error = read(cudaDevAttrMaxSharedMemoryPerBlockOptin, &info->shared_memory_per_block);
  }
  if (error == cudaSuccess) error = read(cudaDevAttrL2CacheSize, &info->l2_bytes);
  cudaFuncAttributes attributes{};
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, probe_kernel);
  info->binary_version = attributes.binaryVersion;
  info->ptx_version = attributes.ptxVersion;
  return error;
}

}  // namespace mixnorm::cuda
