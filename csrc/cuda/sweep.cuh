// The walk of a block over its tiles, with the next ones on their way.
#pragma once

#include "cuda/tile.cuh"

namespace mixnorm::cuda {

// Tiles [first, first + count) of a chunk, and where they stay. What fits its slots is loaded once
// and kept; the others ("overflow", the first ones) pass through a ring of kStages slots. Sweeps
// alternate in direction, so an overflow tile is read again soonest after it was last.
class Residency {
 public:
  __device__ Residency(const Geometry& g, int chunk) {
    first = g.tiles * chunk / g.chunks;
    count = static_cast<int>(g.tiles * (chunk + 1) / g.chunks - first);
    const bool fits = g.resident && count <= g.slots;
    ring_ = fits ? 0 : kStages;
    overflow_ = fits ? 0 : g.resident && g.slots > kStages ? count - (g.slots - kStages) : count;
  }

  __device__ int slot(int tile) const {
    return tile < overflow_ ? tile % kStages : ring_ + tile - overflow_;
  }
  __device__ bool must_load(int tile, bool loaded) const { return !loaded || tile < overflow_; }

  int64_t first;
  int count;

 private:
  int ring_, overflow_;
};

// A thread's part in one sweep of the launch; those with odd numbers go down.
template <class Tiles_>
struct WalkOver {
  using Tiles = Tiles_;

  // sweep: how many came before.
  __device__ WalkOver(const Geometry& g, unsigned char* slots, int sweep)
      : place(g, channel_block_of(g, blockIdx.x)),
        chunk(chunk_of(g, blockIdx.x)),
        residency(g, chunk),
        slots(slots),
        loaded(g.resident && sweep > 0),
        up(sweep % 2 == 0) {}

  typename Tiles::Place place;
  int chunk;
  Residency residency;
  unsigned char* slots;
  bool loaded;  // resident tiles are in their slots
  bool up;

  // Calls body(slot, cursor, first position of the tile) for every tile; the slot holds the
  // thread's part of each of the kTensors tensors, one after the other.
  template <int kTensors, class Body>
  __device__ void sweep(const Geometry& g, const Tensor (&tensors)[kTensors], Body&& body) const {
    const int tensor_bytes = Tiles::slot_bytes();
    const int count = residency.count;
    const auto move = [&](Cursor& cursor) {
      if (up) {
        cursor.move(g.tile_step, g.length);
      } else {
        cursor.move_back(g.tile_step, g.length);
      }
    };
    const auto position_of = [&](int tile) { return (residency.first + tile) * g.tile_positions; };
    // Of the tile that is worked on, once there is one: the loads run ahead of it.
    Cursor here(position_of(up ? 1 - kStages : count + kStages - 2) + place.position(0), g.length);
    for (int i = 0; i < count + kStages - 1; ++i) {
      const int tile = up ? i : count - 1 - i;
      if (i < count && residency.must_load(tile, loaded)) {
        Cursor ahead = here;
        for (int stage = 1; stage < kStages; ++stage) move(ahead);
        unsigned char* const slot = slots + residency.slot(tile) * kTensors * tensor_bytes;
#pragma unroll
        for (int t = 0; t < kTensors; ++t) {
          Tiles::copy(g, place, tensors[t], ahead, position_of(tile), slot + t * tensor_bytes);
        }
      }
      __pipeline_commit();  // also where nothing was copied: the wait below counts commits
      if (i >= kStages - 1) {
        __pipeline_wait_prior(kStages - 1);
        const int ready = up ? i - (kStages - 1) : count - 1 - (i - (kStages - 1));
        body(slots + residency.slot(ready) * kTensors * tensor_bytes, here, position_of(ready));
      }
      move(here);
    }
  }
};

template <class S, int K, Access kAccess>
using Walk = WalkOver<TileAccess<S, K, kAccess>>;

}  // namespace mixnorm::cuda
