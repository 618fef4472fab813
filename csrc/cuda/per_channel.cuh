// One mixture per channel: a thread holds whole mixtures, so that no logits meet in shared memory
// and a sweep has no barriers. Tables, partial sums and the work between the sweeps are those of
// groups of one channel.
#pragma once

#include "cuda/merge.cuh"
#include "cuda/posterior.cuh"

namespace mixnorm::cuda {

// Threads of a block lie along its channels, `block_groups` of them, and along positions.
template <class S, class T, int K, Access kAccess>
using OwnThreadBase = Thread<kAccess, kOwnChannels<kAccess>, kOwnPositions<T, K, kAccess>,
                             kOwnParts<S, T, K, kAccess>>;

template <class S, class T, int K, Access kAccess>
struct OwnThread : OwnThreadBase<S, T, K, kAccess> {
  using Base = OwnThreadBase<S, T, K, kAccess>;

  __device__ OwnThread(const Geometry& g, int channel_block) : Base(g, channel_block) {
    const int rest = g.channels - this->channel;
    this->owned = rest < 0 ? 0 : rest < Base::kOwned ? rest : Base::kOwned;
    // The others read tables somewhere, too.
    if (this->owned == 0) this->column = 0;
  }

  // Position r is within the first `count` of the tile; a chunk is so as a whole.
  __device__ bool inside(int r, int count) const {
    return this->position(kAccess == Access::kPositions ? r / 4 * 4 : r) < count;
  }

  // Of the block's.
  __device__ int own_column(const Geometry& g) const {
    return (this->channel_warp * g.channel_lanes + this->channel_lane) * Base::kOwned;
  }
};

template <class S, int K, Access kAccess>
using OwnTiles = Tiles<S, kAccess, OwnThread<S, accumulation_t<S>, K, kAccess>>;

// Few rows have registers.
template <int K, int kFirst, int kRows, class Place, class T>
__device__ __forceinline__ auto own_rows(const T* table, const Place& place) {
  return Coefficients<T, K, kFirst, kRows, (K <= 4 && kRows <= 24), Place::kOwned>(table,
                                                                                   place.column);
}

// nu of one value is weight * scale; scale 0 makes it 0. `rows`: at least those of the log-odds.
template <class T, int K>
struct OwnResponsibilities {
  T weight[K], scale;

  template <class Rows>
  __device__ __forceinline__ OwnResponsibilities(const Rows& rows, int c, T x) {
    if constexpr (K == 1) {
      weight[0] = scale = 1;
    } else {
      T top = 0;
#pragma unroll
      for (int k = 1; k < K; ++k) {
        const T slope = rows.row(Row<K>::quadratic(k)).value[c] * x;
        weight[k] =
            x * (slope + rows.row(Row<K>::linear(k)).value[c]) + rows.row(Row<K>::odds(k)).value[c];
        top = fmax(top, weight[k]);
      }
      weight[0] = device::exponential_below(top);
      T total = weight[0];
#pragma unroll
      for (int k = 1; k < K; ++k) {
        weight[k] = device::exponential_below(weight[k], top);
        total += weight[k];
      }
      scale = device::reciprocal(total);
    }
  }
};

// Of every component and owned channel: sums of w s (unless they are 0), w s a, w s a b.
template <class T, int K, int N, bool kMasses = (K > 1)>
struct OwnSums {
  T mass[K][N] = {};
  T first[K][N] = {};
  T second[K][N] = {};

  __device__ __forceinline__ void add(int c, const T (&w)[K], T s, T a, T b) {
    const T scaled = s * a, product = scaled * b;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if constexpr (kMasses) mass[k][c] += w[k] * s;
      first[k][c] += w[k] * scaled;
      second[k][c] += w[k] * product;
    }
  }
};

// The block's sums, to its chunk's row of the workspace.
template <int K, class T, int N, bool kMasses, class Place>
__device__ void store_own_sums(const Geometry& g, const Place& place,
                               const OwnSums<T, K, N, kMasses>& sums, T* exchange,
                               const Partials<T>& partials, int chunk) {
  const bool first_lane = place.lane / place.position_step % (32 / g.channel_lanes) == 0;
  const int row = 3 * g.block_groups;
  T* const out = partials.sums + int64_t(chunk) * 2 * K * columns(g) + place.column;
  T* const masses = partials.masses + (int64_t(chunk) * g.groups + place.column) * K;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    T values[3][N];
#pragma unroll
    for (int c = 0; c < N; ++c) {
      const int lanes = 32 / g.channel_lanes;
      values[0][c] = lane_sum(sums.mass[k][c], place.position_step, lanes);
      values[1][c] = lane_sum(sums.first[k][c], place.position_step, lanes);
      values[2][c] = lane_sum(sums.second[k][c], place.position_step, lanes);
    }
    if (g.position_warps > 1) {
      // Two of them in turn: nobody overwrites what another warp still reads.
      T* const parts = exchange + k % 2 * g.position_warps * row + 3 * place.own_column(g);
      if (first_lane) {
#pragma unroll
        for (int i = 0; i < 3 * N; ++i) {
          parts[place.position_warp * row + i] = values[i / N][i % N];
        }
      }
      __syncthreads();
      if (first_lane && place.position_warp == 0) {
        for (int w = 1; w < g.position_warps; ++w) {
#pragma unroll
          for (int i = 0; i < 3 * N; ++i) values[i / N][i % N] += parts[w * row + i];
        }
      }
    }
    if (!first_lane || place.position_warp != 0) continue;
#pragma unroll
    for (int c = 0; c < N; ++c) {
      if (c >= place.owned) continue;
      masses[c * K + k] = values[0][c];
      out[2 * k * columns(g) + c] = values[1][c];
      out[(2 * k + 1) * columns(g) + c] = values[2][c];
    }
  }
}

}  // namespace mixnorm::cuda
