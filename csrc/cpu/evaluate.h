// Normalization by the mixture's own mean and variance, and its gradients, on the CPU. Torch-free.
#pragma once

#include "cpu/executor.h"
#include "cpu/tensor.h"

namespace mixnorm::cpu {

template <class T>
struct EvaluateArguments {
  int64_t components, groups;
  Mixture<const T> mixture;
  Affine<T> affine;
  double eps;
  bool mixing_scale;
  Output y;
};

template <class T>
void evaluate(const Input& x, const EvaluateArguments<T>& arguments, Executor executor);

template <class T>
struct EvaluateBackwardArguments {
  int64_t components, groups;
  Mixture<const T> mixture;
  Affine<T> affine;
  double eps;
  bool mixing_scale;
  bool responsibility_grad;
  Output dx;
  T* dweight;  // [K, C]
  T* dbias;    // [K, C]
};

// dy has x's element type and sizes.
template <class T>
void evaluate_backward(const Input& dy, const Input& x,
                       const EvaluateBackwardArguments<T>& arguments, Executor executor);

}  // namespace mixnorm::cpu
