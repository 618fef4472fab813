// Backward's sweeps over (x, dy): the sums H1 = sum nu dy and sum nu dy x', then dx.
#pragma once

#include "cuda/sums.cuh"

namespace mixnorm::cuda {

// What a sweep of the backward walks and where its results go.
template <class T>
struct GradientTensors {
  Tensor x, dy, dx;
};

// The thread's part of a tile of (x, dy).
template <class S, int K, Access kAccess, class T = accumulation_t<S>>
struct GradientTile {
  static constexpr int kOwned = kChannels<T, K>, kHeld = kPositions<T, K, kAccess>;
  using Tiles = TileAccess<S, K, kAccess>;
  // Too many to keep.
  using Rows = Coefficients<T, K, 0, Row<K>::kCount, false>;
  T x[kOwned][kHeld], dy[kOwned][kHeld];

  __device__ __forceinline__ GradientTile(unsigned char* slot, const Rows& rows) {
    Tiles::read(slot, 0, x);
    Tiles::read(slot, 1, dy);
    centre(x, rows.row(Row<K>::kShift));
  }
};

template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void sum_output_gradients(const Geometry& g, const GradientTensors<T>& tensors,
                                     const T* table, const Partials<T>& partials,
                                     const Scratch<T, K>& scratch, unsigned char* slots,
                                     int sweep) {
  using Tile = GradientTile<S, K, kAccess>;
  constexpr int kOwned = Tile::kOwned, kHeld = Tile::kHeld;
  const Walk<S, K, kAccess> walk(g, slots, sweep);
  const auto& place = walk.place;
  const typename Tile::Rows rows(table, place.column);
  sum_odds_constants<K>(g, place, table, scratch);
  Sums<T, K, kOwned> sums;
  const Tensor walked[] = {tensors.x, tensors.dy};
  walk.sweep(g, walked, Tensor{}, [&](unsigned char* slot, auto&, int count, TileSlot at) {
    // dy is 0 outside the tensor, which keeps what x' is there out of the sums.
    Tile tile(slot, rows);
    T* const tile_nu = scratch.nu_of(g, at.index);
    if constexpr (K > 1) {
      responsibilities<K>(g, place, tile.x, rows, count, scratch, tile_nu,
                          static_cast<T*>(nullptr));
    }
#pragma unroll
    for (int c = 0; c < kOwned; ++c) {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) tile.x[c][r] *= tile.dy[c][r];
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      T nu[kHeld];
      load_responsibility<K>(g, place, k, count, tile_nu, nu);
      sums.add(k, nu, tile.dy, tile.x);
    }
  });
  store_sums(g, place, sums, scratch.exchange,
             partials.sums + int64_t(walk.chunk) * 2 * K * columns(g));
}

// Leaves dlogit_k = nu_k (dnu_k - sum_j nu_j dnu_j) in shared memory, from the tile's nu. kMoments:
// statistics of the batch depend on x. Adds dlogit to the thread's share of `mass` unless that is
// null. Ends with a barrier.
template <int K, bool kMoments, class Tile, class Place, class T>
__device__ __forceinline__ void logit_gradients(const Geometry& g, const Place& place,
                                                const Tile& tile, const typename Tile::Rows& rows,
                                                int count, const Scratch<T, K>& scratch,
                                                const T* tile_nu, T* mass) {
  static_assert(K > 1, "a single component has no logits");
  // dnu of the others against component 0's: what they have in common leaves no dlogit.
  T partial[K - 1][Tile::kHeld] = {};
#pragma unroll
  for (int k = 1; k < K; ++k) {
    const auto scale = rows.row(Row<K>::posterior_scale(k));
    const auto offset = rows.row(Row<K>::posterior_offset(k));
    const auto quadratic = rows.row(Row<K>::posterior_quadratic(k));
    const auto linear = rows.row(Row<K>::posterior_linear(k));
#pragma unroll
    for (int c = 0; c < Tile::kOwned; ++c) {
#pragma unroll
      for (int r = 0; r < Tile::kHeld; ++r) {
        T& dnu = partial[k - 1][r];
        const T x = tile.x[c][r];
        dnu += tile.dy[c][r] * (scale.value[c] * x + offset.value[c]);
        if constexpr (kMoments) dnu += x * (quadratic.value[c] * x + linear.value[c]);
      }
    }
  }
  exchange_positions(g, place, partial, scratch.exchange);
  const T* const constants = scratch.constants + (g.block_groups + place.group_slot) * K;
  for (int p = place.rank; p < g.tile_positions; p += place.group_threads(g)) {
    T sums[K - 1], nu[K], dnu[K], average = 0;
    exchanged(g, place, scratch.exchange, p, sums);
    const int start = place.group_slot * K * row_width<K>(g) + p;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      nu[k] = tile_nu[start + k * g.tile_positions];
      dnu[k] = k == 0 ? T(0) : sums[k - 1] + constants[k - 1];
      average += nu[k] * dnu[k];
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      // A single component's is 0, also where dnu is not finite.
      const T dlogit = g.components == 1 || p >= count ? T(0) : nu[k] * (dnu[k] - average);
      scratch.dlogit[start + k * g.tile_positions] = dlogit;
      if (mass != nullptr) mass[k] += dlogit;
    }
  }
  __syncthreads();
}

// Adds sum dlogit (linear + 2 quadratic x') to dx: the log-odds' slopes serve for the logits',
// since the dlogit of a position sum to 0.
template <int K, class Tile, class Place, class T, int kOwned, int kHeld>
__device__ __forceinline__ void add_logit_gradients(const Geometry& g, const Place& place,
                                                    const Tile& tile,
                                                    const typename Tile::Rows& rows,
                                                    const Scratch<T, K>& scratch,
                                                    T (&dx)[kOwned][kHeld]) {
#pragma unroll
  for (int k = 1; k < K; ++k) {
    T dlogit[kHeld];
    load_positions(place, row_of<K>(g, place, scratch.dlogit, k), dlogit);
    const auto quadratic = rows.row(Row<K>::quadratic(k)), linear = rows.row(Row<K>::linear(k));
#pragma unroll
    for (int c = 0; c < kOwned; ++c) {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
        const T twice = tile.x[c][r] + tile.x[c][r];
        dx[c][r] += dlogit[r] * (quadratic.value[c] * twice + linear.value[c]);
      }
    }
  }
}

// dx = sum nu (alpha dy + a + 2 b x') + sum dlogit (linear + 2 quadratic x').
template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void differentiate_input(const Geometry& g, const GradientTensors<T>& tensors,
                                    const T* table, bool responsibility_grad,
                                    const Scratch<T, K>& scratch, unsigned char* slots, int sweep) {
  using Tile = GradientTile<S, K, kAccess>;
  constexpr int kOwned = Tile::kOwned, kHeld = Tile::kHeld;
  const Walk<S, K, kAccess> walk(g, slots, sweep);
  const auto& place = walk.place;
  const typename Tile::Rows rows(table, place.column);
  sum_odds_constants<K>(g, place, table, scratch);
  sum_posterior_constants<K>(g, place, table, scratch);
  const Tensor walked[] = {tensors.x, tensors.dy};
  walk.sweep(g, walked, tensors.dx, [&](unsigned char* slot, auto& output, int count, TileSlot at) {
    const Tile tile(slot, rows);
    T* const tile_nu = scratch.nu_of(g, at.index);
    if constexpr (K > 1) {
      // A tile that stayed has the nu that the sums' sweep gave it.
      if (!at.kept) {
        responsibilities<K>(g, place, tile.x, rows, count, scratch, tile_nu,
                            static_cast<T*>(nullptr));
      }
      if (responsibility_grad) {
        logit_gradients<K, true>(g, place, tile, rows, count, scratch, tile_nu,
                                 static_cast<T*>(nullptr));
      }
    }
    T dx[kOwned][kHeld] = {};
#pragma unroll
    for (int k = 0; k < K; ++k) {
      T nu[kHeld];
      load_responsibility<K>(g, place, k, count, tile_nu, nu);
      const auto scale = rows.row(Row<K>::scale(k));
      const auto quadratic = rows.row(Row<K>::moment_quadratic(k));
      const auto linear = rows.row(Row<K>::moment_linear(k));
#pragma unroll
      for (int c = 0; c < kOwned; ++c) {
#pragma unroll
        for (int r = 0; r < kHeld; ++r) {
          const T twice = tile.x[c][r] + tile.x[c][r];
          const T slope = quadratic.value[c] * twice + linear.value[c];
          dx[c][r] += nu[r] * (scale.value[c] * tile.dy[c][r] + slope);
        }
      }
    }
    if constexpr (K > 1) {
      if (responsibility_grad) add_logit_gradients<K>(g, place, tile, rows, scratch, dx);
    }
    output.write(dx);
  });
}

}  // namespace mixnorm::cuda
