// The E-step's logits as a quadratic in the centred input.
#pragma once

#include <cfloat>
#include <cmath>

#include "constants.h"

namespace mixnorm::device {

// log lambda_k - 1/2 [ (x - mu_k)^2 p_k + log v_k ] with v = var + eps, p = 1/v, expands on x' = x
// - shift, mu' = mu - shift to  quadratic x'^2 + linear x' + constant  per channel.
template <class T>
struct Logit {
  T quadratic, linear, constant;
};

template <class T>
MIXNORM_HOST_DEVICE Logit<T> logit(T centred_mean, T var, T eps) {
  const T variance = var + eps;
  const T precision = T(1) / variance;
  return {T(-0.5) * precision, centred_mean * precision,
          T(-0.5) * (centred_mean * centred_mean * precision + std::log(variance))};
}

// log lambda with lambda kept at the smallest normal number of the statistics' type.
MIXNORM_HOST_DEVICE float clamped_mixing_weight(float weight) {
  return weight < FLT_MIN ? FLT_MIN : weight;
}
MIXNORM_HOST_DEVICE double clamped_mixing_weight(double weight) {
  return weight < DBL_MIN ? DBL_MIN : weight;
}

}  // namespace mixnorm::device
