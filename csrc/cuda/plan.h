// Which kernel serves a problem, how it is cut into tiles, and why. Host code, no launches.
#pragma once

#include "cuda/geometry.h"
#include "cuda/launch.h"
#include "cuda/tensor.h"

namespace mixnorm::cuda {

enum class Direction { kForward, kBackward };

// What `mixnorm_cuda.info` prints for a shape.
struct Description {
  bool supported;
  Family family;
  Access access;
  int threads;  // of a block
  int blocks;
  int positions_per_tile;
  int64_t tiles_per_block;  // at most
  int64_t resident_tiles;   // of them, kept in shared memory
  size_t shared_memory;     // of a block
  const char* reason;
};

// The widest group that the kernels serve with so many components.
int64_t max_group_channels(Scalar scalar, int64_t components);

Description describe(Direction direction, const Input& x, int64_t components, int64_t groups,
                     const DeviceLimits& limits, Family family = Family::kAuto);

}  // namespace mixnorm::cuda
