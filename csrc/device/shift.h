// The centre of a mixture in one channel.
#pragma once

#include <cmath>

#include "constants.h"

namespace mixnorm::device {

// How far from the median component, in its deviations, another one still counts in full.
constexpr double kCentreReach = 4;

// Of components with finite means: the mean weighted by mass_of(k) / deviation, since terms of the
// logits grow fastest with the distance from narrow ones; but none is taken as further away than
// kCentreReach from the weighted median, so that a component far from the data does not move it.
// 0 where no mean is finite.
template <class MassOf, class MeanOf, class VarOf>
MIXNORM_HOST_DEVICE double mixture_centre(int components, double eps, MassOf&& mass_of,
                                          MeanOf&& mean_of, VarOf&& var_of) {
  const auto weight_of = [&](int k) {
    return std::isfinite(mean_of(k)) ? mass_of(k) / std::sqrt(var_of(k) + eps) : 0.0;
  };
  double total = 0, median = 0, reach = -1;
  for (int k = 0; k < components; ++k) total += weight_of(k);
  for (int k = 0; k < components; ++k) {
    const double mean = mean_of(k);
    if (!std::isfinite(mean) || (reach >= 0 && mean >= median)) continue;
    double below = 0;
    for (int j = 0; j < components; ++j) {
      if (mean_of(j) <= mean) below += weight_of(j);
    }
    if (2 * below < total) continue;
    median = mean;
    reach = kCentreReach * std::sqrt(var_of(k) + eps);
  }
  double offset = 0;
  for (int k = 0; k < components; ++k) {
    const double distance = std::fmin(std::fmax(mean_of(k) - median, -reach), reach);
    if (weight_of(k) > 0) offset += weight_of(k) * distance;
  }
  return total > 0 ? median + offset / total : median;
}

}  // namespace mixnorm::device
