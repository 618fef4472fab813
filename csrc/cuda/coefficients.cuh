// One column's entries of the tables, computed in double: the log-odds, the output, the gradients.
#pragma once

#include <cmath>

#include "cuda/merge.cuh"
#include "cuda/tables.cuh"
#include "cuda/tensor.h"
#include "device/backward.h"
#include "device/mixture.h"
#include "device/normalize.h"

namespace mixnorm::cuda {

// One column's rows.
template <class T, int K>
class ColumnRows {
 public:
  __device__ ColumnRows(T* table, int column) : start_(column_start<K>(table, column)) {}

  __device__ double read(int row) const { return start_[row * kChannels<T, K>]; }
  __device__ void write(int row, double value) const {
    start_[row * kChannels<T, K>] = static_cast<T>(value);
  }

 private:
  T* start_;
};

template <class T>
__device__ double affine_weight(const Affine<T>& affine, int k, int c) {
  return affine.weight == nullptr ? 1.0 : double(affine.weight[k * affine.weight_stride + c]);
}
template <class T>
__device__ double affine_bias(const Affine<T>& affine, int k, int c) {
  return affine.bias == nullptr ? 0.0 : double(affine.bias[k * affine.bias_stride + c]);
}

// Component by component, k = 0 first: the others are differences to it. The mixing weight enters
// with the first channel of a group, so that the sum over channels has it once.
template <class T, int K>
class OddsWriter {
 public:
  __device__ OddsWriter(const ColumnRows<T, K>& rows, bool first_of_group, double eps)
      : rows_(rows), first_of_group_(first_of_group), eps_(eps) {}

  // mean is relative to the shift.
  __device__ void component(int k, double mixing_weight, double mean, double var) {
    auto logit = device::logit(mean, var, eps_);
    if (first_of_group_) {
      const T weight = device::clamped_mixing_weight(static_cast<T>(mixing_weight));
      logit.constant += std::log(static_cast<double>(weight));
    }
    if (k == 0) {
      origin_ = logit;
      return;
    }
    rows_.write(Row<K>::quadratic(k), logit.quadratic - origin_.quadratic);
    rows_.write(Row<K>::linear(k), logit.linear - origin_.linear);
    rows_.write(Row<K>::odds(k), logit.constant - origin_.constant);
  }

  // A component that only fills up the compiled number.
  __device__ void absent(int k) const {
    rows_.write(Row<K>::quadratic(k), 0);
    rows_.write(Row<K>::linear(k), 0);
    rows_.write(Row<K>::odds(k), -HUGE_VAL);
  }

 private:
  ColumnRows<T, K> rows_;
  bool first_of_group_;
  double eps_;
  device::Logit<double> origin_{};
};

// Likewise of dnu: its terms with dy, then those of the moments.
template <class T, int K>
class PosteriorWriter {
 public:
  __device__ explicit PosteriorWriter(const ColumnRows<T, K>& rows) : rows_(rows) {}

  __device__ void output(int k, double scale, double offset) {
    if (k == 0) {
      origin_.scale = scale;
      origin_.offset = offset;
      return;
    }
    rows_.write(Row<K>::posterior_scale(k), scale - origin_.scale);
    rows_.write(Row<K>::posterior_offset(k), offset - origin_.offset);
  }

  __device__ void moments(int k, const device::MomentGradient<double>& gradient) {
    if (k == 0) {
      origin_ = gradient;
      return;
    }
    rows_.write(Row<K>::posterior_quadratic(k), gradient.quadratic - origin_.quadratic);
    rows_.write(Row<K>::posterior_linear(k), gradient.linear - origin_.linear);
    rows_.write(Row<K>::posterior_constant(k), gradient.constant - origin_.constant);
  }

 private:
  ColumnRows<T, K> rows_;
  device::MomentGradient<double> origin_{};
};

template <class T, int K>
__device__ void write_output(const ColumnRows<T, K>& rows, int k, double scale, double offset) {
  rows.write(Row<K>::scale(k), scale);
  rows.write(Row<K>::offset(k), offset);
}

}  // namespace mixnorm::cuda
