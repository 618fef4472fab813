// Sums of weighted values over a block's positions: in registers along the sweep, then over lanes
// and warps in a fixed order into the block's own row of the workspace.
#pragma once

#include "cuda/merge.cuh"
#include "cuda/posterior.cuh"

namespace mixnorm::cuda {

// Of every component and owned channel: first = sum w a, second = sum w b.
template <class T, int K, int N>
struct Sums {
  T first[K][N] = {};
  T second[K][N] = {};

  template <int kHeld>
  __device__ __forceinline__ void add(int k, const T (&w)[kHeld], const T (&a)[N][kHeld],
                                      const T (&b)[N][kHeld]) {
#pragma unroll
    for (int c = 0; c < N; ++c) {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
        first[k][c] += w[r] * a[c][r];
        second[k][c] += w[r] * b[c][r];
      }
    }
  }
};

// To out [2 K][columns]: rows 2k and 2k + 1 are the component's first and second sums.
template <class T, int K, int N, class Place>
__device__ void store_sums(const Geometry& g, const Place& place, const Sums<T, K, N>& sums,
                           T* exchange, T* out) {
  const int group_lanes = g.channel_warps * g.channel_lanes;
  const int lanes = g.block_groups * group_lanes;
  const int mine = (place.group_slot * g.channel_warps + place.channel_warp) * g.channel_lanes +
                   place.channel_lane;
  const bool first_lane = place.lane / place.position_step % (32 / g.channel_lanes) == 0;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    Columns<T, N> first, second;
#pragma unroll
    for (int c = 0; c < N; ++c) {
      first.value[c] = lane_sum(sums.first[k][c], place.position_step, 32 / g.channel_lanes);
      second.value[c] = lane_sum(sums.second[k][c], place.position_step, 32 / g.channel_lanes);
    }
    // Two of them in turn: nobody overwrites what another warp still reads.
    auto* const parts =
        reinterpret_cast<Columns<T, N>*>(exchange) + k % 2 * g.position_warps * lanes * 2;
    if (first_lane) {
      parts[(place.position_warp * lanes + mine) * 2] = first;
      parts[(place.position_warp * lanes + mine) * 2 + 1] = second;
    }
    __syncthreads();
    if (first_lane && place.position_warp == 0 && place.group < g.groups) {
      for (int w = 1; w < g.position_warps; ++w) {
#pragma unroll
        for (int c = 0; c < N; ++c) {
          first.value[c] += parts[(w * lanes + mine) * 2].value[c];
          second.value[c] += parts[(w * lanes + mine) * 2 + 1].value[c];
        }
      }
      T* const row = out + int64_t(2 * k) * columns(g) + place.column;
      *reinterpret_cast<Columns<T, N>*>(row) = first;
      *reinterpret_cast<Columns<T, N>*>(row + columns(g)) = second;
    }
  }
}

// The warps' shares of a group's mass, parts [warp][K], to out [groups][K].
template <int K, class T, class Place>
__device__ void merge_masses(const Geometry& g, const Place& place, const T* parts, T* out) {
  __syncthreads();
  const int group_warps = g.channel_warps * g.position_warps;
  for (int k = place.rank; k < K; k += place.group_threads(g)) {
    T sum = 0;
    for (int w = 0; w < group_warps; ++w) {
      sum += parts[(place.group_slot * group_warps + w) * K + k];
    }
    if (place.group < g.groups) out[place.group * K + k] = sum;
  }
}

// Likewise from the threads' shares.
template <int K, class T, class Place>
__device__ void store_masses(const Geometry& g, const Place& place, const T (&mass)[K], T* parts,
                             T* out) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const T sum = lane_sum(mass[k], 1, 32);
    if (place.lane == 0) parts[place.warp * K + k] = sum;
  }
  merge_masses<K>(g, place, parts, out);
}

}  // namespace mixnorm::cuda
