// Gradients of eval in one sweep: dx does not depend on the sums. A kernel of its own, because they
// and the training backward's steps would not share a thread's registers.
#pragma once

#include "cuda/backward_kernel.cuh"

namespace mixnorm::cuda {

// The thread's parts of dnu, without their constants: there are no moments' own.
template <class Tile, int K, class T, int kOwned, int kHeld>
__device__ __forceinline__ void output_posterior_gradient(const T (&x)[kOwned][kHeld],
                                                          const T (&dy)[kOwned][kHeld],
                                                          const typename Tile::Rows& rows,
                                                          T (&dnu)[K][kHeld]) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const auto scale = rows.row(Row<K>::scale(k)), offset = rows.row(Row<K>::offset(k));
#pragma unroll
    for (int c = 0; c < kOwned; ++c) {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
        dnu[k][r] += dy[c][r] * (scale.value[c] * x[c][r] + offset.value[c]);
      }
    }
  }
}

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
  sum_moment_constants<K>(g, place, table, scratch);
  Sums<T, K, kOwned> sums;
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
        output_posterior_gradient<Tile, K>(x, dy, rows, dnu);
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
#pragma unroll
      for (int c = 0; c < kOwned; ++c) {
#pragma unroll
        for (int r = 0; r < kHeld; ++r) {
          // dy is 0 outside the tensor, which keeps what x' is there out of the sums.
          const T weighted = nu[r] * dy[c][r];
          dx[c][r] += weighted * scale.value[c];
          sums.first[k][c] += weighted;
          sums.second[k][c] += weighted * x[c][r];
        }
      }
    }
    if (K > 1 && responsibility_grad) {
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
