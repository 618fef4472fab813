// Which kernel serves a problem, how it is cut into tiles, and why. Host code, no launches.
#pragma once

#include <initializer_list>

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

// For contiguous outputs of x's strides.
Description describe(Direction direction, const Input& x, int64_t components, int64_t groups,
                     const DeviceLimits& limits, Family family = Family::kAuto);

// The compiled number of components that serves so many.
int compiled_components(Scalar scalar, Access access, int64_t components);

// How a problem is cut, whatever the device's occupancy.
struct Cut {
  bool supported;      // by kernels that hold whole groups of channels in registers
  const char* reason;  // where it is not
  Geometry geometry;   // all but chunks, slots and resident
  Access access;
  int compiled;   // components
  int allocated;  // components that the workspace holds, whatever the access
  int max_chunks;
  int held_channels, held_positions;  // by a thread, of a tile
  int element_bytes;
  int64_t slot_bytes;  // of one tensor's tile
  int64_t scratch_bytes;
};

// What kernels a cut is for.
struct CutOptions {
  int max_threads = 0;  // of a block; 0: what those of so many components allow. Tables have the
                        // same columns whatever it is.
  bool matrix = false;  // there are some by matrix products
  int tensors = 1;      // that every tile of those keeps in shared memory
};
constexpr CutOptions kForwardCut{.matrix = true};
constexpr CutOptions kBackwardCut{.matrix = true, .tensors = 2};

// `others`: strides and pointers of the tensors beside x that the kernel walks with it.
Cut cut(const Input& x, std::initializer_list<Tensor> others, int64_t components, int64_t groups,
        const DeviceLimits& limits, const CutOptions& options = {});

// One table and one workspace for both: with the columns and the chunks of the larger.
void share_workspace(Cut& a, Cut& b);

struct Plan {
  cudaError_t error;
  const char* reason;
  Family family;
  Geometry geometry;
  int blocks, threads;
  size_t shared_memory;
};

// tensors: that every tile keeps in shared memory.
Plan plan(const Cut& cut, const void* kernel, int tensors, const DeviceLimits& limits,
          Family family);

// The kernels that serve a cut, for the occupancy.
const void* forward_kernel_address(Scalar scalar, const Cut& cut);
const void* backward_kernel_address(Scalar scalar, const Cut& cut);

// x with rows joined where the cut joins them.
Tensor flattened(const Geometry& geometry, const Input& x);
Tensor flattened(const Geometry& geometry, const Input& x, const Output& y);

}  // namespace mixnorm::cuda
