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
  kCluster,    // one ordinary launch: likewise, and a cluster of blocks has them
  kGeneral,    // what the others do not serve: responsibilities pass through the workspace
};

// What the plan needs to know of a device.
struct DeviceLimits {
  int multiprocessors;
  int shared_memory_per_block;           // the most a kernel may opt in to, in bytes
  int shared_memory_per_multiprocessor;  // of all resident blocks together
  bool cooperative_launch;
  bool cluster_launch;  // of thread-block clusters

  bool operator==(const DeviceLimits&) const = default;
};

cudaError_t device_limits(int device, DeviceLimits* limits);

struct Launch {
  DeviceLimits limits;  // of the current device
  cudaStream_t stream;
  void* workspace;                // device memory, aligned to 256 bytes; contents do not matter
  Family family = Family::kAuto;  // other than kAuto: an error where it cannot be had
};

// One-dimensional, with dynamic shared memory; `attribute`: one of the launch, or null.
template <class... Parameters, class... Arguments>
cudaError_t launch_with(cudaLaunchAttribute* attribute, void (*kernel)(Parameters...), int blocks,
                        int threads, size_t shared_memory, cudaStream_t stream,
                        const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_memory;
  config.stream = stream;
  config.attrs = attribute;
  config.numAttrs = attribute != nullptr ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// cooperative: all blocks are resident at once.
template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), int blocks, int threads,
                          size_t shared_memory, bool cooperative, cudaStream_t stream,
                          const Arguments&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  return launch_with(cooperative ? &attribute : nullptr, kernel, blocks, threads, shared_memory,
                     stream, arguments...);
}

inline cudaLaunchAttribute cluster_attribute(int blocks) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(blocks);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  return attribute;
}

// `cluster` blocks of consecutive index are resident at once; all blocks are whole clusters.
template <class... Parameters, class... Arguments>
cudaError_t launch_clusters(void (*kernel)(Parameters...), int blocks, int threads,
                            size_t shared_memory, int cluster, cudaStream_t stream,
                            const Arguments&... arguments) {
  cudaLaunchAttribute attribute = cluster_attribute(cluster);
  return launch_with(&attribute, kernel, blocks, threads, shared_memory, stream, arguments...);
}

}  // namespace mixnorm::cuda
