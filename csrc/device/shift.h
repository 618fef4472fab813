// The centre of a mixture in one channel.
#pragma once

#include <cmath>

#include "constants.h"

namespace mixnorm::device {

// The mean of the components, weighted by mass / variance: terms of the logits grow fastest with
// the distance from narrow ones. None counts as further away than kReach deviations of the
// heaviest, so that a component far from the data does not move it. Means that are not finite are
// left out; 0 without any other.
template <class T, class MassOf, class MeanOf, class VarOf>
MIXNORM_HOST_DEVICE T mixture_centre(int components, T eps, MassOf&& mass_of, MeanOf&& mean_of,
                                     VarOf&& var_of) {
  constexpr T kReach = 4;
  T middle = 0, most = -1, variance = 1;
  for (int k = 0; k < components; ++k) {
    const T mean = mean_of(k), mass = mass_of(k);
    if (!std::isfinite(mean) || mass <= most) continue;
    middle = mean;
    most = mass;
    variance = var_of(k) + eps;
  }
  T offset = 0, total = 0;
  for (int k = 0; k < components; ++k) {
    T distance = mean_of(k) - middle;
    if (!std::isfinite(distance)) continue;
    if (distance * distance > kReach * kReach * variance) {
      distance = std::copysign(kReach * std::sqrt(variance), distance);
    }
    const T weight = mass_of(k) / (var_of(k) + eps);
    offset += weight * distance;
    total += weight;
  }
  return total > 0 ? middle + offset / total : middle;
}

}  // namespace mixnorm::device
