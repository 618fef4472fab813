// The first tables: the shift of every channel, and what follows from the mixture alone.
#pragma once

#include "cuda/coefficients.cuh"
#include "cuda/sweep.cuh"
#include "device/shift.h"

namespace mixnorm::cuda {

// Where tables start from. T: accumulation type.
template <class T>
struct Start {
  Mixture<const T> mixture;          // of the log-odds
  BatchMoments<const T> statistics;  // of the output and, weighted by mass, of the shift; null
                                     // pointers: unknown, and the shift is sampled from x
  Affine<T> affine;
  double eps;
  bool mixing_scale;
};

constexpr int kShiftSamples = 32;

// The thread's share of the mean over positions spread evenly.
template <class S>
__device__ double sample_share(const Geometry& g, const Tensor& x, int channel, int lane,
                               int lanes) {
  if (lane >= lanes || g.positions == 0) return 0;
  double sum = 0;
  for (int sample = lane; sample < kShiftSamples; sample += lanes) {
    const Cursor at(g.positions * sample / kShiftSamples, g.length);
    const S* const data = static_cast<const S*>(x.data);
    sum += static_cast<double>(widen(data[channel * x.strides.c + at.offset(x.strides)]));
  }
  return sum / kShiftSamples;
}

template <class T>
__device__ T centre_of(const Geometry& g, const BatchMoments<const T>& statistics, double eps,
                       const Column& column) {
  const auto kc = [&](int k) { return int64_t(k) * g.channels + column.channel; };
  return device::mixture_centre(
      g.components, T(eps), [&](int k) { return statistics.mass[column.group * g.components + k]; },
      [&](int k) { return statistics.mean[kc(k)]; }, [&](int k) { return statistics.var[kc(k)]; });
}

// Writes all of the table: what is not known yet, and padding columns, are zeros.
template <class S, int K, class T = accumulation_t<S>>
__device__ void prepare(const Geometry& g, const Tensor& x, const Start<T>& start, T* table,
                        double* buffer) {
  const bool sampled = start.statistics.mean == nullptr;
  const Lanes lanes(sampled ? kShiftSamples : 1, buffer,
                    g.scope == Scope::kGrid ? 1 : (own_columns(g) + g.chunks - 1) / g.chunks);
  for_columns(g, lanes, [&](const Column& column) {
    double shift[1] = {0};
    if (sampled) {
      if (column.exists) {
        shift[0] = sample_share<S>(g, x, column.channel, lanes.lane, lanes.depth);
      }
      lanes.sum(shift);
    }
    if (lanes.lane != 0 || !column.inside) return;
    const ColumnRows<T, K> rows(table, column.index);
#pragma unroll 1
    for (int row = 0; row < Row<K>::kCount; ++row) rows.write(row, 0);
    if (!column.exists) return;
    if (!sampled) shift[0] = centre_of(g, start.statistics, start.eps, column);
    // What is subtracted from x is the rounded shift.
    const T rounded = isfinite(shift[0]) ? static_cast<T>(shift[0]) : T(0);
    const double origin = rounded;
    rows.write(Row<K>::kShift, origin);
    OddsWriter<T, K> odds(rows, column.first_of_group, start.eps);
    PosteriorWriter<T, K> posterior(rows);
#pragma unroll 1
    for (int k = 0; k < K; ++k) {
      if (k >= g.components) {
        odds.absent(k);
        continue;
      }
      const int64_t kc = int64_t(k) * g.channels + column.channel;
      const double mixing_weight = start.mixture.mixing_weight[column.group * g.components + k];
      odds.component(k, mixing_weight, double(start.mixture.mean[kc]) - origin,
                     start.mixture.var[kc]);
      if (sampled) continue;
      const double scale = affine_weight(start.affine, k, column.channel) *
                           device::mixing_scale(mixing_weight, start.mixing_scale) *
                           device::inverse_deviation(double(start.statistics.var[kc]), start.eps);
      const double mean = double(start.statistics.mean[kc]) - origin;
      const double offset = affine_bias(start.affine, k, column.channel) - scale * mean;
      write_output<T, K>(rows, k, scale, offset);
      posterior.output(k, scale, offset);
    }
  });
}

}  // namespace mixnorm::cuda
