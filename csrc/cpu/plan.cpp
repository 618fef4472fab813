#include "cpu/plan.h"

#include <algorithm>

namespace mixnorm::cpu {
namespace {

// Rows of positions want to be long, for few folds and long runs of memory: a tile of x and one of
// dy share a level-2 cache of 1 MiB. Rows of channels are walked in columns, which wants level 1.
constexpr int64_t kPositionTileBytes = 512 * 1024;
constexpr int64_t kChannelTileBytes = 48 * 1024;
constexpr int64_t kMaxTilePositions = 1024;
constexpr int64_t kMinTilePositions = 32;

// A chunk's sums are 4 K / positions times the size of its x: enough positions keep them small.
constexpr int64_t kMinChunkElements = 32 * 1024;
constexpr int64_t kMinChunkPositions = 32;  // per component
constexpr int64_t kMaxChunks = 64;

// Below this many contiguous elements most lanes of a vector are empty, and collecting pays.
constexpr int64_t kMinRun = 8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Plan::Plan(const Input& x, int64_t groups_, int64_t components_,
           std::initializer_list<Strides> others)
    : groups(groups_),
      components(components_),
      channels(x.channels),
      group_channels(x.channels / groups_),
      positions(x.batch * x.length) {
  const auto all = [&](auto&& holds) {
    return holds(strides_of(x)) && std::all_of(others.begin(), others.end(), holds);
  };
  // One long row instead of many: always possible when channels are last, or a sample has one
  // position.
  single_position_ = x.length == 1;
  joined_ =
      single_position_ || x.batch == 1 || all([&](Strides s) { return s.n == s.l * x.length; });
  batch_ = joined_ ? 1 : x.batch;
  length_ = joined_ ? positions : x.length;

  const bool channel_runs =
      joined_ && group_channels >= kMinRun && all([](Strides s) { return s.c == 1; });
  const bool position_runs =
      length_ >= kMinRun && all([&](Strides s) { return flattened(s).l == 1; });
  const bool half = x.scalar == Scalar::kHalf || x.scalar == Scalar::kBFloat16;
  lanes = channel_runs ? Lanes::kChannels : Lanes::kPositions;
  staging = !channel_runs && !position_runs ? Staging::kGather
            : half                          ? Staging::kRows
                                            : Staging::kNone;
  if (positions == 0) {
    tiles = chunks = max_tile_positions = 0;
    samples_per_tile_ = tiles_per_sample_ = tile_length_ = 1;
    return;
  }

  const int64_t element = x.scalar == Scalar::kDouble ? 8 : 4;
  const int64_t resident =
      lanes == Lanes::kPositions && staging == Staging::kNone ? group_channels : channels;
  const int64_t least =
      std::max(ceil_div(kMinChunkElements, channels), kMinChunkPositions * components);
  chunks = std::clamp<int64_t>(positions / least, 1, kMaxChunks);
  chunks -= chunks > 4 ? chunks % 4 : chunks == 3;  // equal shares for the usual numbers of threads
  const int64_t chunk_positions = ceil_div(positions, chunks);
  const int64_t bytes = lanes == Lanes::kChannels ? kChannelTileBytes : kPositionTileBytes;
  const int64_t target = std::clamp(std::min(bytes / (element * resident), chunk_positions),
                                    kMinTilePositions, kMaxTilePositions);
  if (length_ > target) {
    samples_per_tile_ = 1;
    tile_length_ = ceil_div(ceil_div(length_, ceil_div(length_, target)), 16) * 16;
    tiles_per_sample_ = ceil_div(length_, tile_length_);
  } else {
    samples_per_tile_ = std::min(batch_, target / length_);
    tile_length_ = length_;
    tiles_per_sample_ = 1;
  }
  tiles = ceil_div(batch_, samples_per_tile_) * tiles_per_sample_;
  max_tile_positions = samples_per_tile_ * std::min(tile_length_, length_);
  chunks = std::min(tiles, chunks);
}

TileRef Plan::tile(int64_t index) const {
  const int64_t sample = index / tiles_per_sample_ * samples_per_tile_;
  const int64_t start = index % tiles_per_sample_ * tile_length_;
  return {sample, start, std::min(samples_per_tile_, batch_ - sample),
          std::min(tile_length_, length_ - start), sample * length_ + start};
}

Strides Plan::flattened(Strides strides) const {
  if (single_position_) strides.l = strides.n;  // the next position is the next sample
  return strides;
}

}  // namespace mixnorm::cpu
