// How a problem is cut: tiles that fit the cache, chunks of tiles that are the units of parallel
// work. Both depend on the problem alone, never on the number of threads.
#pragma once

#include <initializer_list>

#include "cpu/tensor.h"
#include "cpu/tile.h"

namespace mixnorm::cpu {

struct Strides {
  int64_t n, c, l;
};
inline Strides strides_of(const Input& t) { return {t.stride_n, t.stride_c, t.stride_l}; }
inline Strides strides_of(const Output& t) { return {t.stride_n, t.stride_c, t.stride_l}; }

// All channels by `segments` samples by `length` positions.
struct TileRef {
  int64_t sample, start;  // of the tile's first position
  int64_t segments, length;
  int64_t position;  // sample * (positions per sample) + start
  int64_t positions() const { return segments * length; }
};

// The direction in which a thread walks its tiles. A second sweep goes down: it starts with what
// the first one left in the caches.
enum class Order { kUp, kDown };

class Plan {
 public:
  // How tiles become rows of the accumulation type.
  enum class Staging {
    kNone,    // read and written in place
    kRows,    // contiguous rows are converted to a buffer
    kGather,  // elements are collected one by one into rows of positions
  };

  // `others` are the strides of the tensors that are read or written beside x.
  Plan(const Input& x, int64_t groups, int64_t components, std::initializer_list<Strides> others);

  Lanes lanes;
  Staging staging;
  int64_t groups, components, channels;
  int64_t group_channels;
  int64_t positions;  // all of them
  int64_t tiles, chunks;
  int64_t max_tile_positions;

  TileRef tile(int64_t index) const;
  int64_t first_tile(int64_t chunk) const { return chunk * tiles / chunks; }

  // The strides to use with TileRef: samples may have been joined to one long row.
  Strides flattened(Strides strides) const;
  // Where a tile starts in a tensor of these flattened strides.
  static int64_t offset(const TileRef& tile, Strides strides) {
    return tile.sample * strides.n + tile.start * strides.l;
  }

 private:
  bool single_position_;  // a sample has one position
  bool joined_;           // samples form one row of positions
  int64_t batch_, length_;
  int64_t samples_per_tile_, tiles_per_sample_, tile_length_;
};

}  // namespace mixnorm::cpu
