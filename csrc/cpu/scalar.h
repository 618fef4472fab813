// One element at a time between the stored types and the accumulation type.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/tensor.h"

namespace mixnorm::cpu {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(BFloat16 value) { return float_from_bits(uint32_t{value.bits} << 16); }
inline float widen(Half value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Moving exponent and mantissa into a float leaves its bias 112 short; the product restores it,
  // for subnormal numbers too.
  return float_from_bits(sign | bits_of(float_from_bits(magnitude << 13) * 0x1p112f));
}

// Round to nearest even; NaN stays NaN.
inline void narrow(float value, float& out) { out = value; }
inline void narrow(double value, double& out) { out = value; }
inline void narrow(float value, BFloat16& out) {
  const uint32_t bits = bits_of(value);
  out.bits =
      static_cast<uint16_t>(value != value ? 0x7fc0u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline void narrow(float value, Half& out) {
  const uint32_t sign = bits_of(value) >> 16 & 0x8000u;
  const uint32_t magnitude = bits_of(value) & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    // Adding 0.5 leaves the half's subnormal mantissa, rounded, in the low bits.
    half = bits_of(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  }
  out.bits = static_cast<uint16_t>(half | sign);
}

// visit(E{}) with the stored type E; T is the accumulation type.
template <class T>
struct StoredTypes;
template <>
struct StoredTypes<float> {
  template <class F>
  static void visit(Scalar scalar, F&& f) {
    if (scalar == Scalar::kHalf) return f(Half{});
    if (scalar == Scalar::kBFloat16) return f(BFloat16{});
    return f(float{});
  }
};
template <>
struct StoredTypes<double> {
  template <class F>
  static void visit(Scalar, F&& f) {
    return f(double{});
  }
};

}  // namespace mixnorm::cpu
