// Vectors of one instruction set, on the compiler's vector extensions. Included only by the
// isa_*.cpp files, each of which defines MIXNORM_VECTOR_BYTES (16, 32 or 64) and switches the
// target on first. Everything lives in an unnamed namespace: a function compiled for AVX-512 must
// never be the copy that the linker keeps for everybody. For the same reason no standard header
// with inline functions is included.
#pragma once

#include <stddef.h>
#include <stdint.h>
#if MIXNORM_VECTOR_BYTES > 16
#include <immintrin.h>
#endif

#define MIXNORM_INLINE inline __attribute__((always_inline))
#define MIXNORM_INLINE_LAMBDA __attribute__((always_inline))

namespace mixnorm::cpu {
namespace {

template <class T>
struct Simd;

#define MIXNORM_DEFINE_SIMD(T, INT)                                                                \
  template <>                                                                                      \
  struct Simd<T> {                                                                                 \
    typedef T Vec __attribute__((vector_size(MIXNORM_VECTOR_BYTES)));                              \
    typedef T Unaligned __attribute__((vector_size(MIXNORM_VECTOR_BYTES), aligned(1), may_alias)); \
    typedef INT Int __attribute__((vector_size(MIXNORM_VECTOR_BYTES)));                            \
    typedef double Wide __attribute__((vector_size(MIXNORM_VECTOR_BYTES * 8 / sizeof(T))));        \
    static constexpr int kLanes = MIXNORM_VECTOR_BYTES / sizeof(T);                                \
  };
MIXNORM_DEFINE_SIMD(float, int32_t)
MIXNORM_DEFINE_SIMD(double, int64_t)
#undef MIXNORM_DEFINE_SIMD

template <class T>
using Vec = typename Simd<T>::Vec;
template <class T>
constexpr int kLanes = Simd<T>::kLanes;

// Compile-time repetition: arrays of vectors indexed by the counter end up in registers.
template <int... I>
struct Indices {};
template <int N, int... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I>
struct MakeIndices<0, I...> {
  using type = Indices<I...>;
};

template <class F, int... I>
MIXNORM_INLINE void repeat_each(Indices<I...>, F&& f) {
  (f(I), ...);
}
template <int N, class F>
MIXNORM_INLINE void repeat(F&& f) {
  repeat_each(typename MakeIndices<N>::type{}, f);
}

// A component count known at compile time, or (K = 0) at run time.
template <int K>
struct Components {
  static constexpr int kMax = K;
  MIXNORM_INLINE explicit Components(int) {}
  MIXNORM_INLINE constexpr int count() const { return K; }
  template <class F>
  MIXNORM_INLINE void each(F&& f) const {
    repeat<K>(f);
  }
  // Components 1 .. K - 1: the softmax is invariant to a common shift, so component 0 is the
  // origin.
  template <class F>
  MIXNORM_INLINE void each_but_first(F&& f) const {
    repeat<K - 1>([&](int k) MIXNORM_INLINE_LAMBDA { f(k + 1); });
  }
};
template <>
struct Components<0> {
  static constexpr int kMax = 16;
  int k;
  MIXNORM_INLINE explicit Components(int components) : k(components) {}
  MIXNORM_INLINE int count() const { return k; }
  template <class F>
  MIXNORM_INLINE void each(F&& f) const {
    for (int i = 0; i < k; ++i) f(i);
  }
  template <class F>
  MIXNORM_INLINE void each_but_first(F&& f) const {
    for (int i = 1; i < k; ++i) f(i);
  }
};

// How much of a vector is inside the data.
struct Full {};
struct Partial {
  int lanes;
};

// How many channels or positions a loop body handles at once.
template <int N>
struct Block {
  static constexpr int kSize = N;
};

template <class T>
MIXNORM_INLINE constexpr int lanes_of(Full) {
  return kLanes<T>;
}
template <class T>
MIXNORM_INLINE int lanes_of(Partial part) {
  return part.lanes;
}

// f(offset, Full or Partial) over a row of `length` elements.
template <class T, class F>
MIXNORM_INLINE void for_vectors(int64_t length, F&& f) {
  int64_t i = 0;
  for (; i + kLanes<T> <= length; i += kLanes<T>) f(i, Full{});
  if (i < length) f(i, Partial{static_cast<int>(length - i)});
}

// The same with Full only where p + offset is aligned to the vector. For rows that are written:
// a store that crosses a cache line costs as much as several.
template <class T, class F>
MIXNORM_INLINE void for_aligned_vectors(const T* p, int64_t length, F&& f) {
  const auto past = reinterpret_cast<uintptr_t>(p) % MIXNORM_VECTOR_BYTES / sizeof(T);
  int64_t i = past == 0 ? 0 : kLanes<T> - static_cast<int64_t>(past);
  if (i > length) i = length;
  if (i > 0) f(int64_t{0}, Partial{static_cast<int>(i)});
  for (; i + kLanes<T> <= length; i += kLanes<T>) f(i, Full{});
  if (i < length) f(i, Partial{static_cast<int>(length - i)});
}

template <class T>
MIXNORM_INLINE Vec<T> load(const T* p, Full) {
  return *reinterpret_cast<const typename Simd<T>::Unaligned*>(p);
}
template <class T>
MIXNORM_INLINE void store(T* p, Vec<T> v, Full) {
  *reinterpret_cast<typename Simd<T>::Unaligned*>(p) = v;
}

// Past the caches, without fetching the line first; p is aligned to the vector.
#if MIXNORM_VECTOR_BYTES == 64
MIXNORM_INLINE void stream(float* p, Vec<float> v) { _mm512_stream_ps(p, (__m512)v); }
MIXNORM_INLINE void stream(double* p, Vec<double> v) { _mm512_stream_pd(p, (__m512d)v); }
#elif MIXNORM_VECTOR_BYTES == 32
MIXNORM_INLINE void stream(float* p, Vec<float> v) { _mm256_stream_ps(p, (__m256)v); }
MIXNORM_INLINE void stream(double* p, Vec<double> v) { _mm256_stream_pd(p, (__m256d)v); }
#else
template <class T>
MIXNORM_INLINE void stream(T* p, Vec<T> v) {
  store(p, v, Full{});
}
#endif
// Orders streamed stores before whatever tells another thread that they are done.
MIXNORM_INLINE void finish_streams() {
#if MIXNORM_VECTOR_BYTES > 16
  _mm_sfence();
#endif
}

#if MIXNORM_VECTOR_BYTES == 64
MIXNORM_INLINE Vec<float> load(const float* p, Partial part) {
  return (Vec<float>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << part.lanes) - 1), p);
}
MIXNORM_INLINE Vec<double> load(const double* p, Partial part) {
  return (Vec<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << part.lanes) - 1), p);
}
MIXNORM_INLINE void store(float* p, Vec<float> v, Partial part) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << part.lanes) - 1), (__m512)v);
}
MIXNORM_INLINE void store(double* p, Vec<double> v, Partial part) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << part.lanes) - 1), (__m512d)v);
}
#elif MIXNORM_VECTOR_BYTES == 32
MIXNORM_INLINE __m256i lane_mask32(Partial part) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(part.lanes),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
MIXNORM_INLINE __m256i lane_mask64(Partial part) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(part.lanes), _mm256_setr_epi64x(0, 1, 2, 3));
}
MIXNORM_INLINE Vec<float> load(const float* p, Partial part) {
  return (Vec<float>)_mm256_maskload_ps(p, lane_mask32(part));
}
MIXNORM_INLINE Vec<double> load(const double* p, Partial part) {
  return (Vec<double>)_mm256_maskload_pd(p, lane_mask64(part));
}
MIXNORM_INLINE void store(float* p, Vec<float> v, Partial part) {
  _mm256_maskstore_ps(p, lane_mask32(part), (__m256)v);
}
MIXNORM_INLINE void store(double* p, Vec<double> v, Partial part) {
  _mm256_maskstore_pd(p, lane_mask64(part), (__m256d)v);
}
#else
template <class T>
MIXNORM_INLINE Vec<T> load(const T* p, Partial part) {
  Vec<T> v{};
  for (int i = 0; i < part.lanes; ++i) v[i] = p[i];
  return v;
}
template <class T>
MIXNORM_INLINE void store(T* p, Vec<T> v, Partial part) {
  for (int i = 0; i < part.lanes; ++i) p[i] = v[i];
}
#endif

template <class T, int... I>
MIXNORM_INLINE Vec<T> broadcast_to(T value, Indices<I...>) {
  return Vec<T>{(static_cast<void>(I), value)...};
}
template <class T>
MIXNORM_INLINE Vec<T> broadcast(T value) {
  return broadcast_to<T>(value, typename MakeIndices<kLanes<T>>::type{});
}

// v with the lanes past the end of the data at 0.
template <class T>
MIXNORM_INLINE Vec<T> keep(Vec<T> v, Full) {
  return v;
}
template <class T, int... I>
MIXNORM_INLINE Vec<T> keep_lanes(Vec<T> v, int lanes, Indices<I...>) {
  using Int = typename Simd<T>::Int;
  return (Vec<T>)((Int)v & (Int{I...} < lanes));
}
template <class T>
MIXNORM_INLINE Vec<T> keep(Vec<T> v, Partial part) {
  return keep_lanes<T>(v, part.lanes, typename MakeIndices<kLanes<T>>::type{});
}

// Into level 2. A prefetch never faults, so callers may name an address past the end of the tensor.
template <class T>
MIXNORM_INLINE void prefetch(const T* p, int64_t ahead) {
  __builtin_prefetch(
      reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(p) + ahead * sizeof(T)), 0, 2);
}
// The same for a line that will be written: fetched now, it does not hold up the stores later.
template <class T>
MIXNORM_INLINE void prefetch_for_write(const T* p, int64_t ahead) {
  __builtin_prefetch(
      reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(p) + ahead * sizeof(T)), 1, 2);
}

// How a kernel writes its output, see Stores in tile.h.
struct CachedStores {
  template <class T>
  static MIXNORM_INLINE void prepare(const T* p, int64_t ahead) {
    prefetch_for_write(p, ahead);
  }
  template <class T, class Part>
  static MIXNORM_INLINE void write(T* p, Vec<T> v, Part part) {
    store(p, v, part);
  }
  static MIXNORM_INLINE void finish() {}
};
struct FetchedStores : CachedStores {
  template <class T>
  static MIXNORM_INLINE void prepare(const T*, int64_t) {}
};
struct StreamedStores {
  template <class T>
  static MIXNORM_INLINE void prepare(const T*, int64_t) {}
  template <class T>
  static MIXNORM_INLINE void write(T* p, Vec<T> v, Full) {
    stream(p, v);
  }
  template <class T>
  static MIXNORM_INLINE void write(T* p, Vec<T> v, Partial part) {
    store(p, v, part);
  }
  static MIXNORM_INLINE void finish() { finish_streams(); }
};

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kLowest = -60.0f;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLn2High = 0.693145751953125f, kLn2Low = 1.42860682030941723e-6f;
  static constexpr int kMantissa = 23;
  static constexpr int kDegree = 7;
};
template <>
struct ExpConstants<double> {
  static constexpr double kLowest = -600.0;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 0.693147180369123816490, kLn2Low = 1.90821492927058770002e-10;
  static constexpr int kMantissa = 52;
  static constexpr int kDegree = 13;
};

// exp(x) for x <= 0 by a Taylor polynomial on |r| <= ln2/2, to 1 ulp or so. Below kLowest it is 0:
// next to the largest component's 1 such a weight is nothing, and its products would be denormal
// numbers, which cost the processor a hundred cycles each. NaN stays NaN.
template <class T>
MIXNORM_INLINE Vec<T> exp_nonpositive(Vec<T> x) {
  using C = ExpConstants<T>;
  using Int = typename Simd<T>::Int;
  constexpr T kInverseFactorial[] = {T(1),
                                     T(1),
                                     T(1) / 2,
                                     T(1) / 6,
                                     T(1) / 24,
                                     T(1) / 120,
                                     T(1) / 720,
                                     T(1) / 5040,
                                     T(1) / 40320,
                                     T(1) / 362880,
                                     T(1) / 3628800,
                                     T(1) / 39916800,
                                     T(1) / 479001600,
                                     T(1) / 6227020800};
  const Int vanishes = x < C::kLowest;
  x = vanishes ? broadcast<T>(C::kLowest) : x;
  const Vec<T> rounded = x * T(1.44269504088896340736) + C::kRound;
  const Vec<T> n = rounded - C::kRound;
  const Vec<T> r = (x - n * C::kLn2High) - n * C::kLn2Low;
  Vec<T> p = broadcast<T>(kInverseFactorial[C::kDegree]);
  repeat<C::kDegree>(
      [&](int i) MIXNORM_INLINE_LAMBDA { p = p * r + kInverseFactorial[C::kDegree - 1 - i]; });
  // The low bits of `rounded` hold the integer n; moved into the exponent they multiply p by 2^n.
  return (Vec<T>)(((Int)p + ((Int)rounded << C::kMantissa)) & ~vanishes);
}

// logits -> responsibilities, in place. logits[0] is 0 by construction.
template <class T, int K>
MIXNORM_INLINE void softmax(Components<K> components, Vec<T>* v) {
  Vec<T> top{};
  components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA { top = v[k] > top ? v[k] : top; });
  Vec<T> total{};
  components.each([&](int k) MIXNORM_INLINE_LAMBDA {
    v[k] = exp_nonpositive<T>(v[k] - top);
    total += v[k];
  });
  const Vec<T> inverse = T(1) / total;
  components.each([&](int k) MIXNORM_INLINE_LAMBDA { v[k] *= inverse; });
}

// Lane i of the result is a block-wise fold of a (first half of the lanes) and b (second half):
// with blocks of B lanes each block of B becomes B / 2 by adding its halves.
template <class T, int B, int... I>
MIXNORM_INLINE Vec<T> fold(Vec<T> a, Vec<T> b, Indices<I...>) {
  constexpr int kHalf = B / 2;
#define MIXNORM_LOW(i) ((i) / kHalf * B + (i) % kHalf)
#if defined(__clang__)
  return __builtin_shufflevector(a, b, MIXNORM_LOW(I)...) +
         __builtin_shufflevector(a, b, (MIXNORM_LOW(I) + kHalf)...);
#else
  using Int = typename Simd<T>::Int;
  return __builtin_shuffle(a, b, Int{MIXNORM_LOW(I)...}) +
         __builtin_shuffle(a, b, Int{(MIXNORM_LOW(I) + kHalf)...});
#endif
#undef MIXNORM_LOW
}

// Sums over the lanes of kLanes vectors at once: lane i of the result is the sum of v[i].
// Overwrites v.
template <class T, int B = kLanes<T>>
MIXNORM_INLINE Vec<T> sum_lanes(Vec<T>* v) {
  if constexpr (B == 1) {
    return v[0];
  } else {
    repeat<B / 2>([&](int i) MIXNORM_INLINE_LAMBDA {
      v[i] = fold<T, B>(v[2 * i], v[2 * i + 1], typename MakeIndices<kLanes<T>>::type{});
    });
    return sum_lanes<T, B / 2>(v);
  }
}

// sums[i] += the lanes of v, in double.
template <class T>
MIXNORM_INLINE void add_to(double* sums, Vec<T> v, Full) {
  constexpr int kParts = sizeof(double) / sizeof(T);
  const auto wide = __builtin_convertvector(v, typename Simd<T>::Wide);
  // GCC 12 splits a vector wider than the registers but forgets that its address is not aligned.
  Vec<double> part[kParts];
  __builtin_memcpy(part, &wide, sizeof(wide));
  repeat<kParts>([&](int i) MIXNORM_INLINE_LAMBDA {
    double* p = sums + i * kLanes<double>;
    store(p, load(static_cast<const double*>(p), Full{}) + part[i], Full{});
  });
}
template <class T>
MIXNORM_INLINE void add_to(double* sums, Vec<T> v, Partial part) {
  for (int i = 0; i < part.lanes; ++i) sums[i] += static_cast<double>(v[i]);
}

}  // namespace
}  // namespace mixnorm::cpu
