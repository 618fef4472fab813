// Which kernel serves a problem, and why. Host code, no launches.
#pragma once

#include "cuda/cut.h"
#include "cuda/launch.h"
#include "cuda/tensor.h"

namespace mixnorm::cuda {

enum class Direction { kForward, kBackward };

// What `mixnorm_cuda.info` prints for a shape.
struct Description {
  bool supported;
  Family family;
  Access access;
  bool matrix;  // sums are matrix products
  int threads;  // of a block
  int blocks;
  int cluster_blocks;  // 1 where there are no clusters
  int positions_per_tile;
  int64_t tiles_per_block;  // at most
  int64_t resident_tiles;   // of them, kept in shared memory
  size_t shared_memory;     // of a block
  const char* reason;
};

// For contiguous outputs of x's strides.
Description describe(Direction direction, const Input& x, int64_t components, int64_t groups,
                     const DeviceLimits& limits, Family family = Family::kAuto);

struct Plan {
  cudaError_t error;
  const char* reason;
  Family family;
  Geometry geometry;
  int blocks, threads;
  size_t shared_memory;
};

// tensors: that every tile keeps in shared memory. A plan that was found is remembered: to find it
// the driver is asked several times, which would cost a small problem more than its kernel.
Plan plan(const Cut& cut, const void* kernel, int tensors, const DeviceLimits& limits,
          Family family);

// The kernels that serve a cut, for the occupancy.
const void* forward_kernel_address(Scalar scalar, const Cut& cut);
const void* backward_kernel_address(Scalar scalar, const Cut& cut);

}  // namespace mixnorm::cuda
