// From the chunks' sums of the backward to the gradients of the parameters, and to the tables that
// dx needs.
#pragma once

#include "cuda/coefficients.cuh"

namespace mixnorm::cuda {

// Sums over the positions that the moments are of, [K, C]: sum nu dy and sum nu dy (x - m).
template <class T>
struct GradientSums {
  T *h1, *h2;
};

template <class T>
struct GradientArguments {
  Mixture<const T> mixture;
  BatchMoments<const T> statistics;  // that the output was normalized by
  Affine<T> affine;
  double eps;
  bool mixing_scale;
  bool constant_statistics;  // eval: they do not depend on x
  bool responsibility_grad;
  T* dweight;                   // [K, C]
  T* dbias;                     // [K, C]
  Mixture<T> dmixture;          // null pointers unless wanted
  GradientSums<const T> given;  // null pointers: those of the chunks
  GradientSums<T> wanted;       // null pointers unless they, and nothing else, are wanted
};

// dbias = H1, dweight = r H2 / sqrt(mixing weight), and the moments' rows; or the sums themselves.
template <class T, int K>
__device__ void merge_output_gradients(const Geometry& g, const Partials<const T>& partials,
                                       const GradientArguments<T>& a, T* table, double* buffer) {
  const bool given = a.given.h1 != nullptr;
  const Lanes lanes(given ? 1 : g.chunks, buffer);
  const int width = columns(g);
  for_columns(g, lanes, [&](const Column& column) {
    const ColumnRows<T, K> rows(table, column.index);
    const double shift = column.exists ? rows.read(Row<K>::kShift) : 0.0;
    PosteriorWriter<T, K> posterior(rows);
#pragma unroll 1
    for (int k = 0; k < g.components; ++k) {
      double sums[2] = {0, 0};
      if (column.exists && !given) {
        const T* const from = partials.sums + int64_t(2 * k) * width + column.index;
        sums[0] = chunk_share(g, lanes, from, int64_t(2 * K) * width);
        sums[1] = chunk_share(g, lanes, from + width, int64_t(2 * K) * width);
      }
      if (!given) lanes.sum(sums);
      if (lanes.lane != 0 || !column.exists) continue;
      const int gk = column.group * g.components + k;
      const int64_t kc = int64_t(k) * g.channels + column.channel;
      const double mean = double(a.statistics.mean[kc]) - shift, var = a.statistics.var[kc];
      const double h1 = given ? double(a.given.h1[kc]) : sums[0];
      const double h2 = given ? double(a.given.h2[kc]) : sums[1] - mean * h1;
      if (a.wanted.h1 != nullptr) {
        a.wanted.h1[kc] = static_cast<T>(h1);
        a.wanted.h2[kc] = static_cast<T>(h2);
        continue;
      }
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
      posterior.moments(k, gradient);
      rows.write(Row<K>::scale_sum(k), gradient.scale * h2);
    }
  });
}

}  // namespace mixnorm::cuda
