// Responsibility-weighted moments of one batch on the CPU (docs/method.md, section 1). Torch-free.
#pragma once

#include <cstdint>

#include "cpu/executor.h"
#include "cpu/tensor.h"

namespace mixnorm::cpu {

// Contiguous statistics of the accumulation type T: double for double input, float otherwise.
template <class T>
struct MomentsArguments {
  int64_t components, groups;
  const T* mixing_weight;  // [G, K]
  const T* mean;           // [K, C]
  const T* var;            // [K, C]
  double eps;
  T* mass;        // [G, K]
  T* batch_mean;  // [K, C]
  T* batch_var;   // [K, C]
};

// The result does not depend on the number of threads: positions are cut into chunks by the shape
// alone, and the chunks' sums are added in order.
template <class T>
void moments(const Input& x, const MomentsArguments<T>& arguments, Executor executor);

}  // namespace mixnorm::cpu
