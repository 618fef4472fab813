// Gradients where every channel has a mixture of its own: the steps of backward_kernel.cuh with
// sweeps of their own, and those of a learned mixture with the last of them.
#pragma once

#include "cuda/mixture_kernel.cuh"
#include "cuda/per_channel.cuh"

namespace mixnorm::cuda {

template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void sum_own_output_gradients(const Geometry& g, const GradientTensors<T>& tensors,
                                         const T* table, const Partials<T>& partials, T* exchange,
                                         unsigned char* slots, int sweep) {
  using Walk = WalkOver<OwnTiles<S, K, kAccess>>;
  using Tiles = typename Walk::Tiles;
  using Place = typename Tiles::Place;
  const Walk walk(g, slots, sweep);
  const Place& place = walk.place;
  const auto rows = own_rows<K, 0, 3 * K - 2>(table, place);
  OwnSums<T, K, Place::kOwned, false> sums;
  const Tensor walked[] = {tensors.x, tensors.dy};
  walk.sweep(g, walked, Tensor{}, [&](unsigned char* slot, const auto&, int count) {
    T x[Place::kOwned][Place::kHeld], dy[Place::kOwned][Place::kHeld];
    Tiles::read(slot, 0, x);
    Tiles::read(slot, 1, dy);
    centre(x, rows.row(Row<K>::kShift));

#pragma unroll
    for (int r = 0; r < Place::kHeld; ++r) {
      const bool inside = place.inside(r, count);
#pragma unroll
      for (int c = 0; c < Place::kOwned; ++c) {
        T nu[K];
        own_responsibilities<K>(rows, c, x[c][r], inside, nu);
        sums.add(c, nu, dy[c][r], dy[c][r] * x[c][r]);
      }
    }
  });
  store_own_sums<K>(g, place, sums, exchange, partials, walk.chunk);
}

// dx; with `learned` also the sums of dlogit, dlogit x', dlogit x'^2.
template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void differentiate_own(const Geometry& g, const GradientTensors<T>& tensors,
                                  const T* table, bool responsibility_grad, bool learned,
                                  const Partials<T>& partials, T* exchange, unsigned char* slots,
                                  int sweep) {
  using Walk = WalkOver<OwnTiles<S, K, kAccess>>;
  using Tiles = typename Walk::Tiles;
  using Place = typename Tiles::Place;
  const Walk walk(g, slots, sweep);
  const Place& place = walk.place;
  const auto rows = own_rows<K, 0, Row<K>::scale_sum(0)>(table, place);
  OwnSums<T, K, Place::kOwned> sums;
  const Tensor walked[] = {tensors.x, tensors.dy};
  walk.sweep(g, walked, tensors.dx, [&](unsigned char* slot, const auto& output, int count) {
    T values[Place::kOwned][Place::kHeld], dy[Place::kOwned][Place::kHeld];
    Tiles::read(slot, 0, values);
    Tiles::read(slot, 1, dy);
    centre(values, rows.row(Row<K>::kShift));

#pragma unroll
    for (int r = 0; r < Place::kHeld; ++r) {
      const bool inside = place.inside(r, count);
#pragma unroll
      for (int c = 0; c < Place::kOwned; ++c) {
        const auto at = [&](int row) { return rows.row(row).value[c]; };
        const T x = values[c][r], gradient = dy[c][r];
        T nu[K], dnu[K], average = 0, dx = 0;
        own_responsibilities<K>(rows, c, x, inside, nu);
#pragma unroll
        for (int k = 0; k < K; ++k) {
          const T scale = at(Row<K>::scale(k));
          const T bent = at(Row<K>::moment_quadratic(k)) * x;
          const T slope = bent + at(Row<K>::moment_linear(k));
          dx += nu[k] * (scale * gradient + (bent + slope));
          dnu[k] = gradient * (scale * x + at(Row<K>::offset(k))) +
                   (x * slope + at(Row<K>::moment_constant(k)));
          average += nu[k] * dnu[k];
        }
        if (K > 1 && responsibility_grad) {
          T dlogit[K];
          dlogit[0] = nu[0] * (dnu[0] - average);
#pragma unroll
          for (int k = 1; k < K; ++k) {
            dlogit[k] = nu[k] * (dnu[k] - average);
            const T bent = at(Row<K>::quadratic(k)) * x;
            dx += dlogit[k] * (bent + (bent + at(Row<K>::linear(k))));
          }
          if (learned) sums.add(c, dlogit, x, x * x);
        }
        values[c][r] = dx;
      }
    }
    output.write(values);
  });
  if (learned) store_own_sums<K>(g, place, sums, exchange, partials, walk.chunk);
}

// After the steps of BackwardStep, where a mixture is learned.
constexpr int kMergeOwnMixture = kBackwardSteps;

template <class S, int K, Access kAccess>
__global__ void __launch_bounds__(kOwnThreads,
                                  (kOwnBlocks<accumulation_t<S>, K, kOwnChannels<kAccess>>))
    per_channel_backward_kernel(const __grid_constant__ BackwardProblem<accumulation_t<S>> p,
                                int first_step, int last_step) {
  using T = accumulation_t<S>;
  MIXNORM_DYNAMIC_SHARED(shared);
  const Geometry& g = p.geometry;
  const GradientArguments<T>& a = p.arguments;
  const Partials<const T> partials{p.partials.sums, p.partials.masses};
  const bool logits = K > 1 && a.responsibility_grad;
#pragma unroll 1
  for (int step = first_step; step < last_step; ++step) {
    if (step > first_step) wait_between_steps(g.alone, p.barrier, step - first_step - 1);
    const Scratch<T, K> scratch(shared, g, 2 * OwnTiles<S, K, kAccess>::slot_bytes());
    if (step == kPrepareTables) {
      const Start<T> start{a.mixture, a.statistics, a.affine, a.eps, a.mixing_scale};
      prepare<S, K>(g, p.tensors.x, start, p.table, scratch.doubles());
    } else if (step == kSumOutputGradients) {
      sum_own_output_gradients<S, K, kAccess>(g, p.tensors, p.table, p.partials, scratch.exchange,
                                              shared, 0);
    } else if (step == kMergeOutputGradients) {
      merge_output_gradients<T, K>(g, partials, a, p.table, scratch.doubles());
    } else if (step == kDifferentiateInput) {
      const bool learned = logits && a.dmixture.mean != nullptr;
      differentiate_own<S, K, kAccess>(g, p.tensors, p.table, logits, learned, p.partials,
                                       scratch.exchange, shared, 1);
    } else {
      merge_mixture_gradients<T, K>(g, partials, a, logits, p.table, scratch.doubles());
      merge_mixing_weight_gradients<T, K>(g, partials, a, logits, p.table, scratch.doubles());
    }
  }
}

template <class S>
struct FindPerChannelBackward {
  template <int K, Access kAccess>
  BackwardKernel<accumulation_t<S>> operator()(Instance<K, kAccess>) const {
    return per_channel_backward_kernel<S, K, kAccess>;
  }
};

// As find_backward_kernel.
template <class S>
BackwardKernel<accumulation_t<S>> find_per_channel_backward_kernel(Access access, int* components);

}  // namespace mixnorm::cuda
