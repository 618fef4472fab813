// Sums over positions by matrix products: a product adds up 8 positions of 8 channels' two values
// each, weighted for 8 components.
#pragma once

#include "cuda/matrix_posterior.cuh"
#include "cuda/sums.cuh"

namespace mixnorm::cuda {

// Of the lane's two summed channels c and components 2 i + e of each block: sum w a and sum w b.
template <int K>
struct MatrixSums {
  float first[kMatrixBlocks<K>][2][2] = {};  // [block][c][e]
  float second[kMatrixBlocks<K>][2][2] = {};

  // A tile's of channel c: a and b are of positions as read_summed gives them.
  __device__ __forceinline__ void add(const Geometry& g, const MatrixThread& place, int c,
                                      const float* weights, const float (&a)[2][4],
                                      const float (&b)[2][4]) {
    MatrixSum tile[kMatrixBlocks<K>];
#pragma unroll
    for (int block = 0; block < kMatrixBlocks<K>; ++block) {
      const SummedWeights<K> w(g, place, weights, block);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        tile[block].add(features(a[0][r], b[0][r], a[1][r], b[1][r]), w.operand(r));
      }
    }
#pragma unroll
    for (int block = 0; block < kMatrixBlocks<K>; ++block) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        first[block][c][e] += tile[block][e];
        second[block][c][e] += tile[block][2 + e];
      }
    }
  }
};

// As store_sums: to out [2 K][columns]. `exchange` has room for all of it, and nobody reads it.
template <int K>
__device__ void store_matrix_sums(const Geometry& g, const MatrixThread& place,
                                  const MatrixSums<K>& sums, float* exchange, float* out) {
  constexpr int kValues = kMatrixBlocks<K> * 8;  // of a lane
  float values[kValues];
#pragma unroll
  for (int v = 0; v < kValues; ++v) {
    const int block = v / 8, e = v / 4 % 2, c = v % 2;
    values[v] = v / 2 % 2 == 0 ? sums.first[block][c][e] : sums.second[block][c][e];
  }
  const int group_warps = g.channel_warps * g.position_warps;
  // [value][warp][lane]
  const int stride = 32 * g.block_groups * group_warps;
  float* const parts = exchange + 32 * place.warp + place.lane;
  if (place.position_warp > 0) {
#pragma unroll
    for (int v = 0; v < kValues; ++v) parts[v * stride] = values[v];
  }
  __syncthreads();
  if (place.position_warp > 0 || place.group >= g.groups) return;
#pragma unroll 1
  for (int w = 1; w < g.position_warps; ++w) {
#pragma unroll
    for (int v = 0; v < kValues; ++v) values[v] += parts[v * stride + 32 * w];
  }
#pragma unroll
  for (int v = 0; v < kValues; v += 2) {
    const int k = v / 8 * 8 + 2 * place.i() + v / 4 % 2;
    float* const row = out + int64_t(2 * k + v / 2 % 2) * columns(g) + place.summed_column();
    *reinterpret_cast<Columns<float, 2>*>(row) = {values[v], values[v + 1]};
  }
}

// As store_masses.
template <int K>
__device__ void store_matrix_masses(const Geometry& g, const MatrixThread& place,
                                    const float (&mass)[kMatrixBlocks<K>][2], float* parts,
                                    float* out) {
#pragma unroll
  for (int block = 0; block < kMatrixBlocks<K>; ++block) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float sum = lane_sum(mass[block][e], 4, 8);
      if (place.m() == 0) parts[place.warp * K + 8 * block + 2 * place.i() + e] = sum;
    }
  }
  merge_masses<K>(g, place, parts, out);
}

}  // namespace mixnorm::cuda
