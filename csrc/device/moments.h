// The M-step from sums over the centred input.
#pragma once

#include "constants.h"

namespace mixnorm::device {

template <class T>
struct CentredMoments {
  T mean;  // m - shift
  T var;   // biased q
};

// mass = sum nu, first = sum nu x', second = sum nu x'^2 over x' = x - shift; centred_mean = mu -
// shift. m = mu + sum nu (x - mu) / S~ and q = sum nu (x - m)^2 / S~ with S~ = max(S, floor).
template <class T>
MIXNORM_HOST_DEVICE CentredMoments<T> centred_moments(T mass, T first, T second, T centred_mean) {
  const T inverse = T(1) / (mass < T(kMassFloor) ? T(kMassFloor) : mass);
  const T mean = centred_mean + (first - mass * centred_mean) * inverse;
  const T var = (second - mean * (T(2) * first - mean * mass)) * inverse;
  return {mean, var < T(0) ? T(0) : var};
}

}  // namespace mixnorm::device
