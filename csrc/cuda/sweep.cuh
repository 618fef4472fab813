// The walk of a block over its tiles, with the next ones on their way.
#pragma once

#include "cuda/tile.cuh"

namespace mixnorm::cuda {

// Tiles [first, first + count) of a chunk, and where they stay. What fits its slots is loaded once
// and kept; the others ("overflow", the first ones) pass through a ring of kStages slots. Sweeps
// alternate in direction, so the next one finds in the ring the overflow tiles that it begins with:
// no slot is lost to the ring.
class Residency {
 public:
  __device__ Residency(const Geometry& g, int chunk) {
    first = g.tiles * chunk / g.chunks;
    count = static_cast<int>(g.tiles * (chunk + 1) / g.chunks - first);
    const bool fits = g.resident && count <= g.slots;
    ring_ = fits ? 0 : kStages;
    overflow_ = fits ? 0 : g.resident ? count - (g.slots - kStages) : count;
  }

  __device__ int slot(int tile) const {
    return tile < overflow_ ? tile % kStages : ring_ + tile - overflow_;
  }
  // loaded: there was a sweep before. up: this one's direction.
  __device__ bool must_load(int tile, bool loaded, bool up) const {
    if (!loaded) return true;
    return up ? kStages <= tile && tile < overflow_ : tile < overflow_ - kStages;
  }

  int64_t first;
  int count;

 private:
  int ring_, overflow_;
};

// The slot of a tile, and whether it has lain there since the sweep before.
struct TileSlot {
  int index;
  bool kept;
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

  // Calls body(slot, output, count, at) for every part of every tile: the thread's own slot
  // with what it has of the tensors, its place in `written`, how many positions exist from the
  // part's first, and the block's slot.
  template <int kTensors, class Body>
  __device__ void sweep(const Geometry& g, const Tensor (&tensors)[kTensors], const Tensor& written,
                        Body&& body) const {
    using Output = typename Tiles::Output;
    const int stage_bytes = kTensors * Tiles::slot_bytes();
    unsigned char* const own = slots + Tiles::own_slot(place, kTensors);
    const int count = residency.count;
    // Of the chunk's positions, those from a tile's first on.
    const int64_t first = residency.first * g.tile_positions;
    const int64_t rest = g.positions - first;
    const int64_t most = int64_t(count) * g.tile_positions;
    const int positions = static_cast<int>(rest < most ? rest : most);
    const auto positions_from = [&](int tile) { return positions - tile * g.tile_positions; };

    const Tensor outputs[] = {written};
    const typename Tiles::template Route<kTensors> in(g, tensors, up);
    const typename Tiles::template Route<1> out(g, outputs, up);
    // Results lie where the loads were some tiles ago.
    const int64_t behind = first + place.position(0) +
                           int64_t(up ? 1 - kStages : count + kStages - 2) * g.tile_positions;
    Spot<1> here = out.at(place, behind, 0);
    Spot<kTensors> ahead = in.at(place, behind, kStages - 1);
    for (int i = 0; i < count + kStages - 1; ++i) {
      const int tile = up ? i : count - 1 - i;
      if (i < count && residency.must_load(tile, loaded, up)) {
        Tiles::copy(place, in, ahead, positions_from(tile),
                    own + residency.slot(tile) * stage_bytes);
      }
      __pipeline_commit();  // also where nothing was copied: the wait below counts commits
      if (i >= kStages - 1) {
        __pipeline_wait_prior(kStages - 1);
        const int ready = up ? tile - (kStages - 1) : tile + (kStages - 1);
        const TileSlot at{residency.slot(ready), !residency.must_load(ready, loaded, up)};
        unsigned char* slot = own + at.index * stage_bytes;
        Output output{place, out, here, positions_from(ready)};
#pragma unroll 1
        for (int part = 0; part < Tiles::Place::kParts; ++part) {
          body(slot, output, output.count, at);
          slot += Tiles::kPartBytes;
          output.count -= place.part_step();
        }
      }
      in.next_tile(ahead);
      out.next_tile(here);
    }
  }
};

template <class S, int K, Access kAccess>
using Walk = WalkOver<TileAccess<S, K, kAccess>>;

}  // namespace mixnorm::cuda
