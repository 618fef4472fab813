#include "cpu/running.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace mixnorm::cpu {
namespace {

template <class T>
bool all_finite(const T* values, int64_t count) {
  return std::all_of(values, values + count, [](T value) { return std::isfinite(value); });
}

}  // namespace

template <class T>
bool update_running(int64_t groups, int64_t components, int64_t channels, const Mixture<T>& running,
                    const BatchMoments<const T>& moments, int64_t count, double factor) {
  if (!all_finite(moments.mass, groups * components) ||
      !all_finite(moments.mean, components * channels) ||
      !all_finite(moments.var, components * channels)) {
    return false;
  }
  const int64_t group_channels = channels / groups;
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t k = 0; k < components; ++k) {
      const double mass = moments.mass[g * components + k];
      // Unbiased from two observations on; a mass just above 1 must not blow the variance up.
      const double unbiased = mass > 1 ? std::min(mass / (mass - 1), 2.0) : 1.0;
      T& mixing_weight = running.mixing_weight[g * components + k];
      const double share = mass / double(count);
      mixing_weight = T(mixing_weight + factor * (share - mixing_weight));
      const double floor = std::numeric_limits<T>::min();
      // At most 1 as numbers; rounding could take the weight to 0 and rho far above.
      const double rho = std::min(factor * share / std::max(double(mixing_weight), floor), 1.0);
      const int64_t first = k * channels + g * group_channels;
      for (int64_t i = first; i < first + group_channels; ++i) {
        running.mean[i] = T(running.mean[i] + rho * (moments.mean[i] - running.mean[i]));
        running.var[i] = T(running.var[i] + rho * (moments.var[i] * unbiased - running.var[i]));
      }
    }
  }
  return true;
}

template bool update_running<float>(int64_t, int64_t, int64_t, const Mixture<float>&,
                                    const BatchMoments<const float>&, int64_t, double);
template bool update_running<double>(int64_t, int64_t, int64_t, const Mixture<double>&,
                                     const BatchMoments<const double>&, int64_t, double);

}  // namespace mixnorm::cpu
