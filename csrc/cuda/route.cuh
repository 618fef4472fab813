// Where a thread's positions lie in global memory, tile by tile.
#pragma once

#include <cstdint>

#include "cuda/chunk.cuh"
#include "cuda/thread.cuh"

namespace mixnorm::cuda {

// A position as (sample, place in its row), moved by constant steps without divisions.
struct Cursor {
  int64_t n, l;

  __device__ Cursor(int64_t position, int64_t length) {
    const RowStep from_start = row_step(position, length);
    n = from_start.n;
    l = from_start.l;
  }
  __device__ __forceinline__ void move(const RowStep& step, int64_t length) {
    n += step.n;
    l += step.l;
    if (l >= length) {
      l -= length;
      ++n;
    }
  }
  __device__ __forceinline__ int64_t offset(const Strides& s) const { return n * s.n + l * s.l; }
};

// A place in a row, and the bytes to there in each of several tensors; or a distance, likewise.
template <int kTensors>
struct Spot {
  int l;
  int64_t bytes[kTensors];
};

// One thread's way through several tensors: products of strides are made once, from tile to tile
// there are only sums. A spot outside the tensors is an address that nobody uses.
template <class S, Access kAccess, class Place, int kTensors>
class Route {
 public:
  using Here = Spot<kTensors>;

  // up: tiles come in order, else in reverse.
  __device__ Route(const Geometry& g, const Place& place, const Tensor (&tensors)[kTensors],
                   bool up)
      : joined_(g.length == g.positions) {
#pragma unroll
    for (int t = 0; t < kTensors; ++t) {
      strides_[t] = tensors[t].strides;
      start_[t] = static_cast<int64_t>(reinterpret_cast<uintptr_t>(tensors[t].data)) +
                  place.channel * strides_[t].c * kSize;
    }
    // Rows that are joined to one have no end.
    row_ = joined_ ? Here{1, {}} : distance(g, {-1, g.length});
    lane_ = distance(g, g.lane_step);
    const RowStep back{-g.tile_step.n - (g.tile_step.l > 0),
                       g.tile_step.l > 0 ? g.length - g.tile_step.l : 0};
    tile_ = distance(g, up ? g.tile_step : back);
  }

  // Of this position, some tiles further.
  __device__ Here at(const Geometry& g, int64_t position, int tiles) const {
    Here here = distance(g, row_step(position, g.length));
#pragma unroll
    for (int t = 0; t < kTensors; ++t) here.bytes[t] += start_[t];
    for (int i = 0; i < tiles; ++i) next_tile(here);
    return here;
  }
  __device__ __forceinline__ void next_tile(Here& here) const { move(here, tile_); }

  // Calls f(chunk, addresses, exists) for every chunk of the thread. `count`: of the tile's
  // positions, those that exist.
  template <class F>
  __device__ __forceinline__ void for_chunks(const Place& place, Here here, int count,
                                             F&& f) const {
    constexpr int kOwned = Place::kOwned, kHeld = Place::kHeld;
    if constexpr (kAccess == Access::kChannels) {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
        const bool inside = place.position(r) < count;
        f(r, here.bytes, inside && place.owned == kOwned);
#pragma unroll
        for (int t = 0; t < kTensors; ++t) here.bytes[t] += strides_[t].l * kSize;
      }
    } else {
      constexpr int kWidth = kAccess == Access::kPositions ? 4 : 1;
#pragma unroll
      for (int r = 0; r < kHeld; r += kWidth) {
        const bool inside = place.position(r) < count;
        int64_t bytes[kTensors];
#pragma unroll
        for (int t = 0; t < kTensors; ++t) bytes[t] = here.bytes[t];
#pragma unroll
        for (int c = 0; c < kOwned; ++c) {
          f(c * kHeld / kWidth + r / kWidth, bytes, inside && c < place.owned);
#pragma unroll
          for (int t = 0; t < kTensors; ++t) bytes[t] += strides_[t].c * kSize;
        }
        if (r + kWidth < kHeld) move(here, lane_);
      }
    }
  }

 private:
  static constexpr int64_t kSize = sizeof(S);

  __device__ Here distance(const Geometry& g, const RowStep& step) const {
    Here result{joined_ ? 0 : static_cast<int>(step.l), {}};
#pragma unroll
    for (int t = 0; t < kTensors; ++t) {
      const Strides& s = strides_[t];
      result.bytes[t] = (step.n * (joined_ ? g.length * s.l : s.n) + step.l * s.l) * kSize;
    }
    return result;
  }
  __device__ __forceinline__ void move(Here& here, const Here& step) const {
    here.l += step.l;
    const bool ends = here.l >= row_.l;
    if (ends) here.l -= row_.l;
#pragma unroll
    for (int t = 0; t < kTensors; ++t) {
      here.bytes[t] += step.bytes[t];
      if (ends) here.bytes[t] -= row_.bytes[t];
    }
  }

  bool joined_;
  Strides strides_[kTensors];
  int64_t start_[kTensors];
  Here row_, lane_, tile_;
};

}  // namespace mixnorm::cuda
