// Gradients of the training forward on the CPU (docs/method.md, section 2). Torch-free.
#pragma once

#include "cpu/executor.h"
#include "cpu/tensor.h"

namespace mixnorm::cpu {

template <class T>
struct BackwardArguments {
  int64_t components, groups;
  const T* responsibilities;  // as forward stored them; null: computed again
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

// dy has x's element type and sizes, here and below.
template <class T>
void backward(const Input& dy, const Input& x, const BackwardArguments<T>& arguments,
              Executor executor);

// The two sweeps of backward apart: the sums of one x, then its gradients from the sums of all that
// the moments are of. Neither is given the responsibilities.
template <class T>
struct BackwardSumsArguments {
  int64_t components, groups;
  BatchMoments<const T> moments;
  Mixture<const T> mixture;
  double eps;
  T* h1;  // sum nu dy, [K, C]
  T* h2;  // sum nu dy (x - m), [K, C]
};

template <class T>
void backward_sums(const Input& dy, const Input& x, const BackwardSumsArguments<T>& arguments,
                   Executor executor);

template <class T>
void backward_apply(const Input& dy, const Input& x, const T* h1, const T* h2,
                    const BackwardArguments<T>& arguments, Executor executor);

}  // namespace mixnorm::cpu
