// E-step of a tile: responsibilities from the log-odds against component 0, a quadratic in the
// centred x' = x - shift of every channel. Threads hold parts of a position's channels, so the
// log-odds meet in shared memory and the responsibilities come back from there.
#pragma once

#include "cuda/scratch.cuh"
#include "cuda/sweep.cuh"
#include "cuda/tables.cuh"
#include "device/exponential.h"

namespace mixnorm::cuda {

// constants[group slot][i] = the sum of rows kFirst + i over the group's channels, once the block
// has met at another barrier.
template <int K, int kFirst, int kRows, class Place, class T>
__device__ void sum_constants(const Geometry& g, const Place& place, const T* table, T* parts,
                              T* constants) {
  const Coefficients<T, K, kFirst, kRows, false, Place::kOwned> rows(table, place.column);
#pragma unroll 1
  for (int i = 0; i < kRows; ++i) {
    const auto row = rows.row(kFirst + i);
    T sum = row.value[0];
#pragma unroll
    for (int c = 1; c < rows.N; ++c) sum += row.value[c];
    sum = lane_sum(sum, place.channel_step, g.channel_lanes);
    if (place.position_lane == 0 && place.channel_lane == 0) {
      parts[(place.group_slot * kRows + i) * g.channel_warps + place.channel_warp] = sum;
    }
  }
  __syncthreads();
  for (int i = place.rank; i < kRows; i += place.group_threads(g)) {
    const T* const from = parts + (place.group_slot * kRows + i) * g.channel_warps;
    T sum = from[0];
    for (int w = 1; w < g.channel_warps; ++w) sum += from[w];
    constants[place.group_slot * K + i] = sum;
  }
}

// The log-odds' constants of the block's groups, to scratch.constants [group slot][K].
template <int K, class Place, class T>
__device__ void sum_odds_constants(const Geometry& g, const Place& place, const T* table,
                                   const Scratch<T, K>& scratch) {
  if constexpr (K > 1) {
    sum_constants<K, Row<K>::odds(1), K - 1>(
        g, place, table, scratch.constants + 2 * K * g.block_groups, scratch.constants);
  }
}

// Likewise those of dnu, behind them.
template <int K, class Place, class T>
__device__ void sum_moment_constants(const Geometry& g, const Place& place, const T* table,
                                     const Scratch<T, K>& scratch) {
  if constexpr (K > 1) {
    sum_constants<K, Row<K>::moment_constant(0), K>(
        g, place, table, scratch.constants + (2 + g.channel_warps) * K * g.block_groups,
        scratch.constants + K * g.block_groups);
  }
}

// Between rows of K [tile position]. Many leave no registers for their addresses: those are
// computed where they are used.
template <int K>
__device__ __forceinline__ int row_width(const Geometry& g) {
  return K > 4 ? opaque(g.tile_positions) : g.tile_positions;
}

// Sums partial[k][r] over the lanes of a warp that share the position, and leaves one row of the
// exchange for every warp: [group slot][k][channel warp][tile position]. Ends with a barrier.
template <int kCount, class Place, class T, int kHeld>
__device__ __forceinline__ void exchange_positions(const Geometry& g, const Place& place,
                                                   T (&partial)[kCount][kHeld], T* exchange) {
  for (int offset = place.channel_step; offset < place.channel_step * g.channel_lanes;
       offset <<= 1) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
        partial[k][r] += __shfl_xor_sync(kFullWarp, partial[k][r], offset);
      }
    }
  }
  if (place.channel_lane == 0) {
    const int width = row_width<kCount>(g);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      T* const row =
          exchange +
          ((place.group_slot * kCount + k) * g.channel_warps + place.channel_warp) * width;
      store_positions(place, partial[k], row);
    }
  }
  __syncthreads();
}

template <int K, class T>
__device__ __forceinline__ T exchanged(const Geometry& g, const T* exchange, int row, int p) {
  const T* const from = exchange + row * g.channel_warps * g.tile_positions + p;
  T sum = from[0];
  // Many components have no registers for several loads at once.
  [[maybe_unused]] constexpr int kUnroll = K > 4 ? 1 : 4;
#pragma unroll kUnroll
  for (int w = 1; w < g.channel_warps; ++w) sum += from[w * g.tile_positions];
  return sum;
}

// From log-odds to responsibilities, in place. A component without weight (padding) has log-odds of
// -infinity and gets exactly 0.
template <int K, class T>
__device__ __forceinline__ void softmax(T (&values)[K]) {
  T top = values[0];
#pragma unroll
  for (int k = 1; k < K; ++k) top = values[k] > top ? values[k] : top;
  T total = 0;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    values[k] = device::exponential(values[k] - top);
    total += values[k];
  }
  const T inverse = T(1) / total;
#pragma unroll
  for (int k = 0; k < K; ++k) values[k] *= inverse;
}

// Leaves nu [group slot][K][tile position] in shared memory, 0 outside the tensor; adds it to the
// thread's share of `mass` unless that is null. Rows of `odds` are Row<K>::quadratic and linear.
// Ends with a barrier.
template <int K, class Place, class T, int N, int kHeld, class Odds>
__device__ __forceinline__ void responsibilities(const Geometry& g, const Place& place,
                                                 const T (&x)[N][kHeld], const Odds& odds,
                                                 int64_t position, const Scratch<T, K>& scratch,
                                                 T* mass) {
  static_assert(K > 1, "a single component's are 1");
  T partial[K - 1][kHeld] = {};
#pragma unroll
  for (int k = 1; k < K; ++k) {
    const auto quadratic = odds.row(Row<K>::quadratic(k)), linear = odds.row(Row<K>::linear(k));
#pragma unroll
    for (int c = 0; c < N; ++c) {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
        partial[k - 1][r] += x[c][r] * (quadratic.value[c] * x[c][r] + linear.value[c]);
      }
    }
  }
  exchange_positions(g, place, partial, scratch.exchange);
  const T* const constants = scratch.constants + place.group_slot * K;
  for (int p = place.rank; p < g.tile_positions; p += place.group_threads(g)) {
    T nu[K];
    nu[0] = 0;
#pragma unroll
    for (int k = 1; k < K; ++k) {
      nu[k] = exchanged<K>(g, scratch.exchange, place.group_slot * (K - 1) + k - 1, p) +
              constants[k - 1];
    }
    softmax<K>(nu);
    if (g.components == 1) {
      // In a kernel for more: what is not finite in one channel must not reach the others.
#pragma unroll
      for (int k = 0; k < K; ++k) nu[k] = k == 0 ? T(1) : T(0);
    }
    const bool inside = position + p < g.positions;
    T* const out = scratch.nu + place.group_slot * K * g.tile_positions + p;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const T value = inside ? nu[k] : T(0);
      out[k * g.tile_positions] = value;
      if (mass != nullptr) mass[k] += value;
    }
  }
  __syncthreads();
}

// nu of component k at the thread's positions.
template <int K, class Place, class T, int kHeld>
__device__ __forceinline__ void load_responsibility(const Geometry& g, const Place& place, int k,
                                                    int64_t position, const T* nu,
                                                    T (&out)[kHeld]) {
  if constexpr (K == 1) {
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      out[r] = position + place.position(r) < g.positions ? T(1) : T(0);
    }
  } else {
    load_positions(place, nu + (place.group_slot * K + k) * row_width<K>(g), out);
  }
}

// x' = x - shift.
template <class T, int N, int kHeld>
__device__ __forceinline__ void centre(T (&x)[N][kHeld], const Columns<T, N>& shift) {
#pragma unroll
  for (int c = 0; c < N; ++c) {
#pragma unroll
    for (int r = 0; r < kHeld; ++r) x[c][r] -= shift.value[c];
  }
}

}  // namespace mixnorm::cuda
