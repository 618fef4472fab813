// Training forward on the CPU (docs/method.md, section 1). Torch-free.
#pragma once

#include "cpu/executor.h"
#include "cpu/tensor.h"

namespace mixnorm::cpu {

// Whether forward stores the responsibilities for backward. With one group they are K / C numbers
// per element of x; with more, they would outgrow x and backward computes them again.
inline bool keeps_responsibilities(int64_t components, int64_t groups) {
  return components > 1 && groups == 1;
}

template <class T>
struct ForwardArguments {
  int64_t components, groups;
  Mixture<const T> mixture;
  Affine<T> affine;
  double eps;
  int64_t em_iters;
  bool mixing_scale;
  Output y;
  BatchMoments<T> moments;
  T* responsibilities;  // [K, N * L] where keeps_responsibilities, else unused
  Mixture<T> final_mixture;
};

// em_iters EM steps from `mixture` to `final_mixture`; moments and y under the latter.
template <class T>
void forward(const Input& x, const ForwardArguments<T>& arguments, Executor executor);

}  // namespace mixnorm::cpu
