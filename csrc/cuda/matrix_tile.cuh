// What a thread holds for matrix products: of its tile 4 channels x 4 positions whatever the
// layout, so that a warp has 16 channels x 32 positions and operands come straight from what its
// lanes hold. Lane l has the channels of lane i = l % 4 and the positions of lane m = l / 4.
#pragma once

#include "cuda/matrix.cuh"
#include "cuda/scratch.cuh"
#include "cuda/sweep.cuh"
#include "cuda/tables.cuh"

namespace mixnorm::cuda {

template <int K>
constexpr int kMatrixBlocks = K / 8;  // of components

struct MatrixThread : Thread<Access::kChannels, kMatrixChannels, kMatrixPositions> {
  using Base = Thread<Access::kChannels, kMatrixChannels, kMatrixPositions>;

  __device__ MatrixThread(const Geometry& g, int channel_block) : Base(g, channel_block) {}

  // Where the lane's chunks lie among all lanes': so that those that lanes read of others are in
  // different banks.
  __device__ static int slot(int lane) { return lane ^ (lane >> 2 & 2); }

  // Opaque: what follows from them is computed where it is used, not kept in registers.
  __device__ int i() const { return opaque(lane) % 4; }
  __device__ int m() const { return opaque(lane) / 4; }

  // Channel of the warp, the first of two, whose sums over positions are the lane's.
  __device__ int summed_channel() const {
    const int m = this->m();
    return 2 * ((m & 1) * 2 + (m >> 1 & 1) + (m & 4));
  }
  __device__ int summed_column() const { return warp_column() + summed_channel(); }
  // Of the warp's first channel.
  __device__ int warp_column() const { return opaque(column) - kMatrixChannels * i(); }
  // Its four neighbouring positions, among all of the tile.
  __device__ int quad() const { return opaque(position_warp) * 8 + m(); }
};

template <class S, Access kAccess>
struct MatrixTiles : Tiles<S, kAccess, MatrixThread> {
  using Base = Tiles<S, kAccess, MatrixThread>;

  // Positions of the lanes i and i + 4, 4 each, of the two channels whose sums the lane has: what
  // the operands of sums over positions are made of. Others of the warp wrote it, and write the
  // next tile over it: the caller has a barrier before, and there is one behind.
  __device__ static __forceinline__ void read_summed(const unsigned char* slot, int tensor,
                                                     const MatrixThread& place,
                                                     float (&x)[2][2][4]) {
    const int channel = place.summed_channel();
    const auto* const warp =
        reinterpret_cast<const typename Base::Chunk*>(slot + tensor * Base::kWarpBytes) -
        MatrixThread::slot(opaque(place.lane));
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const auto* const chunks = warp + MatrixThread::slot((place.i() + 4 * h) * 4 + channel / 4);
      if constexpr (kAccess == Access::kPositions) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          unpack<S, 4>(chunks[(channel % 4 + c) * 32], x[c][h]);
        }
      } else {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          float pair[2];
          unpack<S, 2>(reinterpret_cast<const raw_t<S, 2>*>(chunks + r * 32)[channel % 4 / 2],
                       pair);
          x[0][h][r] = pair[0];
          x[1][h][r] = pair[1];
        }
      }
    }
    __syncwarp();
  }
};

// The rounded shift of N channels from `column` on.
template <int K, int N>
__device__ __forceinline__ Columns<float, N> load_shift(const float* table, int column) {
  return Coefficients<float, K, Row<K>::kShift, 1, false, N>(table, column).row(Row<K>::kShift);
}

// Where weights of a tile's positions (nu, dlogit) lie: [group slot][K][tile position], quads of
// neighbouring positions in an order that keeps the reads below free of bank conflicts.
__device__ __forceinline__ int weight_place(const Geometry& g, int row, int quad) {
  const int swizzle = ((row ^ row >> 2) & 1) << 2 | (row & 2);
  return row * opaque(g.tile_positions) + 4 * (quad ^ swizzle);
}

// Operands of 8 components from `block` * 8 on, at the thread's positions: of r = 0 .. 3.
template <int K>
__device__ __forceinline__ void load_weights(const Geometry& g, const MatrixThread& place,
                                             const float* weights, int row, int quad,
                                             float (&out)[4]) {
  const auto values = *reinterpret_cast<const Columns<float, 4>*>(
      weights + weight_place(g, place.group_slot * K + row, quad));
#pragma unroll
  for (int r = 0; r < 4; ++r) out[r] = values.value[r];
}

// The weights as the right operand of sums over positions; [r] goes with [.][.][r] of read_summed.
template <int K>
struct SummedWeights {
  float value[2][4];

  __device__ SummedWeights(const Geometry& g, const MatrixThread& place, const float* weights,
                           int block) {
    const int first = opaque(place.position_warp) * 8 + place.i();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      load_weights<K>(g, place, weights, 8 * block + place.m(), first + 4 * h, value[h]);
    }
  }
  __device__ __forceinline__ MatrixB operand(int r) const {
    MatrixB b;
    b.set(0, value[0][r]);
    b.set(1, value[1][r]);
    return b;
  }
};

// The weights as the left operand of sums over components; `pair`: of the positions 2 pair and
// 2 pair + 1 of the thread.
template <int K>
struct MixedWeights {
  float value[kMatrixBlocks<K>][2][4];

  __device__ MixedWeights(const Geometry& g, const MatrixThread& place, const float* weights) {
#pragma unroll
    for (int block = 0; block < kMatrixBlocks<K>; ++block) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        load_weights<K>(g, place, weights, 8 * block + place.i() + 4 * h, place.quad(),
                        value[block][h]);
      }
    }
  }
  __device__ __forceinline__ MatrixA operand(int block, int pair) const {
    MatrixA a;
#pragma unroll
    for (int e = 0; e < 4; ++e) a.set(e, value[block][e / 2][2 * pair + e % 2]);
    return a;
  }
};

// A row of the table for every component, the right operands that go with them: for the thread's
// channels 2 `half` and 2 `half` + 1.
template <int K>
class MixedRows {
 public:
  // row: of component k, Row<K>::scale and the like.
  template <class RowOf>
  __device__ MixedRows(const float* table, const MatrixThread& place, RowOf row) {
    const int channel = place.m() / 2 * 4 + place.m() % 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* const start = column_start<K>(table, place.warp_column() + channel + 2 * half);
#pragma unroll
      for (int block = 0; block < kMatrixBlocks<K>; ++block) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          value_[block][half][h] = start[row(8 * block + place.i() + 4 * h) * kChannels<float, K>];
        }
      }
    }
  }
  __device__ __forceinline__ MatrixB operand(int block, int half) const {
    MatrixB b;
    b.set(0, value_[block][half][0]);
    b.set(1, value_[block][half][1]);
    return b;
  }

 private:
  float value_[kMatrixBlocks<K>][2][2];
};

}  // namespace mixnorm::cuda
