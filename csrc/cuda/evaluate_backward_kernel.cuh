// Gradients of eval in one sweep: dx does not depend on the sums. A kernel of its own, because they
// and the training backward's steps would not share a thread's registers.
#pragma once

#include "cuda/backward_kernel.cuh"

namespace mixnorm::cuda {

// dx = sum nu scale dy + sum dlogit (linear + 2 quadratic x'), and the sums of nu dy and nu dy x'.
template <class S, int K, Access kAccess, class T = accumulation_t<S>>
__device__ void differentiate_evaluation(const Geometry& g, const GradientTensors<T>& tensors,
                                         const T* table, const Partials<T>& partials,
                                         bool responsibility_grad, const Scratch<T, K>& scratch,
                                         unsigned char* slots) {
  using Tile = GradientTile<S, K, kAccess>;
  constexpr int kOwned = Tile::kOwned, kHeld = Tile::kHeld;
  const Walk<S, K, kAccess> walk(g, slots, 0);
  const auto& place = walk.place;
  const typename Tile::Rows rows(table, place.column);
  sum_odds_constants<K>(g, place, table, scratch);
  sum_posterior_constants<K>(g, place, table, scratch);
  Sums<T, K, kOwned> sums;
  const Tensor walked[] = {tensors.x, tensors.dy};
  walk.sweep(g, walked, tensors.dx, [&](unsigned char* slot, auto& output, int count, TileSlot at) {
    const Tile tile(slot, rows);
    T* const tile_nu = scratch.nu_of(g, at.index);
    if constexpr (K > 1) {
      responsibilities<K>(g, place, tile.x, rows, count, scratch, tile_nu,
                          static_cast<T*>(nullptr));
      if (responsibility_grad) {
        logit_gradients<K, false>(g, place, tile, rows, count, scratch, tile_nu,
                                  static_cast<T*>(nullptr));
      }
    }
    T dx[kOwned][kHeld] = {};
#pragma unroll
    for (int k = 0; k < K; ++k) {
      T nu[kHeld];
      load_responsibility<K>(g, place, k, count, tile_nu, nu);
      const auto scale = rows.row(Row<K>::scale(k));
#pragma unroll
      for (int c = 0; c < kOwned; ++c) {
#pragma unroll
        for (int r = 0; r < kHeld; ++r) {
          // dy is 0 outside the tensor, which keeps what x' is there out of the sums.
          const T weighted = nu[r] * tile.dy[c][r];
          dx[c][r] += weighted * scale.value[c];
          sums.first[k][c] += weighted;
          sums.second[k][c] += weighted * tile.x[c][r];
        }
      }
    }
    if constexpr (K > 1) {
      if (responsibility_grad) add_logit_gradients<K>(g, place, tile, rows, scratch, dx);
    }
    output.write(dx);
  });
  const Walk<S, K, kAccess> after(g, slots, 0);
  store_sums(g, after.place, sums, scratch.exchange,
             partials.sums + int64_t(after.chunk) * 2 * K * columns(g));
}

enum EvaluateBackwardStep { kPrepareOutput, kDifferentiateOutput, kMergeSums, kEvaluateSteps };

template <class S, int K, Access kAccess>
__global__ void __launch_bounds__(kMixtureThreads, 1)
    evaluate_backward_kernel(const __grid_constant__ BackwardProblem<accumulation_t<S>> p, int step,
                             int) {
  using T = accumulation_t<S>;
  MIXNORM_DYNAMIC_SHARED(shared);
  const Geometry& g = p.geometry;
  const GradientArguments<T>& a = p.arguments;
  const Scratch<T, K> scratch(shared, g, 2 * TileAccess<S, K, kAccess>::slot_bytes());
  if (step == kPrepareOutput) {
    const Start<T> start{a.mixture, a.statistics, a.affine, a.eps, a.mixing_scale};
    prepare<S, K>(g, p.tensors.x, start, p.table, scratch.doubles());
  } else if (step == kDifferentiateOutput) {
    differentiate_evaluation<S, K, kAccess>(g, p.tensors, p.table, p.partials,
                                            a.responsibility_grad, scratch, shared);
  } else {
    merge_output_gradients<T, K>(g, {p.partials.sums, p.partials.masses}, a, p.table,
                                 scratch.doubles());
  }
}

template <class S>
struct FindEvaluateBackward {
  template <int K, Access kAccess>
  BackwardKernel<accumulation_t<S>> operator()(Instance<K, kAccess>) const {
    return evaluate_backward_kernel<S, K, kAccess>;
  }
};

template <class S>
BackwardKernel<accumulation_t<S>> find_evaluate_backward_kernel(Access access, int* components);

}  // namespace mixnorm::cuda
