// Sums of nu, nu x', nu x'^2 over a block's tiles.
#pragma once

#include "cuda/sums.cuh"

namespace mixnorm::cuda {

template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void sum_moments(const Geometry& g, const Tensor& x, const T* table,
                            const Partials<T>& partials, const Scratch<T, K>& scratch,
                            unsigned char* slots, int sweep) {
  using W = Walk<S, K, kAccess>;
  constexpr int kOwned = kChannels<T, K>, kHeld = kPositions<T, K, kAccess>;
  const W walk(g, slots, sweep);
  const auto& place = walk.place;
  const Coefficients<T, K, 0, 2 * K - 1, kKeepRows<K, kAccess>> rows(table, place.column);
  sum_odds_constants<K>(g, place, table, scratch);
  Sums<T, K, kOwned> sums;
  T mass[K] = {};
  const Tensor tensors[] = {x};
  walk.sweep(g, tensors, Tensor{}, [&](unsigned char* slot, auto&, int count, TileSlot at) {
    T values[kOwned][kHeld];
    W::Tiles::read(slot, 0, values);
    T* const tile_nu = scratch.nu_of(g, at.index);
    centre(values, rows.row(Row<K>::kShift));
    if constexpr (K > 1) {
      responsibilities<K>(g, place, values, rows, count, scratch, tile_nu, mass);
    }
    T squares[kOwned][kHeld];
#pragma unroll
    for (int c = 0; c < kOwned; ++c) {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) squares[c][r] = values[c][r] * values[c][r];
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      T nu[kHeld];
      load_responsibility<K>(g, place, k, count, tile_nu, nu);
      sums.add(k, nu, values, squares);
    }
  });
  store_sums(g, place, sums, scratch.exchange,
             partials.sums + int64_t(walk.chunk) * 2 * K * columns(g));
  if constexpr (K > 1) {
    store_masses<K>(g, place, mass, scratch.masses,
                    partials.masses + int64_t(walk.chunk) * g.groups * K);
  }
}

}  // namespace mixnorm::cuda
