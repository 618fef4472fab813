// The centre of a mixture in one channel.
#pragma once

#include <cmath>

#include "constants.h"

namespace mixnorm::device {

// Of the components' means, the smallest that has half of the weight at or below it; 0 where none is
// finite. It lies where most of the weight does: a component far away with less than half does not
// move it.
template <class WeightOf, class MeanOf>
MIXNORM_HOST_DEVICE double weighted_median(int components, WeightOf&& weight_of, MeanOf&& mean_of) {
  double total = 0, median = 0;
  for (int k = 0; k < components; ++k) total += weight_of(k);
  bool found = false;
  for (int k = 0; k < components; ++k) {
    const double mean = mean_of(k);
    if (!std::isfinite(mean) || (found && mean >= median)) continue;
    double below = 0;
    for (int j = 0; j < components; ++j) {
      if (mean_of(j) <= mean) below += weight_of(j);
    }
    if (2 * below < total) continue;
    median = mean;
    found = true;
  }
  return median;
}

}  // namespace mixnorm::device
