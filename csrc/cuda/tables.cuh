// Tables [rows, columns] of coefficients in the workspace, written between the sweeps by whoever
// merges, read by every block. Columns are channels, groups padded to whole warps; the padding is
// zeros, so it adds nothing to any sum.
#pragma once

#include "cuda/geometry.h"
#include "cuda/thread.cuh"

namespace mixnorm::cuda {

template <int K>
struct Row {
  static constexpr int kShift = 0;
  // Log-odds of component k >= 1 against component 0: quadratic x'^2 + linear x' + constant.
  static constexpr int quadratic(int k) { return 2 * k - 1; }
  static constexpr int linear(int k) { return 2 * k; }
  static constexpr int odds(int k) { return 2 * K - 2 + k; }
  // y = sum nu (scale x' + offset).
  static constexpr int scale(int k) { return 3 * K - 2 + 2 * k; }
  static constexpr int offset(int k) { return 3 * K - 1 + 2 * k; }
  static constexpr int kForward = 5 * K - 2;
  // device::MomentGradient's quadratic, linear, constant, and alpha H2.
  static constexpr int moment_quadratic(int k) { return kForward + 2 * k; }
  static constexpr int moment_linear(int k) { return kForward + 2 * k + 1; }
  static constexpr int moment_constant(int k) { return kForward + 2 * K + k; }
  static constexpr int scale_sum(int k) { return kForward + 3 * K + k; }
  static constexpr int kBackward = kForward + 4 * K;
};

// A thread's channels of one row.
template <class T, int N>
struct alignas(N * sizeof(T)) Columns {
  T value[N];
};

// Whether the forward's sweeps have registers for their rows.
template <int K, Access kAccess>
constexpr bool kKeepRows = K <= (kAccess == Access::kElements ? 2 : 3);

// The rows that a sweep uses, of the thread's channels. kKeep: loaded once, into registers; else
// from the cache whenever they are used.
template <class T, int N, int kFirst, int kCount, bool kKeep>
class Coefficients {
 public:
  __device__ Coefficients(const T* table, const Geometry& g, int column)
      : table_(table + column), columns_(columns(g)) {
    if constexpr (kKeep) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) kept_[i] = load(kFirst + i);
    }
  }

  __device__ __forceinline__ Columns<T, N> row(int i) const {
    if constexpr (kKeep) {
      return kept_[i - kFirst];
    } else {
      return load(i);
    }
  }

 private:
  __device__ __forceinline__ Columns<T, N> load(int i) const {
    return *reinterpret_cast<const Columns<T, N>*>(table_ + int64_t(i) * columns_);
  }

  const T* table_;
  int columns_;
  Columns<T, N> kept_[kKeep ? kCount : 1];
};

}  // namespace mixnorm::cuda
