// Which channels and positions a thread holds.
#pragma once

#include <cuda_runtime.h>

#include "cuda/geometry.h"

namespace mixnorm::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

// The value, of which the compiler knows nothing: so what follows from it is computed where it is
// used, not kept in registers from one step of a kernel to the next.
__device__ __forceinline__ int opaque(int value) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// gridDim.x, likewise: read where it is used.
__device__ __forceinline__ int grid_blocks() {
#if defined(__CUDA_ARCH__)
  int blocks;
  asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(blocks));
  return blocks;
#else
  return static_cast<int>(gridDim.x);
#endif
}

// kOwned channels and, in each of kParts, kHeld positions.
template <Access kAccess, int kOwned_, int kHeld_, int kParts_ = 1>
struct Thread {
  static constexpr int kOwned = kOwned_, kHeld = kHeld_, kParts = kParts_;
  static constexpr bool kTogether = kAccess != Access::kElements;  // positions are neighbours

  int lane, warp;
  int group_slot, channel_warp, position_warp;
  int channel_lane;                 // within the warp
  int position_lane;                // within the block
  int position_lanes;               // of the block
  int rank;                         // among the threads of its group
  int group;                        // may lie past the last one
  int column;                       // of its first channel in tables and sums
  int channel, owned;               // its first channel, and how many it has
  int channel_step, position_step;  // between lanes of a warp

  __device__ Thread(const Geometry& g, int channel_block) {
    const int thread = opaque(threadIdx.x);
    lane = thread % 32;
    warp = thread / 32;
    position_warp = warp % g.position_warps;
    channel_warp = warp / g.position_warps % g.channel_warps;
    group_slot = warp / (g.position_warps * g.channel_warps);
    const int warp_positions = 32 / g.channel_lanes;
    const bool channel_runs =
        kAccess == Access::kChannels || (kAccess == Access::kElements && g.channel_runs);
    channel_step = channel_runs ? 1 : warp_positions;
    position_step = channel_runs ? g.channel_lanes : 1;
    channel_lane = lane / channel_step % g.channel_lanes;
    position_lanes = warp_positions * g.position_warps;
    position_lane = position_warp * warp_positions + lane / position_step % warp_positions;
    rank = warp % (g.channel_warps * g.position_warps) * 32 + lane;
    group = channel_block * g.block_groups + group_slot;
    const int within = (channel_warp * g.channel_lanes + channel_lane) * kOwned;
    const int table_group = group < g.groups ? group : g.groups - 1;
    column = table_group * g.group_columns + within;
    channel = table_group * g.group_channels + within;
    const int rest = g.group_channels - within;
    owned = group >= g.groups || rest < 0 ? 0 : rest < kOwned ? rest : kOwned;
  }

  __device__ int group_threads(const Geometry& g) const {
    return 32 * g.channel_warps * g.position_warps;
  }

  // Whose place among the chunks of a warp's lanes is the lane's.
  __device__ static int slot(int lane) { return lane; }

  // Of the first part's position r, within the tile.
  __device__ int position(int r) const {
    if constexpr (kAccess == Access::kElements) return r * position_lanes + position_lane;
    if constexpr (kAccess == Access::kChannels) return position_lane * kHeld * kParts + r;
    return (r / 4 * position_lanes + position_lane) * 4 + r % 4;
  }
  // From a part to the next.
  __device__ int part_step() const {
    return kAccess == Access::kChannels ? kHeld : kHeld * position_lanes;
  }
};

// Sums over the lanes of a warp that `step` and `count` (powers of two) span; every lane gets it.
template <class T>
__device__ __forceinline__ T lane_sum(T value, int step, int count) {
  for (int offset = step; offset < step * count; offset <<= 1) {
    value += __shfl_xor_sync(kFullWarp, value, offset);
  }
  return value;
}

}  // namespace mixnorm::cuda
