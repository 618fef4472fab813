// The block's shared memory behind its tiles, where threads meet.
#pragma once

#include "cuda/thread.cuh"

namespace mixnorm::cuda {

template <class T, int K>
struct Scratch {
  T* exchange;   // partial sums on their way from one warp to another
  T* nu;         // [group slot][K][tile position]
  T* dlogit;     // likewise
  T* masses;     // [warp][K]
  T* constants;  // [group slot][K] of the log-odds; the same of dnu; then warps' parts of them

  // tile_bytes: of all tensors of one tile.
  __device__ Scratch(unsigned char* shared, const Geometry& g, int tile_bytes) {
    const ScratchSizes sizes = scratch_sizes(g, K, kChannels<T, K>);
    exchange = reinterpret_cast<T*>(shared + opaque(g.slots) * tile_bytes);
    nu = exchange + sizes.exchange;
    dlogit = nu + sizes.weights;
    masses = dlogit + sizes.weights;
    constants = masses + sizes.masses;
  }

  // The exchange, for a merge.
  __device__ double* doubles() const { return reinterpret_cast<double*>(exchange); }
};

// The thread's positions of one row [tile position].
template <class Place, class T, int kHeld>
__device__ __forceinline__ void load_positions(const Place& place, const T* row, T (&out)[kHeld]) {
#pragma unroll
  for (int r = 0; r < kHeld; ++r) out[r] = row[place.position(r)];
}

}  // namespace mixnorm::cuda
