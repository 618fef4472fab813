// From the chunks' sums of the backward to the gradients of the parameters, and to the tables that
// dx needs.
#pragma once

#include "cuda/coefficients.cuh"

namespace mixnorm::cuda {

template <class T>
struct GradientArguments {
  Mixture<const T> mixture;
  BatchMoments<const T> statistics;  // that the output was normalized by
  Affine<T> affine;
  double eps;
  bool mixing_scale;
  bool constant_statistics;  // eval: they do not depend on x
  bool responsibility_grad;
  T* dweight;           // [K, C]
  T* dbias;             // [K, C]
  Mixture<T> dmixture;  // null pointers unless wanted
};

// dbias = H1, dweight = r H2 / sqrt(mixing weight), and the moments' rows.
template <class T, int K>
__device__ void merge_output_gradients(const Geometry& g, const Partials<const T>& partials,
                                       const GradientArguments<T>& a, T* table, double* buffer) {
  const Lanes lanes(g.chunks, buffer);
  const int width = columns(g);
  for_columns(g, lanes, [&](const Column& column) {
    const ColumnRows<T, K> rows(table, column.index);
    const double shift = column.exists ? rows.read(Row<K>::kShift) : 0.0;
#pragma unroll 1
    for (int k = 0; k < g.components; ++k) {
      double sums[2] = {0, 0};
      if (column.exists) {
        const T* const from = partials.sums + int64_t(2 * k) * width + column.index;
        sums[0] = chunk_share(g, lanes, from, int64_t(2 * K) * width);
        sums[1] = chunk_share(g, lanes, from + width, int64_t(2 * K) * width);
      }
      lanes.sum(sums);
      if (lanes.lane != 0 || !column.exists) continue;
      const int gk = column.group * g.components + k;
      const int64_t kc = int64_t(k) * g.channels + column.channel;
      const double mean = double(a.statistics.mean[kc]) - shift, var = a.statistics.var[kc];
      const double h1 = sums[0], h2 = sums[1] - mean * h1;
      const double mixing =
          device::mixing_scale(double(a.mixture.mixing_weight[gk]), a.mixing_scale);
      a.dbias[kc] = static_cast<T>(h1);
      a.dweight[kc] = static_cast<T>(mixing * device::inverse_deviation(var, a.eps) * h2);
      if (a.constant_statistics) continue;
      const auto gradient = device::moment_gradient(
          double(a.statistics.mass[gk]), mean, var, affine_weight(a.affine, k, column.channel),
          affine_bias(a.affine, k, column.channel), mixing, a.eps, h1, h2);
      rows.write(Row<K>::moment_quadratic(k), gradient.quadratic);
      rows.write(Row<K>::moment_linear(k), gradient.linear);
      rows.write(Row<K>::moment_constant(k), gradient.constant);
      rows.write(Row<K>::scale_sum(k), gradient.scale * h2);
    }
  });
}

}  // namespace mixnorm::cuda
