// The block's shared memory behind its tiles, where threads meet.
#pragma once

#include "cuda/geometry.h"

namespace mixnorm::cuda {

template <class T>
struct Scratch {
  T* exchange;   // partial sums on their way from one warp to another
  T* nu;         // [group slot][K][tile position]
  T* dlogit;     // likewise
  T* constants;  // [group slot][K] of the log-odds; the same of dnu; then warps' parts of them

  __device__ Scratch(unsigned char* start, const Geometry& g, int components) {
    const ScratchSizes sizes = scratch_sizes(g, components);
    exchange = reinterpret_cast<T*>(start);
    nu = exchange + sizes.exchange;
    dlogit = nu + sizes.weights;
    constants = dlogit + sizes.weights;
  }
};

// The thread's positions of one row [tile position].
template <class Place, class T, int kHeld>
__device__ __forceinline__ void load_positions(const Place& place, const T* row, T (&out)[kHeld]) {
#pragma unroll
  for (int r = 0; r < kHeld; ++r) out[r] = row[place.position(r)];
}

}  // namespace mixnorm::cuda
