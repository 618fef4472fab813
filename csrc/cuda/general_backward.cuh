// The general backward, of the training forward and of eval: its steps, a launch each.
#pragma once

#include "cuda/general_sweeps.cuh"
#include "cuda/mixture_kernel.cuh"

namespace mixnorm::cuda {

enum class GeneralBackwardStep {
  kPrepare,
  kResponsibilities,
  kSums,
  kMerge,
  kLogitGradients,
  kInputGradient,
  kMixtureSums,
  kMergeMixture,
};

// dlogit_k = nu_k (dnu_k - sum_j nu_j dnu_j) of every position.
template <class S, class T = accumulation_t<S>>
__device__ void find_logit_gradients(const Geometry& g, const GradientTensors<T>& tensors,
                                     const T* table, const Weights<T>& nu, const Weights<T>& dlogit,
                                     T* shared) {
  using R = Row<kGeneralK>;
  const Tensor &x = tensors.x, &dy = tensors.dy;
  const S* const values = static_cast<const S*>(x.data);
  const S* const gradients = static_cast<const S*>(dy.data);
  sum_over_channels(
      g, shared,
      [&](T(&dnu)[kGeneralK], int channel, int column, const Cursor& at) {
        const T* const rows = column_start<kGeneralK>(table, column);
        const T value = T(widen(values[channel * x.strides.c + at.offset(x.strides)])) -
                        coefficient(rows, R::kShift);
        const T gradient = widen(gradients[channel * dy.strides.c + at.offset(dy.strides)]);
#pragma unroll
        for (int k = 0; k < kGeneralK; ++k) {
          if (k == g.components) break;
          dnu[k] +=
              gradient * (coefficient(rows, R::scale(k)) * value + coefficient(rows, R::offset(k)));
          dnu[k] += value * (coefficient(rows, R::moment_quadratic(k)) * value +
                             coefficient(rows, R::moment_linear(k))) +
                    coefficient(rows, R::moment_constant(k));
        }
      },
      [&](int group, int64_t position, T(&dnu)[kGeneralK]) {
        T average = 0;
#pragma unroll
        for (int k = 0; k < kGeneralK; ++k) {
          if (k == g.components) break;
          average += nu.at(g, group, k, position) * dnu[k];
        }
#pragma unroll
        for (int k = 0; k < kGeneralK; ++k) {
          if (k == g.components) break;
          dlogit.at(g, group, k, position) = nu.at(g, group, k, position) * (dnu[k] - average);
        }
      });
}

// As differentiate_input.
template <class S, class T = accumulation_t<S>>
__device__ void differentiate_general(const Geometry& g, const GradientTensors<T>& tensors,
                                      const T* table, const Weights<T>& nu,
                                      const Weights<T>& dlogit, bool through_posterior) {
  using R = Row<kGeneralK>;
  const Tensor &x = tensors.x, &dy = tensors.dy, &dx = tensors.dx;
  const GeneralBlock block(g, GeneralPlace(g));
  const T* const rows = column_start<kGeneralK>(table, block.column);
  const S* const values = static_cast<const S*>(x.data);
  const S* const gradients = static_cast<const S*>(dy.data);
  S* const to = static_cast<S*>(const_cast<void*>(dx.data));
  block.for_positions(g, [&](const Cursor& at, int64_t position) {
    const T value = T(widen(values[block.channel * x.strides.c + at.offset(x.strides)])) -
                    coefficient(rows, R::kShift);
    const T gradient = widen(gradients[block.channel * dy.strides.c + at.offset(dy.strides)]);
    T out = 0;
#pragma unroll
    for (int k = 0; k < kGeneralK; ++k) {
      if (k == g.components) break;
      out += nu.at(g, block.group, k, position) *
             (coefficient(rows, R::scale(k)) * gradient +
              (T(2) * coefficient(rows, R::moment_quadratic(k)) * value +
               coefficient(rows, R::moment_linear(k))));
    }
    if (through_posterior) {
#pragma unroll
      for (int k = 1; k < kGeneralK; ++k) {
        if (k >= g.components) break;
        out +=
            dlogit.at(g, block.group, k, position) *
            (T(2) * coefficient(rows, R::quadratic(k)) * value + coefficient(rows, R::linear(k)));
      }
    }
    narrow(out, to + block.channel * dx.strides.c + at.offset(dx.strides));
  });
}

template <class S>
__global__ void __launch_bounds__(kGeneralThreads, 1)
    general_backward_kernel(const __grid_constant__ BackwardProblem<accumulation_t<S>> p,
                            Weights<accumulation_t<S>> nu, Weights<accumulation_t<S>> dlogit,
                            GeneralBackwardStep step) {
  using T = accumulation_t<S>;
  using Step = GeneralBackwardStep;
  MIXNORM_DYNAMIC_SHARED(shared);
  const Geometry& g = p.geometry;
  const GradientArguments<T>& a = p.arguments;
  const Partials<const T> partials{p.partials.sums, p.partials.masses};
  const bool logits = g.components > 1 && a.responsibility_grad;
  T* const exchange = reinterpret_cast<T*>(shared);
  double* const buffer = reinterpret_cast<double*>(shared);
  const Tensor &x = p.tensors.x, &dy = p.tensors.dy;
  const auto centred = [&](const GeneralBlock& block, const Cursor& at) {
    const S* const data = static_cast<const S*>(x.data);
    return T(widen(data[block.channel * x.strides.c + at.offset(x.strides)])) -
           *column_start<kGeneralK>(p.table, block.column);
  };
  if (step == Step::kPrepare) {
    const Start<T> start{a.mixture, a.statistics, a.affine, a.eps, a.mixing_scale};
    prepare<S, kGeneralK>(g, x, start, p.table, buffer);
  } else if (step == Step::kResponsibilities) {
    find_responsibilities<S>(g, x, p.table, nu, exchange);
  } else if (step == Step::kSums) {
    sum_over_positions(g, nu, p.partials, exchange,
                       [&](const GeneralBlock& block, const Cursor& at, T& gradient, T& product) {
                         const S* const data = static_cast<const S*>(dy.data);
                         gradient =
                             widen(data[block.channel * dy.strides.c + at.offset(dy.strides)]);
                         product = gradient * centred(block, at);
                       });
  } else if (step == Step::kMerge) {
    merge_output_gradients<T, kGeneralK>(g, partials, a, p.table, buffer);
  } else if (step == Step::kLogitGradients) {
    find_logit_gradients<S>(g, p.tensors, p.table, nu, dlogit, exchange);
  } else if (step == Step::kInputGradient) {
    differentiate_general<S>(g, p.tensors, p.table, nu, dlogit, logits);
  } else if (step == Step::kMixtureSums) {
    sum_over_positions(g, dlogit, p.partials, exchange,
                       [&](const GeneralBlock& block, const Cursor& at, T& value, T& square) {
                         value = centred(block, at);
                         square = value * value;
                       });
  } else {
    merge_mixture_gradients<T, kGeneralK>(g, partials, a, logits, p.table, buffer);
    merge_mixing_weight_gradients<T, kGeneralK>(g, partials, a, logits, p.table, buffer);
  }
}

}  // namespace mixnorm::cuda
