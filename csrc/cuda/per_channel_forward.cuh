// Training forward, moments and eval where every channel has a mixture of its own: the steps of
// forward_kernel.cuh with sweeps of their own.
#pragma once

#include "cuda/forward_kernel.cuh"
#include "cuda/per_channel.cuh"

namespace mixnorm::cuda {

template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void sum_own_moments(const Geometry& g, const Tensor& x, const T* table,
                                const Partials<T>& partials, T* exchange, unsigned char* slots,
                                int sweep) {
  using Walk = WalkOver<OwnTiles<S, K, kAccess>>;
  using Place = typename Walk::Tiles::Place;
  const Walk walk(g, slots, sweep);
  const Place& place = walk.place;
  const auto rows = own_rows<K, 0, 3 * K - 2>(table, place);
  OwnSums<T, K, Place::kOwned> sums;
  const Tensor tensors[] = {x};
  walk.sweep(g, tensors, Tensor{}, [&](unsigned char* slot, auto&, int count, TileSlot) {
    T values[Place::kOwned][Place::kHeld];
    Walk::Tiles::read(slot, 0, values);
    centre(values, rows.row(Row<K>::kShift));
#pragma unroll
    for (int r = 0; r < Place::kHeld; ++r) {
      const bool inside = place.inside(r, count);
#pragma unroll
      for (int c = 0; c < Place::kOwned; ++c) {
        const T value = values[c][r];
        const OwnResponsibilities<T, K> nu(rows, c, value);
        sums.add(c, nu.weight, inside ? nu.scale : T(0), value, value);
      }
    }
  });
  store_own_sums<K>(g, place, sums, exchange, partials, walk.chunk);
}

template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void normalize_own(const Geometry& g, const Tensor& x, const Tensor& y, const T* table,
                              unsigned char* slots, int sweep) {
  using Walk = WalkOver<OwnTiles<S, K, kAccess>>;
  using Place = typename Walk::Tiles::Place;
  const Walk walk(g, slots, sweep);
  const Place& place = walk.place;
  const auto rows = own_rows<K, 0, Row<K>::kForward>(table, place);
  const Tensor tensors[] = {x};
  walk.sweep(g, tensors, y, [&](unsigned char* slot, auto& output, int, TileSlot) {
    T values[Place::kOwned][Place::kHeld];
    Walk::Tiles::read(slot, 0, values);
    centre(values, rows.row(Row<K>::kShift));
#pragma unroll
    for (int r = 0; r < Place::kHeld; ++r) {
#pragma unroll
      for (int c = 0; c < Place::kOwned; ++c) {
        T y = 0;
        const T value = values[c][r];
        const OwnResponsibilities<T, K> nu(rows, c, value);
#pragma unroll
        for (int k = 0; k < K; ++k) {
          const T scaled = rows.row(Row<K>::scale(k)).value[c] * value;
          y += nu.weight[k] * (scaled + rows.row(Row<K>::offset(k)).value[c]);
        }
        values[c][r] = y * nu.scale;
      }
    }
    output.write(values);
  });
}

template <class S, int K, Access kAccess>
__global__ void __launch_bounds__(kOwnThreads, (kOwnBlocks<accumulation_t<S>, K, 1>))
    per_channel_forward_kernel(const __grid_constant__ ForwardProblem<accumulation_t<S>> p,
                               int first_step, int last_step) {
  using T = accumulation_t<S>;
  MIXNORM_DYNAMIC_SHARED(shared);
  const Geometry& g = p.geometry;
#pragma unroll 1
  for (int step = first_step; step < last_step; ++step) {
    if (step > first_step) wait_between_steps(g.scope, p.barrier, step - first_step - 1);
    const Scratch<T, K> scratch(shared, g, OwnTiles<S, K, kAccess>::slot_bytes());
    if (step == 0) {
      prepare<S, K>(g, p.x, p.start, p.table, scratch.doubles());
    } else if (is_output_step(p, step)) {
      normalize_own<S, K, kAccess>(g, p.x, p.y, p.table, shared, step / 2);
    } else if (step % 2 == 1) {
      sum_own_moments<S, K, kAccess>(g, p.x, p.table, p.partials, scratch.exchange, shared,
                                     step / 2);
    } else {
      merge_moments_of_step<T, K>(p, step, scratch.doubles());
    }
  }
}

template <class S>
struct FindPerChannelForward {
  template <int K, Access kAccess>
  ForwardKernel<accumulation_t<S>> operator()(Instance<K, kAccess>) const {
    return per_channel_forward_kernel<S, K, kAccess>;
  }
};

// As find_forward_kernel.
template <class S>
ForwardKernel<accumulation_t<S>> find_per_channel_forward_kernel(Access access, int* components);

}  // namespace mixnorm::cuda
