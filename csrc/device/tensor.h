// Tensors as the kernels see them: a pointer, an element type, sizes and strides. Torch-free.
#pragma once

#include <cstdint>

namespace mixnorm::device {

enum class Scalar { kFloat, kDouble, kHalf, kBFloat16 };

// x[n, c, l] is at data + n * stride_n + c * stride_c + l * stride_l, counted in elements.
struct Input {
  const void* data;
  Scalar scalar;
  int64_t batch, channels, length;
  int64_t stride_n, stride_c, stride_l;
};

// A tensor to write, of the input's element type and sizes. No two elements may coincide.
struct Output {
  void* data;
  int64_t stride_n, stride_c, stride_l;
};

// Statistics and parameters below are contiguous and of the accumulation type T: double for double
// input, float otherwise. G groups, K components, C channels.
template <class T>
struct Mixture {
  T* mixing_weight;  // [G, K]
  T* mean;           // [K, C]
  T* var;            // [K, C]
};

template <class T>
struct BatchMoments {
  T* mass;  // [G, K]
  T* mean;  // [K, C]
  T* var;   // [K, C]
};

// One affine pair per component and channel; a row stride of 0 shares one pair among the
// components. Null pointers stand for weights of 1 and biases of 0.
template <class T>
struct Affine {
  const T* weight;
  int64_t weight_stride;
  const T* bias;
  int64_t bias_stride;
};

}  // namespace mixnorm::device
