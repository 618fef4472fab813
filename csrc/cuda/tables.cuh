// The table of coefficients in the workspace, written between the sweeps by whoever merges, read by
// every block: [columns / N][rows][N], N channels of a thread. A thread's rows lie at fixed
// distances, so that no register holds their addresses. Columns are channels, groups padded to
// whole warps; the padding is zeros, so it adds nothing to any sum.
#pragma once

#include <type_traits>

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
  // device::MomentGradient's quadratic, linear and constant.
  static constexpr int moment_quadratic(int k) { return kForward + 2 * k; }
  static constexpr int moment_linear(int k) { return kForward + 2 * k + 1; }
  static constexpr int moment_constant(int k) { return kForward + 2 * K + k; }
  static constexpr int kPosterior = kForward + 3 * K;
  // dnu of component k >= 1 against component 0, which is all that dlogit depends on:
  // dy (scale x' + offset) + x' (quadratic x' + linear) + constant.
  static constexpr int posterior_scale(int k) { return kPosterior + 4 * k - 4; }
  static constexpr int posterior_offset(int k) { return kPosterior + 4 * k - 3; }
  static constexpr int posterior_quadratic(int k) { return kPosterior + 4 * k - 2; }
  static constexpr int posterior_linear(int k) { return kPosterior + 4 * k - 1; }
  static constexpr int posterior_constant(int k) { return kPosterior + 4 * K - 5 + k; }
  // alpha H2.
  static constexpr int scale_sum(int k) { return kPosterior + 5 * K - 5 + k; }
  static constexpr int kCount = kPosterior + 6 * K - 5;
  static_assert(kCount == table_rows(K));
};

// Where the rows of a column start; they are kChannels<T, K> apart.
template <int K, class T>
__device__ __forceinline__ T* column_start(T* table, int column) {
  constexpr int N = kChannels<std::remove_const_t<T>, K>;
  return table + int64_t(column / N) * (Row<K>::kCount * N) + column % N;
}

// A thread's channels of one row.
template <class T, int N>
struct alignas(N * sizeof(T)) Columns {
  T value[N];
};

// Whether the forward's sweeps have registers for their rows.
template <int K, Access kAccess>
constexpr bool kKeepRows = K <= 2;

// The rows that a sweep uses, of the thread's N channels. kKeep: loaded once, into registers; else
// from the cache whenever they are used.
template <class T, int K, int kFirst, int kRows, bool kKeep, int N_ = kChannels<T, K>>
class Coefficients {
 public:
  static constexpr int N = N_;

  __device__ Coefficients(const T* table, int column) : start_(column_start<K>(table, column)) {
    if constexpr (kKeep) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) kept_[i] = load(kFirst + i);
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
    constexpr int kTogether = kChannels<T, K>, kPart = N < kTogether ? N : kTogether;
    Columns<T, N> row;
#pragma unroll
    for (int c = 0; c < N; c += kPart) {
      const auto part = *reinterpret_cast<const Columns<T, kPart>*>(
          start_ + c / kTogether * (Row<K>::kCount * kTogether) + i * kTogether);
#pragma unroll
      for (int j = 0; j < kPart; ++j) row.value[c + j] = part.value[j];
    }
    return row;
  }

  const T* start_;
  Columns<T, N> kept_[kKeep ? kRows : 1];
};

}  // namespace mixnorm::cuda
