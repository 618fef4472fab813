// The general forward: its steps, a launch each.
#pragma once

#include "cuda/forward_kernel.cuh"
#include "cuda/general_sweeps.cuh"

namespace mixnorm::cuda {

enum class GeneralForwardStep { kPrepare, kResponsibilities, kSums, kMergeEmStep, kMerge, kOutput };

template <class S, class T = accumulation_t<S>>
__device__ void normalize_general(const Geometry& g, const Tensor& x, const Tensor& y,
                                  const T* table, const Weights<T>& nu) {
  using R = Row<kGeneralK>;
  const GeneralBlock block(g, GeneralPlace(g));
  const T* const rows = column_start<kGeneralK>(table, block.column);
  const S* const from = static_cast<const S*>(x.data);
  S* const to = static_cast<S*>(const_cast<void*>(y.data));
  block.for_positions(g, [&](const Cursor& at, int64_t position) {
    const T value = T(widen(from[block.channel * x.strides.c + at.offset(x.strides)])) -
                    coefficient(rows, R::kShift);
    T out = 0;
#pragma unroll
    for (int k = 0; k < kGeneralK; ++k) {
      if (k == g.components) break;
      out += nu.at(g, block.group, k, position) *
             (coefficient(rows, R::scale(k)) * value + coefficient(rows, R::offset(k)));
    }
    narrow(out, to + block.channel * y.strides.c + at.offset(y.strides));
  });
}

template <class S>
__global__ void __launch_bounds__(kGeneralThreads, 1)
    general_forward_kernel(const __grid_constant__ ForwardProblem<accumulation_t<S>> p,
                           Weights<accumulation_t<S>> nu, GeneralForwardStep step) {
  using T = accumulation_t<S>;
  MIXNORM_DYNAMIC_SHARED(shared);
  const Geometry& g = p.geometry;
  T* const exchange = reinterpret_cast<T*>(shared);
  double* const buffer = reinterpret_cast<double*>(shared);
  if (step == GeneralForwardStep::kPrepare) {
    prepare<S, kGeneralK>(g, p.x, p.start, p.table, buffer);
  } else if (step == GeneralForwardStep::kResponsibilities) {
    find_responsibilities<S>(g, p.x, p.table, nu, exchange);
  } else if (step == GeneralForwardStep::kSums) {
    const S* const data = static_cast<const S*>(p.x.data);
    sum_over_positions(
        g, nu, p.partials, exchange,
        [&](const GeneralBlock& block, const Cursor& at, T& value, T& square) {
          const int64_t offset = block.channel * p.x.strides.c + at.offset(p.x.strides);
          value = T(widen(data[offset])) - *column_start<kGeneralK>(p.table, block.column);
          square = value * value;
        });
  } else if (step == GeneralForwardStep::kOutput) {
    normalize_general<S>(g, p.x, p.y, p.table, nu);
  } else {
    merge_moments<T, kGeneralK>(g, {p.partials.sums, p.partials.masses}, p.merge,
                                step == GeneralForwardStep::kMergeEmStep, p.table, buffer);
  }
}

}  // namespace mixnorm::cuda
