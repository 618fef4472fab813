#include "cpu/statistics.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "cpu/scalar.h"
#include "device/mixture.h"
#include "device/moments.h"
#include "device/normalize.h"
#include "device/shift.h"

namespace mixnorm::cpu {

ChunkSums::ChunkSums(const Plan& plan)
    : rows_of_channels_(plan.lanes == Lanes::kChannels),
      components_(plan.components),
      channels_(plan.channels),
      group_channels_(plan.group_channels),
      masses_(plan.groups * plan.components),
      size_(masses_ + 2 * plan.components * plan.channels + kSumsPadding),
      chunks_(plan.chunks),
      data_(new double[std::max<int64_t>(1, plan.chunks) * size_]) {
  if (chunks_ == 0) clear(0);  // no positions: nobody else does
}

void ChunkSums::clear(int64_t chunk) { std::fill_n(&data_[chunk * size_], size_, 0.0); }

Sums ChunkSums::group(int64_t chunk, int64_t g) {
  double* data = &data_[chunk * size_ + index(0, g * group_channels_)];
  return {data, rows_of_channels_ ? channels_ : 2 * components_};
}

void ChunkSums::merge(Executor executor) {
  // Up to this many additions, waking threads takes longer than adding.
  constexpr int64_t kAdditionsPerTask = 1 << 15;
  const int64_t tasks = 1 + chunks_ * size_ / kAdditionsPerTask;
  parallel_for(executor, tasks, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
      const double* from = &data_[chunk * size_];
      for (int64_t i = begin * size_ / tasks; i < end * size_ / tasks; ++i) data_[i] += from[i];
    }
  });
}

template <class T>
CentredMixture centred(const Plan& plan, const Mixture<const T>& mixture,
                       const std::vector<T>& shift) {
  const int64_t size = plan.components * plan.channels;
  CentredMixture result{
      {mixture.mixing_weight, mixture.mixing_weight + plan.groups * plan.components},
      std::vector<double>(size),
      {mixture.var, mixture.var + size}};
  for (int64_t k = 0; k < plan.components; ++k) {
    for (int64_t c = 0; c < plan.channels; ++c) {
      const int64_t kc = k * plan.channels + c;
      result.mean[kc] = double(mixture.mean[kc]) - double(shift[c]);
    }
  }
  return result;
}

CentredMoments finish_moments(const Plan& plan, const ChunkSums& sums,
                              const CentredMixture& mixture) {
  const int64_t size = plan.components * plan.channels;
  CentredMoments result{std::vector<double>(plan.groups * plan.components),
                        std::vector<double>(size), std::vector<double>(size)};
  for (int64_t g = 0; g < plan.groups; ++g) {
    for (int64_t k = 0; k < plan.components; ++k) {
      const double mass = plan.components == 1 ? double(plan.positions) : sums.mass_of(g, k);
      result.mass[g * plan.components + k] = mass;
      for (int64_t c = g * plan.group_channels; c < (g + 1) * plan.group_channels; ++c) {
        const int64_t kc = k * plan.channels + c;
        const auto one =
            device::centred_moments(mass, sums.first(k, c), sums.second(k, c), mixture.mean[kc]);
        result.mean[kc] = one.mean;
        result.var[kc] = one.var;
      }
    }
  }
  return result;
}

CentredMixture em_step(const Plan& plan, CentredMoments moments) {
  for (double& mass : moments.mass) mass /= double(std::max<int64_t>(1, plan.positions));
  return {std::move(moments.mass), std::move(moments.mean), std::move(moments.var)};
}

template <class T>
void store_moments(const Plan& plan, const CentredMoments& moments, const std::vector<T>& shift,
                   const BatchMoments<T>& out) {
  for (size_t i = 0; i < moments.mass.size(); ++i) out.mass[i] = T(moments.mass[i]);
  for (int64_t k = 0; k < plan.components; ++k) {
    for (int64_t c = 0; c < plan.channels; ++c) {
      const int64_t kc = k * plan.channels + c;
      out.mean[kc] = T(moments.mean[kc] + double(shift[c]));
      out.var[kc] = T(moments.var[kc]);
    }
  }
}

template <class T>
Posterior<T>::Posterior(const Plan& plan, const std::vector<T>& shift)
    : coefficients(plan, logit_coefficients(plan.components)),
      constants(plan.groups * plan.components),
      components(plan.components) {
  for (int64_t c = 0; c < plan.channels; ++c) coefficients.at(c, 0) = shift[c];
}

template <class T>
Posterior<T>::Posterior(const Plan& plan, const std::vector<T>& shift,
                        const CentredMixture& mixture, double eps)
    : Posterior(plan, shift) {
  if (components == 1) return;
  std::vector<double> constant(components);
  for (int64_t g = 0; g < plan.groups; ++g) {
    for (int64_t k = 0; k < components; ++k) {
      const T weight = T(mixture.mixing_weight[g * components + k]);
      constant[k] = std::log(double(device::clamped_mixing_weight(weight)));
    }
    for (int64_t c = g * plan.group_channels; c < (g + 1) * plan.group_channels; ++c) {
      const auto origin = device::logit(mixture.mean[c], mixture.var[c], eps);
      constant[0] += origin.constant;
      for (int64_t k = 1; k < components; ++k) {
        const int64_t kc = k * plan.channels + c;
        const auto logit = device::logit(mixture.mean[kc], mixture.var[kc], eps);
        coefficients.at(c, 2 * k - 1) = T(logit.quadratic - origin.quadratic);
        coefficients.at(c, 2 * k) = T(logit.linear - origin.linear);
        constant[k] += logit.constant;
      }
    }
    for (int64_t k = 0; k < components; ++k)
      constants[g * components + k] = T(constant[k] - constant[0]);
  }
}

std::vector<double> mixing_scales(const std::vector<double>& mixing_weight, bool enabled) {
  std::vector<double> scales(mixing_weight.size());
  std::transform(mixing_weight.begin(), mixing_weight.end(), scales.begin(),
                 [&](double weight) { return device::mixing_scale(weight, enabled); });
  return scales;
}

template <class T>
std::vector<T> sample_shift(const Input& x) {
  constexpr int64_t kRuns = 8, kRunLength = 16;
  std::vector<T> shift(x.channels);
  const int64_t positions = x.batch * x.length;
  if (positions == 0) return shift;
  std::vector<double> sums(x.channels);
  int64_t count = 0;
  StoredTypes<T>::visit(x.scalar, [&](auto stored) {
    const auto* data = static_cast<const decltype(stored)*>(x.data);
    for (int64_t run = 0; run < std::min(kRuns, positions); ++run) {
      const int64_t first = positions * run / std::min(kRuns, positions);
      const int64_t n = first / x.length;
      const int64_t start = std::max<int64_t>(0, std::min(first % x.length, x.length - kRunLength));
      const int64_t length = std::min(kRunLength, x.length);
      for (int64_t c = 0; c < x.channels; ++c) {
        const auto* run_data = data + n * x.stride_n + c * x.stride_c + start * x.stride_l;
        for (int64_t l = 0; l < length; ++l) sums[c] += double(widen(run_data[l * x.stride_l]));
      }
      count += length;
    }
  });
  for (int64_t c = 0; c < x.channels; ++c) {
    const double mean = sums[c] / double(count);
    shift[c] = std::isfinite(mean) ? T(mean) : T(0);
  }
  return shift;
}

template <class T>
std::vector<T> mixture_shift(const Plan& plan, const BatchMoments<const T>& mixture, double eps) {
  std::vector<T> shift(plan.channels);
  for (int64_t c = 0; c < plan.channels; ++c) {
    const T* weight = mixture.mass + c / plan.group_channels * plan.components;
    const auto kc = [&](int k) { return k * plan.channels + c; };
    const T centre = device::mixture_centre(
        int(plan.components), T(eps), [&](int k) { return weight[k]; },
        [&](int k) { return mixture.mean[kc(k)]; }, [&](int k) { return mixture.var[kc(k)]; });
    shift[c] = std::isfinite(centre) ? centre : T(0);
  }
  return shift;
}

#define MIXNORM_INSTANTIATE(T)                                                                  \
  template CentredMixture centred(const Plan&, const Mixture<const T>&, const std::vector<T>&); \
  template void store_moments(const Plan&, const CentredMoments&, const std::vector<T>&,        \
                              const BatchMoments<T>&);                                          \
  template struct Posterior<T>;                                                                 \
  template std::vector<T> sample_shift(const Input&);                                           \
  template std::vector<T> mixture_shift(const Plan&, const BatchMoments<const T>&, double);
MIXNORM_INSTANTIATE(float)
MIXNORM_INSTANTIATE(double)
#undef MIXNORM_INSTANTIATE

}  // namespace mixnorm::cpu
