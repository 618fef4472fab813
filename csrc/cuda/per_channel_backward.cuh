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
  walk.sweep(g, walked, Tensor{}, [&](unsigned char* slot, auto&, int, TileSlot) {
    T x[Place::kOwned][Place::kHeld], dy[Place::kOwned][Place::kHeld];
    Tiles::read(slot, 0, x);
    Tiles::read(slot, 1, dy);
    centre(x, rows.row(Row<K>::kShift));
#pragma unroll
    for (int r = 0; r < Place::kHeld; ++r) {
#pragma unroll
      for (int c = 0; c < Place::kOwned; ++c) {
        // dy is 0 outside the tensor, which keeps what x' is there out of the sums.
        const OwnResponsibilities<T, K> nu(rows, c, x[c][r]);
        sums.add(c, nu.weight, nu.scale, dy[c][r], x[c][r]);
      }
    }
  });
  store_own_sums<K>(g, place, sums, exchange, partials, walk.chunk);
}

// One element's dx = sum nu (alpha dy + a + 2 b x' + pull (linear + 2 quadratic x')), where
// pull = dnu - sum nu dnu is 0 without `logits`. kMoments: of statistics that depend on x.
template <class T, int K, bool kMoments>
struct OwnGradient {
  T dx = 0, pull[K];

  template <class Rows>
  __device__ __forceinline__ OwnGradient(const Rows& rows, int c, T x, T dy,
                                         const OwnResponsibilities<T, K>& nu, bool logits) {
    const auto at = [&](int row) { return rows.row(row).value[c]; };
    T slope[K], average = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      slope[k] = at(Row<K>::scale(k)) * dy;
      T rest = at(Row<K>::offset(k)) * dy;
      if constexpr (kMoments) {
        slope[k] += at(Row<K>::moment_quadratic(k)) * x + at(Row<K>::moment_linear(k));
        rest += at(Row<K>::moment_constant(k));
      }
      pull[k] = x * slope[k] + rest;
      if constexpr (kMoments) slope[k] += at(Row<K>::moment_quadratic(k)) * x;
      average += nu.weight[k] * pull[k];
    }
    average *= nu.scale;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      pull[k] = logits ? pull[k] - average : T(0);
      if (k > 0) {
        const T bent = at(Row<K>::quadratic(k)) * x;
        slope[k] += pull[k] * (bent + (bent + at(Row<K>::linear(k))));
      }
      dx += nu.weight[k] * slope[k];
    }
    dx *= nu.scale;
  }
};

// dx; with `learned` also the sums of dlogit, dlogit x', dlogit x'^2.
template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void differentiate_own(const Geometry& g, const GradientTensors<T>& tensors,
                                  const T* table, bool logits, bool learned,
                                  const Partials<T>& partials, T* exchange, unsigned char* slots,
                                  int sweep) {
  using Walk = WalkOver<OwnTiles<S, K, kAccess>>;
  using Tiles = typename Walk::Tiles;
  using Place = typename Tiles::Place;
  const Walk walk(g, slots, sweep);
  const Place& place = walk.place;
  const auto rows = own_rows<K, 0, Row<K>::kPosterior>(table, place);
  OwnSums<T, K, Place::kOwned> sums;
  const Tensor walked[] = {tensors.x, tensors.dy};
  walk.sweep(g, walked, tensors.dx, [&](unsigned char* slot, auto& output, int count, TileSlot) {
    T values[Place::kOwned][Place::kHeld], dy[Place::kOwned][Place::kHeld];
    Tiles::read(slot, 0, values);
    Tiles::read(slot, 1, dy);
    centre(values, rows.row(Row<K>::kShift));
#pragma unroll
    for (int r = 0; r < Place::kHeld; ++r) {
#pragma unroll
      for (int c = 0; c < Place::kOwned; ++c) {
        const T x = values[c][r];
        const OwnResponsibilities<T, K> nu(rows, c, x);
        const OwnGradient<T, K, true> gradient(rows, c, x, dy[c][r], nu, logits);
        if (learned) {
          T dlogit[K];
#pragma unroll
          for (int k = 0; k < K; ++k) dlogit[k] = nu.weight[k] * gradient.pull[k];
          sums.add(c, dlogit, place.inside(r, count) ? nu.scale : T(0), x, x);
        }
        values[c][r] = gradient.dx;
      }
    }
    output.write(values);
  });
  if (!learned) return;
  // Not kept in registers along the sweep, which needs them all.
  const Walk after(g, slots, sweep);
  store_own_sums<K>(g, after.place, sums, exchange, partials, after.chunk);
}

// dx of eval, which needs none of the sums of nu dy and nu dy x': both in one sweep.
template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void differentiate_own_evaluation(const Geometry& g, const GradientTensors<T>& tensors,
                                             const T* table, bool logits,
                                             const Partials<T>& partials, T* exchange,
                                             unsigned char* slots) {
  using Walk = WalkOver<OwnTiles<S, K, kAccess>>;
  using Tiles = typename Walk::Tiles;
  using Place = typename Tiles::Place;
  const Walk walk(g, slots, 0);
  const Place& place = walk.place;
  const auto rows = own_rows<K, 0, Row<K>::kForward>(table, place);
  OwnSums<T, K, Place::kOwned, false> sums;
  const Tensor walked[] = {tensors.x, tensors.dy};
  walk.sweep(g, walked, tensors.dx, [&](unsigned char* slot, auto& output, int, TileSlot) {
    T values[Place::kOwned][Place::kHeld], dy[Place::kOwned][Place::kHeld];
    Tiles::read(slot, 0, values);
    Tiles::read(slot, 1, dy);
    centre(values, rows.row(Row<K>::kShift));
#pragma unroll
    for (int r = 0; r < Place::kHeld; ++r) {
#pragma unroll
      for (int c = 0; c < Place::kOwned; ++c) {
        const T x = values[c][r];
        const OwnResponsibilities<T, K> nu(rows, c, x);
        // dy is 0 outside the tensor, as in sum_own_output_gradients.
        sums.add(c, nu.weight, nu.scale, dy[c][r], x);
        values[c][r] = OwnGradient<T, K, false>(rows, c, x, dy[c][r], nu, logits).dx;
      }
    }
    output.write(values);
  });
  const Walk after(g, slots, 0);
  store_own_sums<K>(g, after.place, sums, exchange, partials, after.chunk);
}

// Of eval there are no steps after kMergeOutputGradients; where a mixture is learned, there is one
// after those of BackwardStep.
constexpr int own_backward_steps(bool constant_statistics, bool learned) {
  return constant_statistics ? kDifferentiateInput : kBackwardSteps + learned;
}

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
    if (step > first_step) wait_between_steps(g.scope, p.barrier, step - first_step - 1);
    const Scratch<T, K> scratch(shared, g, 2 * OwnTiles<S, K, kAccess>::slot_bytes());
    if (step == kPrepareTables) {
      const Start<T> start{a.mixture, a.statistics, a.affine, a.eps, a.mixing_scale};
      prepare<S, K>(g, p.tensors.x, start, p.table, scratch.doubles());
    } else if (step == kSumOutputGradients && a.constant_statistics) {
      differentiate_own_evaluation<S, K, kAccess>(g, p.tensors, p.table, logits, p.partials,
                                                  scratch.exchange, shared);
    } else if (step == kSumOutputGradients) {
      sum_own_output_gradients<S, K, kAccess>(g, p.tensors, p.table, p.partials, scratch.exchange,
                                              shared, 0);
    } else if (step == kMergeOutputGradients) {
      merge_output_gradients<T, K>(g, partials, a, p.table, scratch.doubles());
    } else if (step == kDifferentiateInput) {
      const bool learned = logits && a.dmixture.mean != nullptr;
      differentiate_own<S, K, kAccess>(g, p.tensors, p.table, logits, learned, p.partials,
                                       scratch.exchange, shared, 1);
      step = kDifferentiateInput;  // so that no register keeps it along the sweep
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
