// The backward's sweeps by matrix products. dnu is a sum over channels of the features dy x' and
// dy, x' and x'^2, of which the second two are the log-odds' too: both are made and exchanged at
// once.
#pragma once

#include "cuda/gradients.cuh"
#include "cuda/matrix_sums.cuh"

namespace mixnorm::cuda {

// For one phase of a tile: what follows from it is computed there, not kept in registers.
__device__ __forceinline__ MatrixThread opaque(MatrixThread place) {
  place.lane = opaque(place.lane);
  place.column = opaque(place.column);
  place.channel_lane = opaque(place.channel_lane);
  place.position_lane = opaque(place.position_lane);
  return place;
}

template <class S, int K, Access kAccess>
__device__ void sum_matrix_output_gradients(const Geometry& g,
                                            const GradientTensors<float>& tensors,
                                            const float* table, const Partials<float>& partials,
                                            const Scratch<float, K>& scratch, unsigned char* slots,
                                            int sweep) {
  using Tiles = MatrixTiles<S, kAccess>;
  const WalkOver<Tiles> walk(g, slots, sweep);
  sum_odds_constants<K>(g, walk.place, table, scratch);
  MatrixSums<K> sums;
  const Tensor walked[] = {tensors.x, tensors.dy};
  walk.sweep(g, walked, Tensor{}, [&](unsigned char* slot, auto&, int count, TileSlot) {
    {
      const MatrixThread place = opaque(walk.place);
      float x[kMatrixChannels][kMatrixPositions];
      Tiles::read(slot, 0, x);
      centre(x, load_shift<K, kMatrixChannels>(table, place.column));
      matrix_responsibilities<K>(g, place, x, table, count, scratch, nullptr);
    }
    const MatrixThread place = opaque(walk.place);
    float dy[2][2][4], products[2][2][4];
    Tiles::read_summed(slot, 0, place, products);
    Tiles::read_summed(slot, 1, place, dy);
    const auto shift = load_shift<K, 2>(table, place.summed_column());
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int v = 0; v < 8; ++v) {
        float& value = products[c][v / 4][v % 4];
        value = (value - shift.value[c]) * dy[c][v / 4][v % 4];
      }
      sums.add(g, place, c, scratch.nu, dy[c], products[c]);
    }
  });
  store_matrix_sums<K>(g, walk.place, sums, scratch.exchange,
                       partials.sums + int64_t(walk.chunk) * 2 * K * columns(g));
}

// Of the thread's tile, 2 of the 4 elements of a chunk: its `part`. Chunks are `first` and next.
template <class S, int kCount>
__device__ __forceinline__ void read_parts(const unsigned char* slot, int first, int part,
                                           float (&out)[kCount][2]) {
  const auto* const chunks = reinterpret_cast<const raw_t<S, 4>*>(slot);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const auto* const halves = reinterpret_cast<const raw_t<S, 2>*>(chunks + (first + i) * 32);
    unpack<S, 2>(halves[part], out[i]);
  }
}

// Channels 2 half and 2 half + 1 of the positions 2 pair and 2 pair + 1.
template <class S, Access kAccess>
__device__ __forceinline__ void read_quarter(const unsigned char* slot, int half, int pair,
                                             float (&x)[2][2]) {
  if constexpr (kAccess == Access::kPositions) {
    read_parts<S>(slot, 2 * half, pair, x);
  } else {
    float across[2][2];
    read_parts<S>(slot, 2 * pair, half, across);
#pragma unroll
    for (int v = 0; v < 4; ++v) x[v / 2][v % 2] = across[v % 2][v / 2];
  }
}

// Those channels of all positions.
template <class S, Access kAccess>
__device__ __forceinline__ void read_half(const unsigned char* slot, int half,
                                          float (&x)[2][kMatrixPositions]) {
  if constexpr (kAccess == Access::kPositions) {
    const auto* const chunks = reinterpret_cast<const raw_t<S, 4>*>(slot);
#pragma unroll
    for (int c = 0; c < 2; ++c) unpack<S, 4>(chunks[(2 * half + c) * 32], x[c]);
  } else {
    float across[kMatrixPositions][2];
    read_parts<S>(slot, 0, half, across);
#pragma unroll
    for (int v = 0; v < 8; ++v) x[v / 4][v % 4] = across[v % 4][v / 4];
  }
}

// Two rows of the table for component k as right operands of two features, of the thread's channels
// c and c + 1.
template <int K>
struct FeaturePair {
  MatrixB operand[2];

  __device__ __forceinline__ FeaturePair(const float* table, const MatrixThread& place, int c,
                                         int first, int second, bool zero = false) {
    const Coefficients<float, K, 0, Row<K>::kCount, false, 2> rows(table, place.column + c);
    const auto a = rows.row(first), b = rows.row(second);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      operand[i].set(0, zero ? 0.0f : a.value[i]);
      operand[i].set(1, zero ? 0.0f : b.value[i]);
    }
  }
};

// Leaves a block's sums in the exchange, where exchange_products would.
template <int kBlocks>
__device__ __forceinline__ void store_products(const Geometry& g, const MatrixThread& place,
                                               const MatrixSum (&sums)[2], int block,
                                               float* exchange) {
  const int row = (place.group_slot * kBlocks + block) * g.channel_warps + place.channel_warp;
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    Columns<float, 4> values;
#pragma unroll
    for (int e = 0; e < 4; ++e) values.value[e] = sums[pair][e];
    float* const to = exchange + row * 8 * g.tile_positions +
                      ((place.position_warp * 2 + pair) * 32 + place.lane) * 4;
    *reinterpret_cast<Columns<float, 4>*>(to) = values;
  }
}

// Leaves log-odds and, where wanted, dnu in the exchange, as its first and second K / 8 blocks.
// Loops are not unrolled: operands of more than two channels and eight components have no
// registers. Ends with a barrier.
template <class S, int K, Access kAccess>
__device__ __forceinline__ void exchange_logits(const Geometry& g, const MatrixThread& place,
                                                const float* table, const unsigned char* slot,
                                                bool with_dnu, float* exchange) {
  constexpr int kBlocks = kMatrixBlocks<K>;
#pragma unroll 1
  for (int block = 0; block < kBlocks; ++block) {
    MatrixSum odds[2], dnu[2];  // of pairs of positions
    const int k = 8 * block + place.m(), some = k == 0 ? 1 : k;
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      const int c = 2 * half;
      const auto shift = load_shift<K, 2>(table, place.column + c);
      const FeaturePair<K> logit(table, place, c, Row<K>::linear(some), Row<K>::quadratic(some),
                                 k == 0);
      const FeaturePair<K> moment(table, place, c, Row<K>::moment_linear(k),
                                  Row<K>::moment_quadratic(k));
      const FeaturePair<K> output(table, place, c, Row<K>::scale(k), Row<K>::offset(k));
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        float x[2][2], dy[2][2];
        read_quarter<S, kAccess>(slot, half, pair, x);
        read_quarter<S, kAccess>(slot + MatrixTiles<S, kAccess>::kWarpBytes, half, pair, dy);
        centre(x, shift);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float a = x[i][0], b = x[i][1];
          const MatrixA input = features(a, b, a * a, b * b);
          odds[pair].add(input, logit.operand[i]);
          if (!with_dnu) continue;
          dnu[pair].add(input, moment.operand[i]);
          dnu[pair].add(features(dy[i][0] * a, dy[i][1] * b, dy[i][0], dy[i][1]),
                        output.operand[i]);
        }
      }
    }
    store_products<2 * kBlocks>(g, place, odds, block, exchange);
    if (with_dnu) store_products<2 * kBlocks>(g, place, dnu, kBlocks + block, exchange);
  }
  __syncthreads();
}

// From what was exchanged to nu and, where wanted, dlogit = nu (dnu - sum_j nu_j dnu_j), both 0
// outside the tensor. Component 0's dlogit is left out, as its log-odds are: they have no slope.
// Ends with a barrier.
template <int K>
__device__ __forceinline__ void exchanged_weights(const Geometry& g, const MatrixThread& place,
                                                  int count, bool with_dlogit,
                                                  const Scratch<float, K>& scratch) {
  constexpr int kBlocks = kMatrixBlocks<K>;
  const float* const constants = scratch.constants + (g.block_groups + place.group_slot) * K;
  for_position_pairs(g, place, [&](const PositionPair& at) {
    const bool inside = at.position < count;
    float nu[kBlocks][2];
    exchanged_responsibilities<K, 2 * kBlocks>(g, place, scratch, at, nu);
    store_weights<K>(g, place, at, inside, scratch.nu, nu);
    if (!with_dlogit) return;
    float dnu[kBlocks][2], products[kBlocks][2];
    exchanged_pairs<2 * kBlocks>(
        g, place, scratch.exchange + K * g.channel_warps * g.tile_positions, at, dnu);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        dnu[block][e] += constants[8 * block + 2 * place.i() + e];
        products[block][e] = nu[block][e] * dnu[block][e];
      }
    }
    const float average = sum_over_components(products);
#pragma unroll
    for (int v = 0; v < 2 * kBlocks; ++v) {
      dnu[v / 2][v % 2] = nu[v / 2][v % 2] * (dnu[v / 2][v % 2] - average);
    }
    if (place.i() == 0) dnu[0][0] = 0;
    store_weights<K>(g, place, at, inside, scratch.dlogit, dnu);
  });
  __syncthreads();
}

// Sums over components for the thread's channels 2 half and 2 half + 1: of weights (nu, dlogit)
// times rows of the table.
template <int K>
class MixedSums {
 public:
  MatrixShortSum scale[2], quadratic[2], linear[2];  // of pairs of positions

  __device__ __forceinline__ MixedSums(const Geometry& g, const MatrixThread& place,
                                       const float* table, int half, bool through_posterior,
                                       const Scratch<float, K>& scratch) {
    const int channel = place.m() / 2 * 4 + 2 * half + place.m() % 2;  // of the warp's
    const float* const start =
        column_start<K>(table, place.column - kMatrixChannels * place.i() + channel);
#pragma unroll 1
    for (int block = 0; block < kMatrixBlocks<K>; ++block) {
      const int k = 8 * block + place.i(), some = k == 0 ? 1 : k;
      const auto rows = [&](int first, int second) {
        MatrixB operand;
        operand.set(0, start[first * kChannels<float, K>]);
        operand.set(1, start[second * kChannels<float, K>]);
        return operand;
      };
      {
        const Weights nu(g, place, scratch.nu, k);
        add(scale, nu, rows(Row<K>::scale(k), Row<K>::scale(k + 4)));
        add(quadratic, nu, rows(Row<K>::moment_quadratic(k), Row<K>::moment_quadratic(k + 4)));
        add(linear, nu, rows(Row<K>::moment_linear(k), Row<K>::moment_linear(k + 4)));
      }
      if (!through_posterior) continue;
      const Weights dlogit(g, place, scratch.dlogit, k);
      // Component 0's are zeros, whatever row they meet.
      add(quadratic, dlogit, rows(Row<K>::quadratic(some), Row<K>::quadratic(k + 4)));
      add(linear, dlogit, rows(Row<K>::linear(some), Row<K>::linear(k + 4)));
    }
  }

 private:
  // Of the components k and k + 4 at pairs of the thread's positions.
  struct Weights {
    MatrixA operand[2];

    __device__ __forceinline__ Weights(const Geometry& g, const MatrixThread& place,
                                       const float* weights, int k) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float values[kMatrixPositions];
        load_weights<K>(g, place, weights, k + 4 * h, place.position_lane, values);
#pragma unroll
        for (int r = 0; r < kMatrixPositions; ++r) operand[r / 2].set(2 * h + r % 2, values[r]);
      }
    }
  };

  __device__ static __forceinline__ void add(MatrixShortSum (&sums)[2], const Weights& weights,
                                             const MatrixB& rows) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) sums[pair].add(weights.operand[pair], rows);
  }
};

// dx = dy sum nu scale + 2 x' sum (nu b + dlogit quadratic) + sum (nu a + dlogit linear), as
// differentiate_input.
template <class S, int K, Access kAccess>
__device__ void differentiate_by_products(const Geometry& g, const GradientTensors<float>& tensors,
                                          const float* table, bool responsibility_grad,
                                          const Scratch<float, K>& scratch, unsigned char* slots,
                                          int sweep) {
  using Tiles = MatrixTiles<S, kAccess>;
  const WalkOver<Tiles> walk(g, slots, sweep);
  sum_odds_constants<K>(g, walk.place, table, scratch);
  sum_moment_constants<K>(g, walk.place, table, scratch);
  const Tensor walked[] = {tensors.x, tensors.dy};
  walk.sweep(g, walked, tensors.dx, [&](unsigned char* slot, auto& output, int count, TileSlot) {
    exchange_logits<S, K, kAccess>(g, opaque(walk.place), table, slot, responsibility_grad,
                                   scratch.exchange);
    exchanged_weights<K>(g, opaque(walk.place), count, responsibility_grad, scratch);
    const MatrixThread place = opaque(walk.place);
    float dx[kMatrixChannels][kMatrixPositions];
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      const MixedSums<K> mixed(g, place, table, half, responsibility_grad, scratch);
      float x[2][kMatrixPositions], dy[2][kMatrixPositions];
      read_half<S, kAccess>(slot, half, x);
      read_half<S, kAccess>(slot + Tiles::kWarpBytes, half, dy);
      centre(x, load_shift<K, 2>(table, place.column + 2 * half));
#pragma unroll
      for (int c = 0; c < 2; ++c) {
#pragma unroll
        for (int r = 0; r < kMatrixPositions; ++r) {
          const int pair = r / 2, e = r % 2 * 2 + c;
          // The loop is not unrolled: the second half is always what was made last.
          dx[c][r] = dx[2 + c][r];
          dx[2 + c][r] = dy[c][r] * mixed.scale[pair][e] +
                         (2 * x[c][r] * mixed.quadratic[pair][e] + mixed.linear[pair][e]);
        }
      }
    }
    output.write(dx);
  });
}

}  // namespace mixnorm::cuda
