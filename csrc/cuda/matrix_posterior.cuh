// E-step of a tile by matrix products. A product adds up 4 channels, of a warp's lanes, of two
// features each (x' and x'^2 for the log-odds) for 16 positions and 8 components. A lane gets
// positions of its own and two components; warps of other channels meet in shared memory.
#pragma once

#include "cuda/matrix_tile.cuh"
#include "cuda/posterior.cuh"

namespace mixnorm::cuda {

static_assert(kMatrixChannels == 4 && kMatrixPositions == 4 && kMatrixLanes == 4,
              "what the layouts below are made of");

// Two positions' two features of one channel, the left operand.
__device__ __forceinline__ MatrixA features(float first, float next_first, float second,
                                            float next_second) {
  MatrixA a;
  a.set(0, first);
  a.set(1, next_first);
  a.set(2, second);
  a.set(3, next_second);
  return a;
}

// Two rows of the table for every component, the right operands of such features: of the first and
// of the second. A negative row stands for zeros.
template <int K>
class FeatureRows {
 public:
  template <class First, class Second>
  __device__ FeatureRows(const float* table, const MatrixThread& place, First first,
                         Second second) {
    const Coefficients<float, K, 0, Row<K>::kCount, false, kMatrixChannels> rows(
        table, opaque(place.column));
#pragma unroll
    for (int block = 0; block < kMatrixBlocks<K>; ++block) {
      const int k = 8 * block + place.m();
      read(rows, first(k), value_[block][0]);
      read(rows, second(k), value_[block][1]);
    }
  }

  // Of the thread's channel c.
  __device__ __forceinline__ MatrixB operand(int block, int c) const {
    MatrixB b;
    b.set(0, value_[block][0][c]);
    b.set(1, value_[block][1][c]);
    return b;
  }

 private:
  template <class Rows>
  __device__ static void read(const Rows& rows, int row, float (&out)[kMatrixChannels]) {
    const auto values = rows.row(row < 0 ? 0 : row);
#pragma unroll
    for (int c = 0; c < kMatrixChannels; ++c) out[c] = row < 0 ? 0.0f : values.value[c];
  }

  float value_[kMatrixBlocks<K>][2][kMatrixChannels];
};

// Of the log-odds: linear and quadratic. Component 0's are zeros.
template <int K>
__device__ __forceinline__ FeatureRows<K> odds_rows(const float* table, const MatrixThread& place) {
  return FeatureRows<K>(
      table, place, [](int k) { return k == 0 ? -1 : Row<K>::linear(k); },
      [](int k) { return k == 0 ? -1 : Row<K>::quadratic(k); });
}

// Log-odds of the thread's positions 2 pair and 2 pair + 1, summed over the warp's channels.
template <int K>
__device__ __forceinline__ void add_log_odds(const float (&x)[kMatrixChannels][kMatrixPositions],
                                             const FeatureRows<K>& rows,
                                             MatrixSum (&sums)[2][kMatrixBlocks<K>]) {
#pragma unroll
  for (int c = 0; c < kMatrixChannels; ++c) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const float a = x[c][2 * pair], b = x[c][2 * pair + 1];
      const MatrixA operand = features(a, b, a * a, b * b);
#pragma unroll
      for (int block = 0; block < kMatrixBlocks<K>; ++block) {
        sums[pair][block].add(operand, rows.operand(block, c));
      }
    }
  }
}

// Leaves the sums of both pairs in the exchange, a row of 8 components for every block of them and
// channel warp: [group slot][block][channel warp][tile position pair][pair of components][position]
// [component]. Ends with a barrier.
template <int kBlocks>
__device__ __forceinline__ void exchange_products(const Geometry& g, const MatrixThread& place,
                                                  const MatrixSum (&sums)[2][kBlocks],
                                                  float* exchange) {
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    float* const row =
        exchange + ((place.group_slot * kBlocks + block) * g.channel_warps + place.channel_warp) *
                       8 * opaque(g.tile_positions);
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      Columns<float, 4> values;
#pragma unroll
      for (int e = 0; e < 4; ++e) values.value[e] = sums[pair][block][e];
      *reinterpret_cast<Columns<float, 4>*>(
          row + ((place.position_warp * 2 + pair) * 32 + opaque(place.lane)) * 4) = values;
    }
  }
  __syncthreads();
}

// A position of the tile and, by the lane, a pair of components in each block of them: 2 i and
// 2 i + 1. Units of work on what was exchanged.
struct PositionPair {
  int place;     // in a row of the exchange
  int position;  // of the tile

  __device__ explicit PositionPair(int unit)
      : place(unit / 8 * 16 + unit % 4 * 4 + unit / 4 % 2 * 2) {
    const int pair = unit / 8;  // of positions, as they are exchanged
    position = (pair / 16 * 8 + pair % 8) * 4 + pair / 8 % 2 * 2 + unit / 4 % 2;
  }
};

// Calls f(PositionPair) for all of the tile. Four neighbouring lanes have a position, and warps are
// in it as a whole.
template <class F>
__device__ __forceinline__ void for_position_pairs(const Geometry& g, const MatrixThread& place,
                                                   F&& f) {
  for (int unit = place.rank; unit < 4 * g.tile_positions; unit += place.group_threads(g)) {
    f(PositionPair(unit));
  }
}

// Sums over the channel warps, of the first blocks of kBlocks that were exchanged.
template <int kBlocks, int kCount>
__device__ __forceinline__ void exchanged_pairs(const Geometry& g, const MatrixThread& place,
                                                const float* exchange, const PositionPair& at,
                                                float (&out)[kCount][2]) {
  const int width = 8 * opaque(g.tile_positions);
  const float* from = exchange + place.group_slot * kBlocks * g.channel_warps * width + at.place;
#pragma unroll
  for (int block = 0; block < kCount; ++block) out[block][0] = out[block][1] = 0;
#pragma unroll 1
  for (int w = 0; w < g.channel_warps; ++w, from += width) {
#pragma unroll
    for (int block = 0; block < kCount; ++block) {
      const auto part =
          *reinterpret_cast<const Columns<float, 2>*>(from + block * g.channel_warps * width);
      out[block][0] += part.value[0];
      out[block][1] += part.value[1];
    }
  }
}

// Over the four lanes of a position.
template <int kBlocks>
__device__ __forceinline__ float sum_over_components(const float (&values)[kBlocks][2]) {
  float sum = 0;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) sum += values[block][0] + values[block][1];
  return lane_sum(sum, 1, 4);
}

// From log-odds to responsibilities, in place.
template <int kBlocks>
__device__ __forceinline__ void softmax_over_components(float (&values)[kBlocks][2]) {
  float top = values[0][0];
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    top = values[block][0] > top ? values[block][0] : top;
    top = values[block][1] > top ? values[block][1] : top;
  }
#pragma unroll
  for (int offset = 1; offset < 4; offset *= 2) {
    const float other = __shfl_xor_sync(kFullWarp, top, offset);
    top = other > top ? other : top;
  }
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    values[block][0] = device::exponential(values[block][0] - top);
    values[block][1] = device::exponential(values[block][1] - top);
  }
  const float inverse = device::reciprocal(sum_over_components(values));
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    values[block][0] *= inverse;
    values[block][1] *= inverse;
  }
}

// nu of a position's pairs, from the log-odds that were exchanged as the first of kBlocks blocks.
template <int K, int kBlocks = kMatrixBlocks<K>>
__device__ __forceinline__ void exchanged_responsibilities(const Geometry& g,
                                                           const MatrixThread& place,
                                                           const Scratch<float, K>& scratch,
                                                           const PositionPair& at,
                                                           float (&nu)[kMatrixBlocks<K>][2]) {
  exchanged_pairs<kBlocks>(g, place, scratch.exchange, at, nu);
#pragma unroll
  for (int block = 0; block < kMatrixBlocks<K>; ++block) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int k = 8 * block + 2 * place.i() + e;
      if (k > 0) nu[block][e] += scratch.constants[place.group_slot * K + k - 1];
    }
  }
  softmax_over_components(nu);
}

// To scratch.nu or the like; 0 outside the tensor.
template <int K>
__device__ __forceinline__ void store_weights(const Geometry& g, const MatrixThread& place,
                                              const PositionPair& at, bool inside, float* weights,
                                              float (&values)[kMatrixBlocks<K>][2]) {
#pragma unroll
  for (int block = 0; block < kMatrixBlocks<K>; ++block) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int row = place.group_slot * K + 8 * block + 2 * place.i() + e;
      if (!inside) values[block][e] = 0;
      weights[weight_place(g, row, at.position / 4) + at.position % 4] = values[block][e];
    }
  }
}

// Leaves nu in shared memory; adds it to the thread's share of `mass` unless that is null: [.][e]
// of component 2 i + e of each block. Ends with a barrier.
template <int K>
__device__ __forceinline__ void matrix_responsibilities(
    const Geometry& g, const MatrixThread& place,
    const float (&x)[kMatrixChannels][kMatrixPositions], const float* table, int count,
    const Scratch<float, K>& scratch, float (*mass)[2]) {
  {
    MatrixSum sums[2][kMatrixBlocks<K>];
    add_log_odds<K>(x, odds_rows<K>(table, place), sums);
    exchange_products(g, place, sums, scratch.exchange);
  }
  for_position_pairs(g, place, [&](const PositionPair& at) {
    float nu[kMatrixBlocks<K>][2];
    exchanged_responsibilities<K>(g, place, scratch, at, nu);
    store_weights<K>(g, place, at, at.position < count, scratch.nu, nu);
#pragma unroll
    for (int block = 0; mass != nullptr && block < kMatrixBlocks<K>; ++block) {
      mass[block][0] += nu[block][0];
      mass[block][1] += nu[block][1];
    }
  });
  __syncthreads();
}

}  // namespace mixnorm::cuda
