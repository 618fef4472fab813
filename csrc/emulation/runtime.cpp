// CUDA's host functions on the emulated device.
#include <cuda_runtime_api.h>

#include <cstring>
#include <mutex>
#include <sstream>
#include <string>
#include <unordered_map>

#include "emulation/device.h"
#include "emulation/launch.h"

namespace mixnorm::emulation {
namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string last_details;

// One launch at a time, of whatever thread.
std::mutex launching;

// What kernels have opted in to.
std::unordered_map<const void*, int> dynamic_limits;

template <class... Parts>
cudaError_t fail(cudaError_t error, const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  last_details = text.str();
  return last_error = error;
}

// Blocks of one; 1 where the launch asks for none, 0 where it asks for more than one dimension.
unsigned cluster_of(const cudaLaunchConfig_t& c) {
  unsigned blocks = 1;
  for (unsigned i = 0; i < c.numAttrs; ++i) {
    if (c.attrs[i].id != cudaLaunchAttributeClusterDimension) continue;
    const auto& dimension = c.attrs[i].val.clusterDim;
    blocks = dimension.y == 1 && dimension.z == 1 ? dimension.x : 0;
  }
  return blocks;
}

int dynamic_limit(const void* function) {
  const auto found = dynamic_limits.find(function);
  return found == dynamic_limits.end() ? device().shared_memory_per_block : found->second;
}

}  // namespace

int64_t& enqueued() {
  static int64_t count = 0;
  return count;
}

int64_t& asked() {
  static int64_t count = 0;
  return count;
}

cudaError_t launch(const cudaLaunchConfig_t& c, const void* function, const Kernel& kernel) {
  const std::lock_guard<std::mutex> lock(launching);
  const Device& d = device();
  if (c.gridDim.y != 1 || c.gridDim.z != 1 || c.blockDim.y != 1 || c.blockDim.z != 1) {
    return fail(cudaErrorNotSupported, "the emulation runs grids and blocks of one dimension");
  }
  if (c.gridDim.x < 1 || c.gridDim.x > 0x7fffffffu || c.blockDim.x < 1 ||
      c.blockDim.x > static_cast<unsigned>(d.threads_per_block)) {
    return fail(cudaErrorInvalidConfiguration, "a grid of ", c.gridDim.x, " blocks of ",
                c.blockDim.x, " threads, a block has 1 to ", d.threads_per_block);
  }
  if (c.dynamicSmemBytes > static_cast<size_t>(dynamic_limit(function))) {
    return fail(cudaErrorInvalidValue, c.dynamicSmemBytes,
                " bytes of dynamic shared memory, the kernel's limit is ", dynamic_limit(function));
  }
  bool cooperative = false;
  for (unsigned i = 0; i < c.numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = c.attrs[i];
    if (attribute.id == cudaLaunchAttributeCooperative) {
      cooperative = attribute.val.cooperative != 0;
    }
  }
  const unsigned cluster = cluster_of(c);
  if (cluster == 0) {
    return fail(cudaErrorNotSupported, "the emulation runs clusters of one dimension");
  }
  if (cluster > 1) {
    if (!d.cluster_launch) return fail(cudaErrorNotSupported, "the device has no clusters");
    if (cluster > static_cast<unsigned>(d.blocks_per_cluster)) {
      return fail(cudaErrorInvalidClusterSize, "a cluster of ", cluster, " blocks, it has 1 to ",
                  d.blocks_per_cluster);
    }
    if (c.gridDim.x % cluster != 0) {
      return fail(cudaErrorInvalidClusterSize, "a grid of ", c.gridDim.x,
                  " blocks is not whole clusters of ", cluster);
    }
    if (clusters_at_once(static_cast<int>(cluster), static_cast<int>(c.blockDim.x),
                         c.dynamicSmemBytes) < 1) {
      return fail(cudaErrorInvalidClusterSize, "a cluster of ", cluster,
                  " blocks is more than the device holds");
    }
  }
  if (cooperative) {
    const int fit = blocks_per_multiprocessor(static_cast<int>(c.blockDim.x), c.dynamicSmemBytes);
    const int64_t most = d.cooperative_launch ? int64_t{fit} * d.multiprocessors : 0;
    if (c.gridDim.x > most) {
      return fail(cudaErrorCooperativeLaunchTooLarge, "a cooperative grid of ", c.gridDim.x,
                  " blocks, the device holds ", most);
    }
  }
  ++enqueued();
  const std::string problem =
      run({c.gridDim.x, c.blockDim.x, c.dynamicSmemBytes, cooperative, cluster}, kernel,
          schedule_seed());
  if (!problem.empty()) return fail(cudaErrorLaunchFailure, problem);
  return cudaSuccess;
}

}  // namespace mixnorm::emulation

using namespace mixnorm::emulation;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorCooperativeLaunchTooLarge:
      return "cudaErrorCooperativeLaunchTooLarge";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
    case cudaErrorInvalidClusterSize:
      return "cudaErrorInvalidClusterSize";
  }
  return "unknown error";
}

const char* cudaGetErrorString(cudaError_t error) {
  thread_local std::string text;
  text = cudaGetErrorName(error);
  if (error != cudaSuccess && !last_details.empty()) text += ": " + last_details;
  return text.c_str();
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice, "device ", device);
}

cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
  if (number != 0) return fail(cudaErrorInvalidDevice, "device ", number);
  const Device& d = device();
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = d.threads_per_block;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = d.shared_memory_per_block;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = static_cast<int>(kWarpSize);
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = d.multiprocessors;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = d.l2_bytes;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = d.threads_per_multiprocessor;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = d.compute_capability_major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = d.compute_capability_minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = d.shared_memory_per_multiprocessor;
      return cudaSuccess;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = d.registers_per_multiprocessor;
      return cudaSuccess;
    case cudaDevAttrCooperativeLaunch:
      *value = d.cooperative_launch;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = d.shared_memory_per_block_optin;
      return cudaSuccess;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *value = d.blocks_per_multiprocessor;
      return cudaSuccess;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = d.reserved_shared_memory_per_block;
      return cudaSuccess;
    case cudaDevAttrClusterLaunch:
      *value = d.cluster_launch;
      return cudaSuccess;
  }
  return fail(cudaErrorInvalidValue, "device attribute ", static_cast<int>(attribute));
}

cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  ++enqueued();
  if (bytes > 0) std::memset(address, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  if (bytes > 0) std::memcpy(destination, source, bytes);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || value > device().shared_memory_per_block_optin) {
    return fail(cudaErrorInvalidValue, value, " bytes of dynamic shared memory, the device has ",
                device().shared_memory_per_block_optin, " for a block");
  }
  const std::lock_guard<std::mutex> lock(launching);
  dynamic_limits[kernel] = value;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  const std::lock_guard<std::mutex> lock(launching);
  const Device& d = device();
  *attributes = {};
  attributes->maxThreadsPerBlock = d.threads_per_block;
  attributes->numRegs = d.registers_per_thread;
  attributes->binaryVersion = attributes->ptxVersion =
      10 * d.compute_capability_major + d.compute_capability_minor;
  attributes->maxDynamicSharedSizeBytes = dynamic_limit(kernel);
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int block_size,
                                                          size_t dynamic_bytes) {
  ++mixnorm::emulation::asked();
  *blocks = blocks_per_multiprocessor(block_size, dynamic_bytes);
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*,
                                           const cudaLaunchConfig_t* configuration) {
  ++mixnorm::emulation::asked();
  const cudaLaunchConfig_t& c = *configuration;
  *clusters = clusters_at_once(static_cast<int>(cluster_of(c)), static_cast<int>(c.blockDim.x),
                               c.dynamicSmemBytes);
  return cudaSuccess;
}
