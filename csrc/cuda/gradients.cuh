// Backward's sweeps over (x, dy): the sums H1 = sum nu dy and sum nu dy x', then dx.
#pragma once

#include "cuda/sums.cuh"

namespace mixnorm::cuda {

// What a sweep of the backward walks and where its results go.
template <class T>
struct GradientTensors {
  Tensor x, dy, dx;
};

// The thread's part of a tile of (x, dy), read again after every barrier: what is not held across
// it leaves registers for coefficients and sums.
template <class S, int K, Access kAccess, class T = accumulation_t<S>>
struct GradientTile {
  static constexpr int kOwned = kChannels<T, K>, kHeld = kPositions<T, K, kAccess>;
  using Tiles = TileAccess<S, K, kAccess>;
  // Too many to keep.
  using Rows = Coefficients<T, K, 0, Row<K>::kCount, false>;
  using Values = T[kOwned][kHeld];

  __device__ static __forceinline__ void read_x(unsigned char* slot, const Rows& rows, Values& x) {
    Tiles::read(slot, x);
    centre(x, rows.row(Row<K>::kShift));
  }
  __device__ static __forceinline__ void read_dy(unsigned char* slot, Values& dy) {
    Tiles::read(slot + Tiles::slot_bytes(), dy);
  }
};

// The thread's parts of dnu, without their constants.
template <class Tile, int K, class T, int kOwned, int kHeld>
__device__ __forceinline__ void posterior_gradient(const T (&x)[kOwned][kHeld],
                                                   const T (&dy)[kOwned][kHeld],
                                                   const typename Tile::Rows& rows, int k,
                                                   T (&dnu)[K][kHeld]) {
  const auto scale = rows.row(Row<K>::scale(k)), offset = rows.row(Row<K>::offset(k));
  const auto quadratic = rows.row(Row<K>::moment_quadratic(k));
  const auto linear = rows.row(Row<K>::moment_linear(k));
#pragma unroll
  for (int c = 0; c < kOwned; ++c) {
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      dnu[k][r] += dy[c][r] * (scale.value[c] * x[c][r] + offset.value[c]);
      dnu[k][r] += x[c][r] * (quadratic.value[c] * x[c][r] + linear.value[c]);
    }
  }
}

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
  walk.sweep(g, walked, [&](unsigned char* slot, const Cursor&, int64_t position) {
    typename Tile::Values x, dy;
    Tile::read_x(slot, rows, x);
    if constexpr (K > 1) {
      responsibilities<K>(g, place, x, rows, position, scratch, static_cast<T*>(nullptr));
      Tile::read_x(slot, rows, x);
    }
    // 0 outside the tensor, which keeps what x' is there out of the sums.
    Tile::read_dy(slot, dy);
#pragma unroll
    for (int c = 0; c < kOwned; ++c) {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) x[c][r] *= dy[c][r];
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      T nu[kHeld];
      load_responsibility<K>(g, place, k, position, scratch.nu, nu);
      sums.add(k, nu, dy, x);
    }
  });
  store_sums(g, place, sums, scratch.exchange,
             partials.sums + int64_t(walk.chunk) * 2 * K * columns(g));
}

// Leaves dlogit_k = nu_k (dnu_k - sum_j nu_j dnu_j) in shared memory, from the thread's parts of
// dnu; adds it to the thread's share of `mass` unless that is null. Ends with a barrier.
template <int K, class Place, class T, int kHeld>
__device__ __forceinline__ void logit_gradients(const Geometry& g, const Place& place,
                                                T (&partial)[K][kHeld],
                                                const Scratch<T, K>& scratch, T* mass) {
  exchange_positions(g, place, partial, scratch.exchange);
  const T* const constants = scratch.constants + (g.block_groups + place.group_slot) * K;
  const int row = place.group_slot * K * g.tile_positions;
  for (int p = place.rank; p < g.tile_positions; p += place.group_threads(g)) {
    const T* const nu = scratch.nu + row + p;
    T dnu[K], average = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      dnu[k] = exchanged<K>(g, scratch.exchange, place.group_slot * K + k, p) + constants[k];
      average += nu[k * g.tile_positions] * dnu[k];
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      // A single component's is 0, also where dnu is not finite.
      const T value = g.components == 1 ? T(0) : nu[k * g.tile_positions] * (dnu[k] - average);
      scratch.dlogit[row + k * g.tile_positions + p] = value;
      if (mass != nullptr) mass[k] += value;
    }
  }
  __syncthreads();
}

// dx = sum nu (alpha dy + a + 2 b x') + sum dlogit (linear + 2 quadratic x'): the log-odds' slopes
// serve for the logits', since the dlogit of a position sum to 0.
template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void differentiate_input(const Geometry& g, const GradientTensors<T>& tensors,
                                    const T* table, bool responsibility_grad,
                                    const Scratch<T, K>& scratch, unsigned char* slots, int sweep) {
  using Tile = GradientTile<S, K, kAccess>;
  constexpr int kOwned = Tile::kOwned, kHeld = Tile::kHeld;
  const Walk<S, K, kAccess> walk(g, slots, sweep);
  const auto& place = walk.place;
  const typename Tile::Rows rows(table, place.column);
  const bool through_posterior = K > 1 && responsibility_grad;
  sum_odds_constants<K>(g, place, table, scratch);
  sum_moment_constants<K>(g, place, table, scratch);
  const Tensor walked[] = {tensors.x, tensors.dy};
  walk.sweep(g, walked, [&](unsigned char* slot, const Cursor& cursor, int64_t position) {
    if constexpr (K > 1) {
      typename Tile::Values x, dy;
      Tile::read_x(slot, rows, x);
      responsibilities<K>(g, place, x, rows, position, scratch, static_cast<T*>(nullptr));
      if (responsibility_grad) {
        T dnu[K][kHeld] = {};
        Tile::read_x(slot, rows, x);
        Tile::read_dy(slot, dy);
#pragma unroll
        for (int k = 0; k < K; ++k) posterior_gradient<Tile, K>(x, dy, rows, k, dnu);
        logit_gradients<K>(g, place, dnu, scratch, static_cast<T*>(nullptr));
      }
    }
    typename Tile::Values x, dy;
    Tile::read_x(slot, rows, x);
    Tile::read_dy(slot, dy);
    T dx[kOwned][kHeld] = {};
#pragma unroll
    for (int k = 0; k < K; ++k) {
      T nu[kHeld];
      load_responsibility<K>(g, place, k, position, scratch.nu, nu);
      const auto scale = rows.row(Row<K>::scale(k));
      const auto quadratic = rows.row(Row<K>::moment_quadratic(k));
      const auto linear = rows.row(Row<K>::moment_linear(k));
#pragma unroll
      for (int c = 0; c < kOwned; ++c) {
#pragma unroll
        for (int r = 0; r < kHeld; ++r) {
          const T slope =
              quadratic.value[c] * x[c][r] + (quadratic.value[c] * x[c][r] + linear.value[c]);
          dx[c][r] += nu[r] * (scale.value[c] * dy[c][r] + slope);
        }
      }
    }
    if (through_posterior) {
#pragma unroll
      for (int k = 1; k < K; ++k) {
        T dlogit[kHeld];
        load_responsibility<K>(g, place, k, position, scratch.dlogit, dlogit);
        const auto quadratic = rows.row(Row<K>::quadratic(k));
        const auto linear = rows.row(Row<K>::linear(k));
#pragma unroll
        for (int c = 0; c < kOwned; ++c) {
#pragma unroll
          for (int r = 0; r < kHeld; ++r) {
            dx[c][r] += dlogit[r] * (quadratic.value[c] * x[c][r] +
                                     (quadratic.value[c] * x[c][r] + linear.value[c]));
          }
        }
      }
    }
    Tile::Tiles::write(g, place, tensors.dx, cursor, position, dx);
  });
}

}  // namespace mixnorm::cuda
