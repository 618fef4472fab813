// y = sum_k nu_k [ scale_k (x - m_k) + bias_k ].
#pragma once

#include <cmath>

#include "constants.h"

namespace mixnorm::device {

// 1 / sqrt(max(lambda, floor)), or 1 without mixing scale.
template <class T>
MIXNORM_HOST_DEVICE T mixing_scale(T mixing_weight, bool enabled) {
  if (!enabled) return T(1);
  return T(1) / std::sqrt(mixing_weight < T(kMixingFloor) ? T(kMixingFloor) : mixing_weight);
}

// r = (q + eps)^(-1/2).
template <class T>
MIXNORM_HOST_DEVICE T inverse_deviation(T var, T eps) {
  return T(1) / std::sqrt(var + eps);
}

}  // namespace mixnorm::device
