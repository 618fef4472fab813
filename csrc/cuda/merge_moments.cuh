// M-step: from the chunks' sums to moments, and to the tables of what follows.
#pragma once

#include "cuda/coefficients.cuh"
#include "device/moments.h"

namespace mixnorm::cuda {

template <class T>
struct MergeArguments {
  Mixture<const T> mixture;  // that the sums were made under
  Mixture<T> next;           // an EM step's result, or where the last merge copies the mixture to
  BatchMoments<T> moments;   // of the last merge
  Affine<T> affine;
  double eps;
  bool mixing_scale;
};

// An EM step writes (S / M, m, q) to `next` and its log-odds to the table; the last merge writes
// the moments and the output's rows, and copies the mixture to `next` unless they are the same.
template <class T, int K>
__device__ void merge_moments(const Geometry& g, const Partials<const T>& partials,
                              const MergeArguments<T>& a, bool em_step, T* table, double* buffer) {
  const Lanes lanes(g.chunks, buffer);
  const int width = columns(g);
  for_columns(g, lanes, [&](const Column& column) {
    const ColumnRows<T, K> rows(table, column.index);
    const double shift = column.exists ? rows.read(Row<K>::kShift) : 0.0;
    OddsWriter<T, K> odds(rows, column.first_of_group, a.eps);
#pragma unroll 1
    for (int k = 0; k < g.components; ++k) {
      double sums[3] = {0, 0, 0};  // mass, first, second
      if (column.exists) {
        if (K > 1) {
          sums[0] =
              chunk_share(g, lanes, partials.masses + column.group * K + k, int64_t(g.groups) * K);
        }
        const T* const from = partials.sums + int64_t(2 * k) * width + column.index;
        sums[1] = chunk_share(g, lanes, from, int64_t(2 * K) * width);
        sums[2] = chunk_share(g, lanes, from + width, int64_t(2 * K) * width);
      }
      lanes.sum(sums);
      if (lanes.lane != 0 || !column.exists) continue;
      const double mass = K == 1 ? double(g.positions) : sums[0];
      const int gk = column.group * g.components + k;
      const int64_t kc = int64_t(k) * g.channels + column.channel;
      const auto moments =
          device::centred_moments(mass, sums[1], sums[2], double(a.mixture.mean[kc]) - shift);
      if (em_step) {
        const double share = mass / double(g.positions > 0 ? g.positions : 1);
        if (column.first_of_group) a.next.mixing_weight[gk] = static_cast<T>(share);
        a.next.mean[kc] = static_cast<T>(moments.mean + shift);
        a.next.var[kc] = static_cast<T>(moments.var);
        odds.component(k, share, moments.mean, moments.var);
      } else {
        if (column.first_of_group) a.moments.mass[gk] = static_cast<T>(mass);
        a.moments.mean[kc] = static_cast<T>(moments.mean + shift);
        a.moments.var[kc] = static_cast<T>(moments.var);
        if (a.next.mean != nullptr && a.next.mean != a.mixture.mean) {
          if (column.first_of_group) a.next.mixing_weight[gk] = a.mixture.mixing_weight[gk];
          a.next.mean[kc] = a.mixture.mean[kc];
          a.next.var[kc] = a.mixture.var[kc];
        }
        const double mixing_weight = a.mixture.mixing_weight[gk];
        const double scale = affine_weight(a.affine, k, column.channel) *
                             device::mixing_scale(mixing_weight, a.mixing_scale) *
                             device::inverse_deviation(moments.var, a.eps);
        write_output<T, K>(rows, k, scale,
                           affine_bias(a.affine, k, column.channel) - scale * moments.mean);
      }
    }
  });
}

}  // namespace mixnorm::cuda
