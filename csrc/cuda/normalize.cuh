// y = sum_k nu_k (scale_k x' + offset_k), tile by tile. A tile that stayed has the nu that the last
// sweep of the moments gave it, under the same mixture.
#pragma once

#include "cuda/posterior.cuh"

namespace mixnorm::cuda {

template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void normalize(const Geometry& g, const Tensor& x, const Tensor& y, const T* table,
                          const Scratch<T, K>& scratch, unsigned char* slots, int sweep) {
  using W = Walk<S, K, kAccess>;
  constexpr int kOwned = kChannels<T, K>, kHeld = kPositions<T, K, kAccess>;
  const W walk(g, slots, sweep);
  const auto& place = walk.place;
  const Coefficients<T, K, 0, 2 * K - 1, kKeepRows<K, kAccess>> rows(table, place.column);
  const Coefficients<T, K, Row<K>::scale(0), 2 * K, kKeepRows<K, kAccess>> affine(table,
                                                                                  place.column);
  sum_odds_constants<K>(g, place, table, scratch);
  const Tensor tensors[] = {x};
  walk.sweep(g, tensors, y, [&](unsigned char* slot, auto& output, int count, TileSlot at) {
    T values[kOwned][kHeld];
    W::Tiles::read(slot, 0, values);
    T* const tile_nu = scratch.nu_of(g, at.index);
    centre(values, rows.row(Row<K>::kShift));
    if constexpr (K > 1) {
      if (!at.kept) {
        responsibilities<K>(g, place, values, rows, count, scratch, tile_nu,
                            static_cast<T*>(nullptr));
      }
    }
    T out[kOwned][kHeld] = {};
#pragma unroll
    for (int k = 0; k < K; ++k) {
      T nu[kHeld];
      load_responsibility<K>(g, place, k, count, tile_nu, nu);
      const auto scale = affine.row(Row<K>::scale(k)), offset = affine.row(Row<K>::offset(k));
#pragma unroll
      for (int c = 0; c < kOwned; ++c) {
#pragma unroll
        for (int r = 0; r < kHeld; ++r) {
          out[c][r] += nu[r] * (scale.value[c] * values[c][r] + offset.value[c]);
        }
      }
    }
    output.write(out);
  });
}

}  // namespace mixnorm::cuda
