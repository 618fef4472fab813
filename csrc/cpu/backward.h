// Gradients of the training forward on the CPU (docs/method.md, section 2). Torch-free.
#pragma once

#include "cpu/executor.h"
#include "cpu/tensor.h"

namespace mixnorm::cpu {

template <class T>
struct BackwardArguments {
  int64_t components, groups;
  const T* responsibilities;  // as forward stored them
  BatchMoments<const T> moments;
  Mixture<const T> mixture;  // forward's final_mixture
  Affine<T> affine;
  double eps;
  bool mixing_scale;
  bool responsibility_grad;
  Output dx;
  T* dweight;           // [K, C]
  T* dbias;             // [K, C]
  Mixture<T> dmixture;  // null pointers unless wanted
};

// dy has x's element type and sizes.
template <class T>
void backward(const Input& dy, const Input& x, const BackwardArguments<T>& arguments,
              Executor executor);

}  // namespace mixnorm::cpu
