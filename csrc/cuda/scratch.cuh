// The block's shared memory behind its tiles, where threads meet.
#pragma once

#include "cuda/tables.cuh"

namespace mixnorm::cuda {

template <class T, int K>
struct Scratch {
  T* exchange;   // partial sums on their way from one warp to another
  T* dlogit;     // [group slot][K][tile position]
  T* masses;     // [warp][K]
  T* constants;  // [group slot][K] of the log-odds; the same of dnu; then warps' parts of them
  T* nu;         // as dlogit; of matrix products, else of the first slot (nu_of)

  // tile_bytes: of all tensors of one tile.
  __device__ Scratch(unsigned char* shared, const Geometry& g, int tile_bytes) {
    // Opaque: computed again in every step, not kept beside it.
    const ScratchSizes sizes = scratch_sizes(g, opaque(K), kChannels<T, K>);
    exchange = reinterpret_cast<T*>(shared + opaque(g.slots) * tile_bytes);
    dlogit = exchange + sizes.exchange;
    masses = dlogit + sizes.dlogit;
    constants = masses + sizes.masses;
    nu = exchange + sizes.total();
  }

  // Of the tile in a slot: it stays as long as the tile does.
  __device__ T* nu_of(const Geometry& g, int slot) const {
    return nu + slot * static_cast<int>(weights_size(g, opaque(K)));
  }

  // The exchange, for a merge.
  __device__ double* doubles() const { return reinterpret_cast<double*>(exchange); }
};

// The thread's positions of one row [tile position], as one access where they lie together.
template <class Place, class T, int kHeld>
__device__ __forceinline__ void load_positions(const Place& place, const T* row, T (&out)[kHeld]) {
  if constexpr (Place::kTogether) {
    const auto values = *reinterpret_cast<const Columns<T, kHeld>*>(row + place.position(0));
#pragma unroll
    for (int r = 0; r < kHeld; ++r) out[r] = values.value[r];
  } else {
#pragma unroll
    for (int r = 0; r < kHeld; ++r) out[r] = row[place.position(r)];
  }
}

template <class Place, class T, int kHeld>
__device__ __forceinline__ void store_positions(const Place& place, const T (&values)[kHeld],
                                                T* row) {
  if constexpr (Place::kTogether) {
    Columns<T, kHeld> together;
#pragma unroll
    for (int r = 0; r < kHeld; ++r) together.value[r] = values[r];
    *reinterpret_cast<Columns<T, kHeld>*>(row + place.position(0)) = together;
  } else {
#pragma unroll
    for (int r = 0; r < kHeld; ++r) row[place.position(r)] = values[r];
  }
}

}  // namespace mixnorm::cuda
