// Gradients of docs/method.md, section 2, on the centred input x' = x - shift, m' = m - shift.
#pragma once

#include "constants.h"
#include "normalize.h"

namespace mixnorm::device {

// Per (component, channel). dnu_ik = sum_c [ dy (scale x' + offset) + x' (quadratic x' + linear) +
// constant ], and the moments' own part of dx is nu (linear + 2 quadratic x' + scale dy).
template <class T>
struct MomentGradient {
  T scale;      // alpha = gamma r / sqrt(lambda~)
  T offset;     // tau = beta - alpha m'
  T quadratic;  // b = -1/2 gamma r^3 / sqrt(lambda~) H2 / S
  T linear;     // a = -alpha H1 / S - 2 b m'
  T constant;   // one channel's term of h
};

// h1 = sum nu dy, h2 = sum nu dy (x - m). Constant statistics (eval) are the case h1 = h2 = 0.
template <class T>
MIXNORM_HOST_DEVICE MomentGradient<T> moment_gradient(T mass, T centred_mean, T var, T weight,
                                                      T bias, T mixing, T eps, T h1, T h2) {
  const T inverse_mass = T(1) / (mass < T(kMassFloor) ? T(kMassFloor) : mass);
  const T deviation = inverse_deviation(var, eps);
  const T scale = weight * deviation * mixing;
  const T quadratic = T(-0.5) * scale * deviation * deviation * h2 * inverse_mass;
  const T mean_part = scale * h1 * inverse_mass;
  return {scale, bias - scale * centred_mean, quadratic,
          -mean_part - T(2) * quadratic * centred_mean,
          centred_mean * mean_part + quadratic * (centred_mean * centred_mean - var)};
}

}  // namespace mixnorm::device
