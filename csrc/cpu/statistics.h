// What lies between the sweeps: sums over positions, the mixture on centred data, and the
// coefficients that the tile kernels take. Small (components x channels), in double, filled on one
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/aligned.h"
#include "cpu/executor.h"
#include "cpu/plan.h"
#include "cpu/tensor.h"
#include "cpu/tile.h"

namespace mixnorm::cpu {

// `count` numbers per channel in the order that the tile kernels of the plan's lanes read.
template <class T>
class CoefficientTable {
 public:
  CoefficientTable(const Plan& plan, int count)
      : rows_of_channels_(plan.lanes == Lanes::kChannels),
        pitch_(rows_of_channels_ ? plan.channels : count),
        group_channels_(plan.group_channels),
        data_(plan.channels * count) {}

  T& at(int64_t c, int64_t j) { return data_[rows_of_channels_ ? j * pitch_ + c : c * pitch_ + j]; }
  Coefficients<T> group(int64_t g) const {
    return {data_.data() + g * group_channels_ * (rows_of_channels_ ? 1 : pitch_), pitch_};
  }

 private:
  bool rows_of_channels_;
  int64_t pitch_, group_channels_;
  AlignedVector<T> data_;
};

// Two sums per component and channel and one mass per component and group, for every chunk; merge()
// adds them up in the chunks' order, whatever thread had which chunk.
class ChunkSums {
 public:
  // Uninitialised: clear() every chunk before it is added to.
  explicit ChunkSums(const Plan& plan);

  void clear(int64_t chunk);

  Sums group(int64_t chunk, int64_t g);
  double* mass(int64_t chunk, int64_t g) { return &data_[chunk * size_ + g * components_]; }
  void merge(Executor executor);

  // After merge().
  double mass_of(int64_t g, int64_t k) const { return data_[g * components_ + k]; }
  double first(int64_t k, int64_t c) const { return data_[index(2 * k, c)]; }
  double second(int64_t k, int64_t c) const { return data_[index(2 * k + 1, c)]; }

 private:
  int64_t index(int64_t j, int64_t c) const {
    return masses_ + (rows_of_channels_ ? j * channels_ + c : c * 2 * components_ + j);
  }

  bool rows_of_channels_;
  int64_t components_, channels_, group_channels_, masses_, size_, chunks_;
  std::unique_ptr<double[]> data_;
};

// A mixture whose means are relative to a shift per channel.
struct CentredMixture {
  std::vector<double> mixing_weight;  // [G, K]
  std::vector<double> mean;           // [K, C]
  std::vector<double> var;            // [K, C]
};

template <class T>
CentredMixture centred(const Plan& plan, const Mixture<const T>& mixture,
                       const std::vector<T>& shift);

struct CentredMoments {
  std::vector<double> mass;  // [G, K]
  std::vector<double> mean;  // [K, C]
  std::vector<double> var;   // [K, C]
};

// From the sums of nu x' and nu x'^2.
CentredMoments finish_moments(const Plan& plan, const ChunkSums& sums,
                              const CentredMixture& mixture);

// The mixture of an M-step: mixing weight S / M, mean m, var q.
CentredMixture em_step(const Plan& plan, CentredMoments moments);

// Adds the shift back to the means.
template <class T>
void store_moments(const Plan& plan, const CentredMoments& moments, const std::vector<T>& shift,
                   const BatchMoments<T>& out);

// The E-step: coefficients and constants of TileKernels::responsibilities.
template <class T>
struct Posterior {
  CoefficientTable<T> coefficients;
  std::vector<T> constants;  // [G, K]
  int components;

  Posterior(const Plan& plan, const std::vector<T>& shift, const CentredMixture& mixture,
            double eps);
  // For kernels that only read the shift.
  Posterior(const Plan& plan, const std::vector<T>& shift);

  const T* constant(int64_t g) const { return constants.data() + g * components; }
};

// Per channel, a value near the data: a mean over a few positions spread over the batch. It depends
// on x alone, so a stale mixture costs no digits. 0 where the sample is not finite.
template <class T>
std::vector<T> sample_shift(const Input& x);

// Per channel, the centre of the mixture (weighted by mixing weight or mass): amid the components,
// which keeps the logits' terms small, and free of x: in eval one position must not touch another's
// output.
template <class T>
std::vector<T> mixture_shift(const Plan& plan, const BatchMoments<const T>& mixture, double eps);

// 1 / sqrt(mixing weight) with its floor, or 1, for each group and component.
std::vector<double> mixing_scales(const std::vector<double>& mixing_weight, bool enabled);

// One parameter of component k and channel c, or what a missing one stands for.
template <class T>
double weight_at(const Affine<T>& affine, int64_t k, int64_t c) {
  return affine.weight == nullptr ? 1.0 : double(affine.weight[k * affine.weight_stride + c]);
}
template <class T>
double bias_at(const Affine<T>& affine, int64_t k, int64_t c) {
  return affine.bias == nullptr ? 0.0 : double(affine.bias[k * affine.bias_stride + c]);
}

}  // namespace mixnorm::cpu
