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

// A place in its row, and the address of that in each of several tensors.
template <int kTensors>
struct Spot {
  int l;
  int64_t bytes[kTensors];
};

// One thread's way through several tensors: from tile to tile there are only sums, of what the plan
// has multiplied. A spot outside the tensors is an address that nobody uses.
template <class S, Access kAccess, class Place, int kTensors>
class Route {
 public:
  using Here = Spot<kTensors>;

  // up: tiles come in order, else in reverse.
  __device__ Route(const Geometry& g, const Tensor (&tensors)[kTensors], bool up) : g_(g), up_(up) {
#pragma unroll
    for (int t = 0; t < kTensors; ++t) tensors_[t] = tensors[t];
  }

  // Of this position, some tiles further.
  __device__ Here at(const Place& place, int64_t position, int tiles) const {
    const bool one_row = g_.length == g_.positions;
    const RowStep from_start = one_row ? RowStep{0, position} : row_step(position, g_.length);
    Here here{one_row ? 0 : static_cast<int>(from_start.l), {}};
#pragma unroll
    for (int t = 0; t < kTensors; ++t) {
      const Strides& s = tensors_[t].strides;
      const int64_t elements = place.channel * s.c + from_start.n * s.n + from_start.l * s.l;
      here.bytes[t] =
          static_cast<int64_t>(reinterpret_cast<uintptr_t>(tensors_[t].data)) + elements * kSize;
    }
    for (int i = 0; i < tiles; ++i) next_tile(here);
    return here;
  }

  __device__ __forceinline__ void next_tile(Here& here) const {
    move(here, up_ ? g_.steps.next : g_.steps.last,
         [&](const Steps<int64_t>& steps) { return up_ ? steps.next : steps.last; });
  }

  // Calls f(chunk, addresses, exists) for every chunk of one of the thread's parts, and moves on to
  // the next. `count`: of the positions from the part's first on, those that exist.
  template <class F>
  __device__ __forceinline__ void for_chunks(const Place& place, Here& here, int count,
                                             F&& f) const {
    constexpr int kOwned = Place::kOwned, kHeld = Place::kHeld;
    constexpr int kWidth = kAccess == Access::kPositions ? 4 : 1;
#pragma unroll
    for (int r = 0; r < kHeld; r += kWidth) {
      const bool inside = place.position(r) < count;
      if constexpr (kAccess == Access::kChannels) {
        f(r, here.bytes, inside && place.owned == kOwned);
#pragma unroll
        for (int t = 0; t < kTensors; ++t) here.bytes[t] += tensors_[t].strides.l * kSize;
      } else {
        int64_t bytes[kTensors];
#pragma unroll
        for (int t = 0; t < kTensors; ++t) bytes[t] = here.bytes[t];
#pragma unroll
        for (int c = 0; c < kOwned; ++c) {
          f(c * kHeld / kWidth + r / kWidth, bytes, inside && c < place.owned);
#pragma unroll
          for (int t = 0; t < kTensors; ++t) bytes[t] += tensors_[t].strides.c * kSize;
        }
        move(here, g_.steps.chunk, [](const Steps<int64_t>& steps) { return steps.chunk; });
      }
    }
  }

 private:
  static constexpr int64_t kSize = sizeof(S);

  template <class Of>
  __device__ __forceinline__ void move(Here& here, int step, Of step_of) const {
    bool ends = false;
    if constexpr (kAccess != Access::kChannels) {  // whose samples are joined to one row
      here.l += step;
      ends = here.l >= g_.steps.row;
      if (ends) here.l -= g_.steps.row;
    }
#pragma unroll
    for (int t = 0; t < kTensors; ++t) {
      here.bytes[t] += step_of(tensors_[t].steps);
      if (ends) here.bytes[t] -= tensors_[t].steps.row;
    }
  }

  const Geometry& g_;
  Tensor tensors_[kTensors];
  bool up_;
};

}  // namespace mixnorm::cuda
