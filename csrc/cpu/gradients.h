// What the two backward passes share: the coefficients of the gradient kernels and the final sums.
#pragma once

#include "cpu/sweep.h"

namespace mixnorm::cpu {

// The statistics that the forward normalized with, centred, and the layer's options.
template <class T>
struct Normalizer {
  const std::vector<T>& shift;
  const CentredMixture& mixture;  // what the responsibilities were computed from
  const std::vector<double>& mean;
  const std::vector<double>& var;
  Affine<T> affine;
  double eps;
  bool mixing_scale;
};

// H1 = sum nu dy and H2 = sum nu dy (x - m), [K, C].
struct OutputSums {
  std::vector<double> h1, h2;
};
OutputSums output_sums(const Plan& plan, const ChunkSums& sums, const std::vector<double>& mean);

// dbias = H1, dweight = r H2 / sqrt(mixing weight).
template <class T>
void store_affine_gradients(const Plan& plan, const Normalizer<T>& normalizer,
                            const OutputSums& sums, T* dweight, T* dbias);

// Coefficients and constants of posterior_gradient and input_gradient. `mass` [G, K] and `sums`
// carry the moments' dependence on x; both null where the statistics are constants.
template <class T>
struct GradientTables {
  CoefficientTable<T> posterior;
  std::vector<T> constants;  // [G, K]
  CoefficientTable<T> input;

  GradientTables(const Plan& plan, const Normalizer<T>& normalizer, const double* mass,
                 const OutputSums* sums);
};

}  // namespace mixnorm::cpu
