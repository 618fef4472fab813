// How a problem is cut into blocks and tiles. Host code.
#pragma once

#include <initializer_list>

#include "cuda/geometry.h"
#include "cuda/launch.h"
#include "cuda/tensor.h"

namespace mixnorm::cuda {

// The compiled number of components that serves so many.
int compiled_components(Scalar scalar, Access access, int64_t components);

// Elements by components of a block that has all positions of its groups, up to which it is faster
// than blocks all over the grid: at 50 to 100 instructions an element of 3 components they take it
// the time of the barriers between those.
constexpr int64_t kSmallWork = 3 * 16384;

// How a problem is cut, whatever the device's occupancy.
struct Cut {
  bool supported;      // by kernels that hold whole groups of channels, and by shared memory
  const char* reason;  // where it is not
  Geometry geometry;   // all but chunks, slots, resident and scope
  Access access;
  int compiled;                       // components
  int allocated;                      // components that the workspace holds, whatever the access
  int max_chunks;                     // that are worth it, across the grid
  int workspace_chunks;               // that the workspace holds, whatever the access and plan
  int most_groups;                    // of a block, whatever the access
  int held_channels, held_positions;  // by a thread, of a tile
  int element_bytes;
  int64_t slot_bytes;  // of one tensor's tile
  int64_t nu_bytes;    // beside the tensors of every tile
  int64_t scratch_bytes;

  bool operator==(const Cut&) const = default;
};

// What kernels a cut is for.
struct CutOptions {
  int max_threads = 0;  // of a block; 0: what those of so many components allow. Tables have the
                        // same columns whatever it is.
  bool matrix = false;  // there are some by matrix products
  int tensors = 1;      // whose tiles they keep in shared memory: 2 are the backward's
  bool vectors = true;  // else one element at a time, of which a tile has fewer
};
constexpr CutOptions kForwardCut{.matrix = true};
constexpr CutOptions kBackwardCut{.matrix = true, .tensors = 2};
constexpr CutOptions kMixtureCut{.max_threads = kMixtureThreads, .tensors = 2};

// `others`: strides and pointers of the tensors beside x that the kernel walks with it.
Cut cut(const Input& x, std::initializer_list<Tensor> others, int64_t components, int64_t groups,
        const DeviceLimits& limits, const CutOptions& options = {});

// The backward's, and that of its kernels for fewer threads: gradients of a mixture that is
// learned, and eval's in one sweep. They share a table, of as many components, and a workspace: the
// columns and the chunks of the larger.
struct BackwardCuts {
  Cut backward, fewer_threads;
  bool supported;  // all that is asked for
};

// learned: the mixture is.
BackwardCuts cut_backward(const Input& x, std::initializer_list<Tensor> others, int64_t components,
                          int64_t groups, bool learned, const DeviceLimits& limits);

// One workspace for both.
void share_workspace(Cut& a, Cut& b);

// Twice the positions for a block, and a tile, if it has room for the warps.
bool widen_tiles(Cut& cut);

// Half of the groups for a block, if rows of channels are then still whole sectors of memory.
bool narrow_blocks(Cut& cut);

// What a tile of so many tensors takes in its slot.
int64_t tile_bytes(const Cut& cut, int tensors);
// The most of them that a block of some has shared memory for.
int64_t slots_within(const Cut& cut, int tensors, int64_t shared_memory);

// x with rows joined where the cut joins them.
Tensor flattened(const Geometry& geometry, const Input& x);
Tensor flattened(const Geometry& geometry, const Input& x, const Output& y);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace mixnorm::cuda
