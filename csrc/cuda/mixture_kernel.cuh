// Gradients of a mixture that is learned: a kernel of its own, after the backward has left its
// tables, because its sums and the backward's would not share a thread's registers.
#pragma once

#include "cuda/backward_kernel.cuh"

namespace mixnorm::cuda {

// Sums of dlogit, dlogit x', dlogit x'^2.
template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void sum_logit_gradients(const Geometry& g, const GradientTensors<T>& tensors,
                                    const T* table, const Partials<T>& partials,
                                    const Scratch<T, K>& scratch, unsigned char* slots, int sweep) {
  static_assert(K > 1, "a single component has no logits");
  using Tile = GradientTile<S, K, kAccess>;
  constexpr int kOwned = Tile::kOwned, kHeld = Tile::kHeld;
  const Walk<S, K, kAccess> walk(g, slots, sweep);
  const auto& place = walk.place;
  sum_odds_constants<K>(g, place, table, scratch);
  sum_posterior_constants<K>(g, place, table, scratch);
  Sums<T, K, kOwned> sums;
  T mass[K] = {};
  const Tensor walked[] = {tensors.x, tensors.dy};
  walk.sweep(g, walked, Tensor{}, [&](unsigned char* slot, auto&, int count, TileSlot at) {
    // Neither their address nor the tile is held beside the sums and what is exchanged.
    const typename Tile::Rows rows(table, opaque(place.column));
    T* const tile_nu = scratch.nu_of(g, at.index);
    responsibilities<K>(g, place, Tile(slot, rows).x, rows, count, scratch, tile_nu,
                        static_cast<T*>(nullptr));
    logit_gradients<K, true>(g, place, Tile(slot, rows), rows, count, scratch, tile_nu, mass);
    const Tile tile(slot, typename Tile::Rows(table, opaque(place.column)));
    T squares[kOwned][kHeld];
#pragma unroll
    for (int c = 0; c < kOwned; ++c) {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) squares[c][r] = tile.x[c][r] * tile.x[c][r];
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      T dlogit[kHeld];
      load_positions(place, row_of<K>(g, place, scratch.dlogit, k), dlogit);
      sums.add(k, dlogit, tile.x, squares);
    }
  });
  // Not kept in registers along the sweep, which needs them all.
  const Walk<S, K, kAccess> after(g, slots, sweep);
  const Scratch<T, K> scratch_after(slots, g, 2 * Tile::Tiles::slot_bytes());
  store_sums(g, after.place, sums, scratch_after.exchange,
             partials.sums + int64_t(after.chunk) * 2 * K * columns(g));
  store_masses<K>(g, after.place, mass, scratch_after.masses,
                  partials.masses + int64_t(after.chunk) * g.groups * K);
}

// dmean and dvar from L0, L1, L2, sums about the mean; zeros where logits have no gradient.
template <class T, int K>
__device__ void merge_mixture_gradients(const Geometry& g, const Partials<const T>& partials,
                                        const GradientArguments<T>& a, bool logits, const T* table,
                                        double* buffer) {
  const Lanes lanes(g.chunks, buffer);
  const int width = columns(g);
  for_columns(g, lanes, [&](const Column& column) {
    const double shift = column.exists ? double(*column_start<K>(table, column.index)) : 0.0;
#pragma unroll 1
    for (int k = 0; k < g.components; ++k) {
      double sums[3] = {0, 0, 0};
      if (column.exists && logits) {
        const T* const from = partials.sums + int64_t(2 * k) * width + column.index;
        sums[0] =
            chunk_share(g, lanes, partials.masses + column.group * K + k, int64_t(g.groups) * K);
        sums[1] = chunk_share(g, lanes, from, int64_t(2 * K) * width);
        sums[2] = chunk_share(g, lanes, from + width, int64_t(2 * K) * width);
      }
      lanes.sum(sums);
      if (lanes.lane != 0 || !column.exists) continue;
      const int64_t kc = int64_t(k) * g.channels + column.channel;
      const double mean = double(a.mixture.mean[kc]) - shift;
      const double precision = 1 / (double(a.mixture.var[kc]) + a.eps);
      const double about = sums[2] - mean * (2 * sums[1] - mean * sums[0]);
      a.dmixture.mean[kc] = static_cast<T>((sums[1] - mean * sums[0]) * precision);
      a.dmixture.var[kc] = static_cast<T>(0.5 * (about * precision - sums[0]) * precision);
    }
  });
}

// dlambda = L0 / lambda - 1/2 sum_c alpha H2 / lambda, the second term 0 below lambda's floor.
template <class T, int K>
__device__ void merge_mixing_weight_gradients(const Geometry& g, const Partials<const T>& partials,
                                              const GradientArguments<T>& a, bool logits,
                                              const T* table, double* buffer) {
  const Lanes lanes(32, buffer);
  const int entries = g.groups * g.components;
  const Share share(g, lanes, entries, g.block_groups * g.components);
  for (int first = share.first; first < share.end; first += share.step) {
    const int gk = first + lanes.unit, group = gk / g.components, k = gk % g.components;
    double sums[2] = {0, 0};
    if (gk < share.end && lanes.lane < lanes.depth) {
      for (int c = lanes.lane; c < g.group_channels; c += lanes.depth) {
        const T* const rows = column_start<K>(table, group * g.group_columns + c);
        sums[0] += double(rows[Row<K>::scale_sum(k) * kChannels<T, K>]);
      }
      if (logits) {
        sums[1] = chunk_share(g, lanes, partials.masses + group * K + k, int64_t(g.groups) * K);
      }
    }
    lanes.sum(sums);
    if (lanes.lane != 0 || gk >= share.end) continue;
    const T weight = a.mixture.mixing_weight[gk];
    double gradient = sums[1] / double(device::clamped_mixing_weight(weight));
    if (a.mixing_scale && weight >= T(device::kMixingFloor))
      gradient -= 0.5 * sums[0] / double(weight);
    a.dmixture.mixing_weight[gk] = static_cast<T>(gradient);
  }
}

enum MixtureStep { kSumLogitGradients, kMergeMixtureGradients, kMixtureSteps };

template <class S, int K, Access kAccess>
__global__ void __launch_bounds__(kMixtureThreads, 1)
    mixture_kernel(const __grid_constant__ BackwardProblem<accumulation_t<S>> p, int step, int) {
  using T = accumulation_t<S>;
  MIXNORM_DYNAMIC_SHARED(shared);
  const Geometry& g = p.geometry;
  const GradientArguments<T>& a = p.arguments;
  const Scratch<T, K> scratch(shared, g, 2 * TileAccess<S, K, kAccess>::slot_bytes());
  const Partials<const T> partials{p.partials.sums, p.partials.masses};
  const bool logits = K > 1 && a.responsibility_grad;
  if (step == kSumLogitGradients) {
    if constexpr (K > 1) {
      if (logits) {
        sum_logit_gradients<S, K, kAccess>(g, p.tensors, p.table, p.partials, scratch, shared, 0);
      }
    }
  } else {
    merge_mixture_gradients<T, K>(g, partials, a, logits, p.table, scratch.doubles());
    merge_mixing_weight_gradients<T, K>(g, partials, a, logits, p.table, scratch.doubles());
  }
}

template <class S>
struct FindMixture {
  template <int K, Access kAccess>
  BackwardKernel<accumulation_t<S>> operator()(Instance<K, kAccess>) const {
    return mixture_kernel<S, K, kAccess>;
  }
};

template <class S>
BackwardKernel<accumulation_t<S>> find_mixture_kernel(Access access, int* components);

}  // namespace mixnorm::cuda
