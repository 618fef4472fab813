// Rows of bfloat16 and float16 to float and back (round to nearest even).
#pragma once

#include "cpu/simd.h"

namespace mixnorm::cpu {
namespace {

typedef uint16_t HalfVec __attribute__((vector_size(MIXNORM_VECTOR_BYTES / 2)));
typedef uint16_t HalfUnaligned
    __attribute__((vector_size(MIXNORM_VECTOR_BYTES / 2), aligned(1), may_alias));
typedef uint32_t WordVec __attribute__((vector_size(MIXNORM_VECTOR_BYTES)));

MIXNORM_INLINE HalfVec load_half(const uint16_t* p, Full) {
  return *reinterpret_cast<const HalfUnaligned*>(p);
}
MIXNORM_INLINE HalfVec load_half(const uint16_t* p, Partial part) {
  HalfVec v{};
  for (int i = 0; i < part.lanes; ++i) v[i] = p[i];
  return v;
}
MIXNORM_INLINE void store_half(uint16_t* p, HalfVec v, Full) {
  *reinterpret_cast<HalfUnaligned*>(p) = v;
}
MIXNORM_INLINE void store_half(uint16_t* p, HalfVec v, Partial part) {
  for (int i = 0; i < part.lanes; ++i) p[i] = v[i];
}

struct BFloat16 {
  static MIXNORM_INLINE Vec<float> widen(HalfVec h) {
    return (Vec<float>)(__builtin_convertvector(h, WordVec) << 16);
  }
  static MIXNORM_INLINE HalfVec narrow(Vec<float> v) {
    const WordVec bits = (WordVec)v;
    const WordVec rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    const WordVec nan = (WordVec)(v != v);  // rounding would carry a NaN's payload into infinity
    return __builtin_convertvector(((rounded & ~nan) | (0x7fc00000u & nan)) >> 16, HalfVec);
  }
};

#if MIXNORM_VECTOR_BYTES > 16
struct Float16 {
#if MIXNORM_VECTOR_BYTES == 64
  static MIXNORM_INLINE Vec<float> widen(HalfVec h) {
    return (Vec<float>)_mm512_cvtph_ps((__m256i)h);
  }
  static MIXNORM_INLINE HalfVec narrow(Vec<float> v) {
    return (HalfVec)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
#else
  static MIXNORM_INLINE Vec<float> widen(HalfVec h) {
    return (Vec<float>)_mm256_cvtph_ps((__m128i)h);
  }
  static MIXNORM_INLINE HalfVec narrow(Vec<float> v) {
    return (HalfVec)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
#endif
};
#else
struct Float16 {
  static MIXNORM_INLINE Vec<float> widen(HalfVec h) {
    const WordVec word = __builtin_convertvector(h, WordVec);
    const WordVec magnitude = word & 0x7fffu;
    // As float bits the exponent is short by 112; the multiplication also normalises subnormals.
    const Vec<float> scaled = (Vec<float>)(magnitude << 13) * 0x1p112f;
    const WordVec special = (WordVec)(magnitude >= 0x7c00u);
    const WordVec bits =
        ((WordVec)scaled & ~special) | (((magnitude << 13) | 0x7f800000u) & special);
    return (Vec<float>)(bits | (word & 0x8000u) << 16);
  }
  static MIXNORM_INLINE HalfVec narrow(Vec<float> v) {
    const WordVec bits = (WordVec)v;
    const WordVec sign = (bits >> 16) & 0x8000u;
    const WordVec magnitude = bits & 0x7fffffffu;
    const WordVec nan = (WordVec)(magnitude > 0x7f800000u);
    const WordVec infinite =
        (WordVec)(magnitude >= 0x477ff000u);  // 65520 and above round to infinity
    const WordVec subnormal = (WordVec)(magnitude < 0x38800000u);
    // Adding 0.5 leaves the half's subnormal mantissa, rounded to nearest even, in the low bits.
    const WordVec small = (WordVec)((Vec<float>)magnitude + 0.5f) - 0x3f000000u;
    const WordVec normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    WordVec half = (small & subnormal) | (normal & ~subnormal);
    half = (half & ~infinite) | (0x7c00u & infinite);
    half = (half & ~nan) | (0x7e00u & nan);
    return __builtin_convertvector(half | sign, HalfVec);
  }
};
#endif

template <class H>
void widen_rows(const uint16_t* src, int64_t src_row, float* dst, int64_t dst_row, int64_t rows,
                int64_t length) {
  for (int64_t r = 0; r < rows; ++r) {
    for_vectors<float>(length, [&](int64_t i, auto part) MIXNORM_INLINE_LAMBDA {
      store(dst + r * dst_row + i, H::widen(load_half(src + r * src_row + i, part)), part);
    });
  }
}

template <class H>
void narrow_rows(const float* src, int64_t src_row, uint16_t* dst, int64_t dst_row, int64_t rows,
                 int64_t length) {
  for (int64_t r = 0; r < rows; ++r) {
    for_vectors<float>(length, [&](int64_t i, auto part) MIXNORM_INLINE_LAMBDA {
      store_half(dst + r * dst_row + i, H::narrow(load(src + r * src_row + i, part)), part);
    });
  }
}

}  // namespace
}  // namespace mixnorm::cpu
