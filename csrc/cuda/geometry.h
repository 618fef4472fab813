// How a problem is cut into blocks, warps and tiles. Plain data, made by the plan, read by kernels.
#pragma once

#include <cstdint>

#include "device/constants.h"

namespace mixnorm::cuda {

// How a thread reaches its elements.
enum class Access {
  kPositions,  // 4 neighbouring positions of a channel at once
  kChannels,   // 4 neighbouring channels of a position at once
  kElements,   // one element at a time, any strides
};

// Whom a block waits for between the steps of a launch: the blocks whose sums it needs.
enum class Scope {
  kGrid,     // all: columns are shared out among them
  kCluster,  // those that have the other chunks of its groups, a thread-block cluster
  kBlock,    // nobody: it has all positions of its groups
};

struct Strides {
  int64_t n, c, l;
};

// From a tile to the next or, in reverse, to the one before; from one of a thread's chunks of
// positions to its next; of a whole row. As places in a row, or as bytes of a tensor, which at a
// row's end go back by `row`.
template <class T>
struct Steps {
  T next, last, chunk, row;

  bool operator==(const Steps&) const = default;
};

struct Tensor {
  const void* data;
  Strides strides;
  Steps<int64_t> steps = {};
};

// A number of positions as rows of `length` and the rest: 0 <= l < length.
struct RowStep {
  int64_t n, l;

  bool operator==(const RowStep&) const = default;
};

MIXNORM_HOST_DEVICE RowStep row_step(int64_t positions, int64_t length) {
  RowStep step{positions / length, positions % length};
  if (step.l < 0) {
    step.l += length;
    --step.n;
  }
  return step;
}

// A block owns `block_groups` whole groups of channels by a chunk of tiles of positions. A warp is
// channel_lanes x (32 / channel_lanes) positions; channel_warps of them cover a group, and
// position_warps of those lie side by side. A thread holds kChannels<T, K> channels by
// kPositions<T, K> positions of every tile.
struct Geometry {
  int64_t positions;  // all of them, M
  int64_t length;     // of one row: M where samples join to one
  int64_t tiles;
  int channels, groups, group_channels, components;
  int channel_lanes, channel_warps, position_warps, block_groups;
  int channel_blocks, chunks;  // the grid
  int tile_positions;
  int group_columns;  // of a group in tables and sums: its channels, padded to whole warps
  bool per_channel;   // groups of one channel: those of a block lie along the lanes of its warps
  bool matrix;        // sums over channels, components and positions are matrix products
  int exchanged;      // sums of a position and component that channel warps exchange at once
  int slots;          // tiles that fit the block's shared memory
  bool resident;      // tiles stay in their slots between sweeps
  Scope scope;
  RowStep lane_step;  // from one of a thread's chunks of positions to its next
  RowStep tile_step;  // from a position of a tile to the same of the next
  Steps<int> steps;   // the same as places in a row; of one row that never ends, 0 and 1
  bool channel_runs;  // neighbouring lanes hold neighbouring channels, not positions

  bool operator==(const Geometry&) const = default;
};

MIXNORM_HOST_DEVICE int columns(const Geometry& g) { return g.groups * g.group_columns; }
MIXNORM_HOST_DEVICE int warps(const Geometry& g) {
  return (g.per_channel ? 1 : g.block_groups) * g.channel_warps * g.position_warps;
}

// The blocks of the same groups are neighbours: a cluster is of such.
MIXNORM_HOST_DEVICE int channel_block_of(const Geometry& g, int block) { return block / g.chunks; }
MIXNORM_HOST_DEVICE int chunk_of(const Geometry& g, int block) { return block % g.chunks; }

// Blocks of a cluster, at most: so many any GPU that has clusters can launch.
constexpr int kMaxCluster = 8;

// Tiles in flight while another is worked on, and that one.
constexpr int kStages = 3;

// What a thread holds of a tile, and how many threads there may be: 2 K sums a channel and K
// log-odds a position have to fit its registers, beside the addresses of single elements.
template <class T, int K>
constexpr int kChannels = sizeof(T) == 4 ? (K > 8 ? 2 : 4) : (K > 4 ? 1 : 2);
template <class T, int K, Access kAccess>
constexpr int kPositions = kAccess != Access::kElements ? 4
                           : sizeof(T) == 8 && K > 4    ? 1
                                                        : 2;
template <class T, int K>
constexpr int kMaxThreads = K <= 3 && sizeof(T) == 4 ? 512 : 256;

constexpr int kMixtureThreads = 256;

// The same where every channel has a mixture of its own, which a thread holds alone.
template <Access kAccess>
constexpr int kOwnChannels = kAccess == Access::kChannels ? 2 : 1;
template <class T, int K, Access kAccess>
constexpr int kOwnPositions = kAccess == Access::kPositions  ? 4
                              : kAccess == Access::kChannels ? 2
                              : K * sizeof(T) > 32           ? 1
                              : K * sizeof(T) > 16           ? 2
                                                             : 4;
// Parts of a tile, of so many positions each: as much as its bytes allow, since then there are
// fewer steps from tile to tile, and registers are needed for one part at a time. S: of the
// elements.
constexpr int kOwnTileBytes = 32;  // of a thread and tensor
template <class S, class T, int K, Access kAccess>
constexpr int kOwnParts =
    kAccess == Access::kElements
        ? 1
        : kOwnTileBytes / int(sizeof(S)) / (kOwnChannels<kAccess> * kOwnPositions<T, K, kAccess>);
constexpr int kOwnThreads = 256;
// Of a multiprocessor, at least: threads with few channels and components can do with half of the
// registers.
template <class T, int K, int kOwned>
constexpr int kOwnBlocks = sizeof(T) == 4 && K * kOwned <= 6 ? 2 : 1;

// The same for matrix products, in float and of at least kMatrixComponents components.
constexpr int kMatrixChannels = 4;
constexpr int kMatrixPositions = 4;
constexpr int kMatrixLanes = 4;  // of channels
template <int K>
constexpr int kMatrixThreads = K > 8 ? 256 : 512;
// S: of the tensors, of which the backward has two.
template <class S, int K>
constexpr int kMatrixBackwardThreads = K > 8            ? 256
                                       : sizeof(S) == 4 ? 384
                                                        : 512;
constexpr int kMatrixComponents = 5;

// Rows of the table of coefficients (tables.cuh).
constexpr int table_rows(int components) { return 14 * components - 7; }

// Shared memory behind the tiles, in elements of the accumulation type.
struct ScratchSizes {
  int64_t exchange, dlogit, masses, constants;
  // Behind which nu lies: of one tile at a time for matrix products, else of each in a slot.
  MIXNORM_HOST_DEVICE int64_t total() const {
    return (exchange + dlogit + masses + constants + 3) / 4 * 4;
  }
};

// nu, or dlogit, of a tile.
MIXNORM_HOST_DEVICE int64_t weights_size(const Geometry& g, int components) {
  if (g.per_channel) return 0;
  return (int64_t(components) * g.block_groups * g.tile_positions + 3) / 4 * 4;
}

// channels: kChannels of a thread.
MIXNORM_HOST_DEVICE ScratchSizes scratch_sizes(const Geometry& g, int components, int channels) {
  const auto most = [](int64_t a, int64_t b) { return a > b ? a : b; };
  if (g.per_channel) {
    // Three sums a channel, in two places in turn; or three doubles a thread.
    return {most(int64_t(6) * g.position_warps * g.block_groups, int64_t(6) * 32 * warps(g)), 0, 0,
            0};
  }
  // For products so many sums of each component; else log-odds, or dnu, of all but component 0 at
  // positions in whole warps.
  const int64_t rows = g.matrix ? g.exchanged * components : components - 1;
  const int64_t positions = g.matrix ? g.tile_positions : (g.tile_positions + 31) / 32 * 32;
  const int64_t logits = rows * g.block_groups * g.channel_warps * positions;
  const int64_t sums = int64_t(2) * warps(g) * g.channel_lanes * 2 * channels;
  const int64_t merge = int64_t(3) * 32 * warps(g) * 2;  // three doubles a thread
  return {(most(most(logits, sums), merge) + 3) / 4 * 4, weights_size(g, components),
          int64_t(components) * warps(g),
          int64_t(components) * g.block_groups * 2 * (1 + g.channel_warps)};
}

}  // namespace mixnorm::cuda
