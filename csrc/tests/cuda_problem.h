// A random problem for the CUDA kernels, in any element type and layout, beside its double model.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>
#include <initializer_list>
#include <random>
#include <vector>

#include "cuda/tensor.h"
#include "emulation/device.h"
#include "tests/check.h"
#include "tests/mixture_reference.h"

namespace mixnorm::tests {

enum class Layout { kPositions, kChannels, kSpaced };  // NCHW, NHWC, neither dense nor joined

struct Shape {
  int64_t batch, channels, length, components, groups;
};

// A test's own: the same whatever tests come before it.
inline unsigned seed_of(std::initializer_list<int64_t> parameters) {
  uint32_t seed = 2166136261u;  // FNV-1a
  for (const int64_t parameter : parameters) {
    seed = (seed ^ static_cast<uint32_t>(parameter)) * 16777619u;
  }
  return seed;
}

template <class S>
struct Element {
  using T = float;
  static constexpr cuda::Scalar kScalar = cuda::Scalar::kFloat;
  static double widen(S value) { return double(value); }
  static S narrow(double value) { return S(value); }
};
template <>
struct Element<double> {
  using T = double;
  static constexpr cuda::Scalar kScalar = cuda::Scalar::kDouble;
  static double widen(double value) { return value; }
  static double narrow(double value) { return value; }
};
template <>
struct Element<__half> {
  using T = float;
  static constexpr cuda::Scalar kScalar = cuda::Scalar::kHalf;
  static double widen(__half value) { return __half2float(value); }
  static __half narrow(double value) { return __float2half_rn(float(value)); }
};
template <>
struct Element<__nv_bfloat16> {
  using T = float;
  static constexpr cuda::Scalar kScalar = cuda::Scalar::kBFloat16;
  static double widen(__nv_bfloat16 value) { return __bfloat162float(value); }
  static __nv_bfloat16 narrow(double value) { return __float2bfloat16_rn(float(value)); }
};

// A tensor [N, C, L] in one of the layouts; what is not written stays NaN.
template <class S>
struct Array {
  Shape shape;
  int64_t stride_n, stride_c, stride_l;
  std::vector<S> data;

  Array(const Shape& s, Layout layout) : shape(s) {
    const int64_t C = s.channels, L = s.length;
    if (layout == Layout::kPositions) {
      stride_n = C * L, stride_c = L, stride_l = 1;
    } else if (layout == Layout::kChannels) {
      stride_n = C * L, stride_c = 1, stride_l = C;
    } else {
      stride_l = 2, stride_c = 2 * L + 1, stride_n = C * stride_c + 3;
    }
    data.resize(std::max<int64_t>(1, s.batch * std::max(stride_n, C * L)));
    std::memset(static_cast<void*>(data.data()), 0xff, data.size() * sizeof(S));
  }

  int64_t index(int64_t i, int64_t c) const {
    return i / shape.length * stride_n + c * stride_c + i % shape.length * stride_l;
  }
  // [M, C], rounded to the element type as it is stored.
  void store(Vector& values) {
    for (size_t j = 0; j < values.size(); ++j) {
      S& at = data[index(int64_t(j) / shape.channels, int64_t(j) % shape.channels)];
      at = Element<S>::narrow(values[j]);
      values[j] = Element<S>::widen(at);
    }
  }
  Vector load() const {
    Vector values(shape.batch * shape.length * shape.channels);
    for (size_t j = 0; j < values.size(); ++j) {
      values[j] =
          Element<S>::widen(data[index(int64_t(j) / shape.channels, int64_t(j) % shape.channels)]);
    }
    return values;
  }
  cuda::Input input() const {
    return {data.data(),  Element<S>::kScalar,
            shape.batch,  shape.channels,
            shape.length, stride_n,
            stride_c,     stride_l};
  }
  cuda::Output output() { return {data.data(), stride_n, stride_c, stride_l}; }
};

// Components a few deviations apart around `offset`, and one position drawn from each in turn.
inline Model random_model(const Shape& s, double offset, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  const int64_t M = s.batch * s.length, C = s.channels, K = s.components;
  Model m{M, C, K, s.groups, 1e-5, true, true, {}, {}, {}, {}, {}, {}};
  // The wider the group, the closer the components, so that responsibilities stay between 0 and 1.
  const double apart = 1.5 / std::sqrt(double(C / s.groups));
  for (int64_t i = 0; i < K * C; ++i) {
    m.mu.push_back(float(offset + apart * normal(generator)));
    m.sigma.push_back(float(1 + 0.3 * apart * std::fabs(normal(generator))));
    m.gamma.push_back(float(1 + 0.2 * normal(generator)));
    m.beta.push_back(float(0.5 * normal(generator)));
  }
  for (int64_t g = 0; g < s.groups; ++g) {
    for (int64_t k = 0; k < K; ++k) m.lambda.push_back(float((k + 1.0) * 2 / (K * (K + 1.0))));
  }
  for (int64_t i = 0; i < M; ++i) {
    for (int64_t c = 0; c < C; ++c) m.x.push_back(m.mu[i % K * C + c] + normal(generator));
  }
  return m;
}

template <class T>
std::vector<T> as(const Vector& values) {
  return {values.begin(), values.end()};
}

// What a kernel must write: NaN until it does.
template <class T>
std::vector<T> unwritten(size_t count) {
  return std::vector<T>(count, std::numeric_limits<T>::quiet_NaN());
}

// Workspace as a caller may give it: aligned, and full of NaN. What lies behind it stays as it is.
class PoisonedWorkspace {
 public:
  explicit PoisonedWorkspace(size_t bytes) : bytes_(bytes), memory_(bytes + 256 + kGuard, 0xff) {}
  ~PoisonedWorkspace() {
    const auto* const behind = get() + bytes_;
    CHECK(std::all_of(behind, behind + kGuard, [](unsigned char byte) { return byte == 0xff; }));
  }
  unsigned char* get() {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    return memory_.data() + (256 - address % 256) % 256;
  }

 private:
  static constexpr size_t kGuard = 1 << 20;
  size_t bytes_;
  std::vector<unsigned char> memory_;
};

}  // namespace mixnorm::tests
