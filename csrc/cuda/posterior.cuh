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

// Likewise those of dnu, behind them: kRows rows from kFirst on.
template <int K, int kFirst, int kRows, class Place, class T>
__device__ void sum_gradient_constants(const Geometry& g, const Place& place, const T* table,
                                       const Scratch<T, K>& scratch) {
  if constexpr (K > 1) {
    sum_constants<K, kFirst, kRows>(g, place, table,
                                    scratch.constants + (2 + g.channel_warps) * K * g.block_groups,
                                    scratch.constants + K * g.block_groups);
  }
}

// Of dnu against component 0's.
template <int K, class Place, class T>
__device__ void sum_posterior_constants(const Geometry& g, const Place& place, const T* table,
                                        const Scratch<T, K>& scratch) {
  sum_gradient_constants<K, Row<K>::posterior_constant(1), K - 1>(g, place, table, scratch);
}

// Of dnu itself.
template <int K, class Place, class T>
__device__ void sum_moment_constants(const Geometry& g, const Place& place, const T* table,
                                     const Scratch<T, K>& scratch) {
  sum_gradient_constants<K, Row<K>::moment_constant(0), K>(g, place, table, scratch);
}

// Between rows of K [tile position]. Many leave no registers for their addresses: those are
// computed where they are used.
template <int K>
__device__ __forceinline__ int row_width(const Geometry& g) {
  return K > 2 ? opaque(g.tile_positions) : g.tile_positions;
}

// The exchange: [group slot][channel warp][32 positions][row][position of those], so that the rows
// of a position are at distances known to the compiler.
template <int kRows>
__device__ __forceinline__ int exchange_width(const Geometry& g) {
  return (g.tile_positions + 31) / 32 * 32 * kRows;
}
template <int kRows>
__device__ __forceinline__ int exchange_place(int p) {
  return p + p / 32 * 32 * (kRows - 1);
}

// Sums partial[row][r] over the lanes of a warp that share the position, and leaves them in the
// exchange. Ends with a barrier.
template <int kRows, class Place, class T, int kHeld>
__device__ __forceinline__ void exchange_positions(const Geometry& g, const Place& place,
                                                   T (&partial)[kRows][kHeld], T* exchange) {
  for (int offset = place.channel_step; offset < place.channel_step * g.channel_lanes;
       offset <<= 1) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
        partial[i][r] += __shfl_xor_sync(kFullWarp, partial[i][r], offset);
      }
    }
  }
  if (place.channel_lane == 0) {
    T* const own = exchange + (place.group_slot * g.channel_warps + place.channel_warp) *
                                  exchange_width<kRows>(g);
    if constexpr (Place::kTogether) {
      T* const to = own + exchange_place<kRows>(place.position(0));
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        Columns<T, kHeld> together;
#pragma unroll
        for (int r = 0; r < kHeld; ++r) together.value[r] = partial[i][r];
        *reinterpret_cast<Columns<T, kHeld>*>(to + 32 * i) = together;
      }
    } else {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
        T* const to = own + exchange_place<kRows>(place.position(r));
#pragma unroll
        for (int i = 0; i < kRows; ++i) to[32 * i] = partial[i][r];
      }
    }
  }
  __syncthreads();
}

// The sums over the group's channels, of position p.
template <int kRows, class Place, class T>
__device__ __forceinline__ void exchanged(const Geometry& g, const Place& place, const T* exchange,
                                          int p, T (&sums)[kRows]) {
  const int width = exchange_width<kRows>(g);
  const T* from = exchange + place.group_slot * g.channel_warps * width + exchange_place<kRows>(p);
#pragma unroll
  for (int i = 0; i < kRows; ++i) sums[i] = from[32 * i];
#pragma unroll 1
  for (int w = 1; w < g.channel_warps; ++w) {
    from += width;
#pragma unroll
    for (int i = 0; i < kRows; ++i) sums[i] += from[32 * i];
  }
}

// From log-odds to responsibilities, in place. A component without weight (padding) has log-odds of
// -infinity and gets exactly 0.
template <int K, class T>
__device__ __forceinline__ void softmax(T (&values)[K]) {
  T top = values[0];
#pragma unroll
  for (int k = 1; k < K; ++k) top = fmax(top, values[k]);
  T total = 0;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    values[k] = device::exponential_below(values[k], top);
    total += values[k];
  }
  const T inverse = device::reciprocal(total);
#pragma unroll
  for (int k = 0; k < K; ++k) values[k] *= inverse;
}

// The thread's parts of the log-odds, without their constants. Rows of `odds` are Row<K>::quadratic
// and linear.
template <int K, class T, int N, int kHeld, class Odds, int kCount>
__device__ __forceinline__ void add_log_odds(const T (&x)[N][kHeld], const Odds& odds,
                                             T (&partial)[kCount][kHeld]) {
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
}

// nu of one position from its log-odds, the first of `sums`.
template <int K, class Place, class T, int kRows>
__device__ __forceinline__ void position_responsibilities(const Geometry& g, const Place& place,
                                                          const T (&sums)[kRows],
                                                          const Scratch<T, K>& scratch,
                                                          T (&nu)[K]) {
  const T* const constants = scratch.constants + place.group_slot * K;
  nu[0] = 0;
#pragma unroll
  for (int k = 1; k < K; ++k) nu[k] = sums[k - 1] + constants[k - 1];
  softmax<K>(nu);
  if (g.components == 1) {
    // In a kernel for more: what is not finite in one channel must not reach the others.
#pragma unroll
    for (int k = 0; k < K; ++k) nu[k] = k == 0 ? T(1) : T(0);
  }
}

// Leaves the tile's nu [group slot][K][tile position] in shared memory, 0 outside the tensor; adds
// it to the thread's share of `mass` unless that is null. Ends with a barrier.
template <int K, class Place, class T, int N, int kHeld, class Odds>
__device__ __forceinline__ void responsibilities(const Geometry& g, const Place& place,
                                                 const T (&x)[N][kHeld], const Odds& odds,
                                                 int count, const Scratch<T, K>& scratch,
                                                 T* tile_nu, T* mass) {
  static_assert(K > 1, "a single component's are 1");
  T partial[K - 1][kHeld] = {};
  add_log_odds<K>(x, odds, partial);
  exchange_positions(g, place, partial, scratch.exchange);
  for (int p = place.rank; p < g.tile_positions; p += place.group_threads(g)) {
    T sums[K - 1], nu[K];
    exchanged(g, place, scratch.exchange, p, sums);
    position_responsibilities(g, place, sums, scratch, nu);
    T* const out = tile_nu + place.group_slot * K * g.tile_positions + p;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const T value = p < count ? nu[k] : T(0);
      out[k * g.tile_positions] = value;
      if (mass != nullptr) mass[k] += value;
    }
  }
  __syncthreads();
}

// Component k's row of nu or dlogit.
template <int K, class Place, class T>
__device__ __forceinline__ const T* row_of(const Geometry& g, const Place& place, const T* rows,
                                           int k) {
  return rows + (place.group_slot * K + k) * row_width<K>(g);
}

// nu of component k at the thread's positions.
template <int K, class Place, class T, int kHeld>
__device__ __forceinline__ void load_responsibility(const Geometry& g, const Place& place, int k,
                                                    int count, const T* nu, T (&out)[kHeld]) {
  if constexpr (K == 1) {
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      out[r] = place.position(r) < count ? T(1) : T(0);
    }
  } else {
    load_positions(place, row_of<K>(g, place, nu, k), out);
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
