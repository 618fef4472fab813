// The output sweep: on its own with the moments given, and as forward and evaluate share it.
// Torch-free.
#pragma once

#include "cpu/sweep.h"

namespace mixnorm::cpu {

// Coefficients of TileKernels::normalize.
template <class T>
struct Normalization {
  CoefficientTable<T> coefficients;

  // mean [K, C] is relative to shift.
  Normalization(const Plan& plan, const std::vector<T>& shift, const std::vector<double>& mean,
                const std::vector<double>& var, const std::vector<double>& mixing_weight,
                const Affine<T>& affine, double eps, bool mixing_scale);
};

// y from the stored responsibilities, or from those that `posterior` gives.
template <class T>
void normalize(const Plan& plan, Executor executor, const Input& x, const Posterior<T>* posterior,
               const T* stored, const Normalization<T>& normalization, const Output& y);

template <class T>
struct NormalizeArguments {
  int64_t components, groups;
  Mixture<const T> mixture;
  BatchMoments<const T> moments;  // of x, or of more than x
  Affine<T> affine;
  double eps;
  bool mixing_scale;
  Output y;
};

template <class T>
void normalize(const Input& x, const NormalizeArguments<T>& arguments, Executor executor);

}  // namespace mixnorm::cpu
