// What the drivers (moments, forward, backward, evaluate) and the instruction-set specific tile
// kernels agree on. A tile is a cache-sized piece of a tensor: all channels of one group by some
// positions.
#pragma once

#include <stdint.h>

namespace mixnorm::cpu {

// Which index runs along a vector register: contiguous positions (NCHW) or contiguous channels
// (NHWC).
enum class Lanes { kPositions, kChannels };

struct TileShape {
  int64_t channels;
  int64_t segments;  // runs of contiguous positions; 1 when lanes are channels
  int64_t length;    // positions per segment
  int64_t positions() const { return segments * length; }
};

// Lanes::kPositions: element (c, segment s, t) at data[c * row + s * segment + t].
// Lanes::kChannels:  element (c, t) at data[t * row + c].
template <class T>
struct Tile {
  T* data;
  int64_t row;
  int64_t segment;
};

// Per-channel coefficients, j-th of channel c at data[c * pitch + j] (lanes are positions) or
// data[j * pitch + c] (lanes are channels). Their order is given with each kernel below.
template <class T>
struct Coefficients {
  const T* data;
  int64_t pitch;
};

// Per-position values of each component: element (k, t) at data[k * pitch + t].
template <class T>
struct Weights {
  T* data;
  int64_t pitch;
};

// Sums in double, laid out as Coefficients with two per component: j = 2k and 2k + 1. A kernel may
// add zeros to as many as kSumsPadding elements past the last one.
constexpr int kSumsPadding = 32;
struct Sums {
  double* data;
  int64_t pitch;
};

// Number of coefficients per channel of each kernel.
constexpr int logit_coefficients(int k) { return 2 * k - 1; }
constexpr int normalize_coefficients(int k) { return 2 * k + 1; }
constexpr int posterior_coefficients(int k) { return 4 * k - 3; }
constexpr int input_coefficients(int k) { return 5 * k - 1; }

// How a kernel writes its output. Cached stores want the lines that they overwrite in the caches:
// the kernel fetches those of the next tile, unless (kFetched) an earlier kernel of the same tile
// has fetched its own. Streamed stores do not fetch them, nor leave them in the caches; where lanes
// are channels, rows must then start on a cache line.
enum Stores { kCached, kFetched, kStreamed };
constexpr int kStoresCount = 3;
constexpr int kLineBytes = 64;

// `ahead` is the distance in elements from x to what a kernel prefetches as it goes: the tile that
// comes next, or the output that a later kernel computes (0: nothing to prefetch). x' = x - shift
// throughout; coefficient 0 is always the shift. Quantities that enter a softmax or its gradient
// are differences to component 0.
template <class T>
struct TileKernels {
  // nu = softmax over k of constant_k + sum_c x' (quadratic_kc x' + linear_kc), k >= 1; component 0
  // is 0. Coefficients: shift, (quadratic, linear) for k >= 1. constant[0] is unused.
  void (*responsibilities)(TileShape, Tile<const T> x, Coefficients<T>, const T* constant,
                           Weights<T> nu, int components, int64_t ahead);

  // sums_2k += sum_t w_k u, sums_2k+1 += sum_t w_k u x'. With u.data null, u is x' itself.
  // Coefficients: shift (others ignored). One component: w = 1 and unread.
  void (*accumulate)(TileShape, Tile<const T> u, Tile<const T> x, Coefficients<T>,
                     Weights<const T> w, int components, Sums, int64_t ahead);

  // mass_k += sum_t w_k.
  void (*add_mass)(Weights<const T> w, int64_t positions, int components, double* mass);

  // y = sum_k nu_k [ scale_k x' + offset_k ]. Coefficients: shift, (scale, offset) for every k. One
  // kernel for each of Stores.
  void (*normalize[kStoresCount])(TileShape, Tile<const T> x, Coefficients<T>, Weights<const T> nu,
                                  Tile<T> y, int components, int64_t ahead);

  // dnu_k = constant_k + sum_c [ dy (scale x' + offset) + x' (quadratic x' + linear) ];
  // dlogit_k = nu_k (dnu_k - sum_j nu_j dnu_j).
  // Coefficients: shift, (scale, offset, quadratic, linear) for k >= 1.
  void (*posterior_gradient)(TileShape, Tile<const T> dy, Tile<const T> x, Coefficients<T>,
                             const T* constant, Weights<const T> nu, Weights<T> dlogit,
                             int components, int64_t ahead);

  // dx = sum_k nu_k [ scale_k dy + linear_k + curvature_k x' ] + sum_k dlogit_k [ pull_k -
  // precision_k x' ]. Coefficients: shift, (scale, linear, curvature) for every k, (pull,
  // precision) for k >= 1. One kernel for each of Stores.
  void (*input_gradient[kStoresCount])(TileShape, Tile<const T> dy, Tile<const T> x,
                                       Coefficients<T>, Weights<const T> nu,
                                       Weights<const T> dlogit, Tile<T> dx, int components,
                                       int64_t ahead);
};

// Copies between a tensor's own type and layout and a tile buffer of the accumulation type.
struct StagingKernels {
  // rows x length elements, source and destination with their own row pitch.
  void (*widen_bfloat16)(const uint16_t* src, int64_t src_row, float* dst, int64_t dst_row,
                         int64_t rows, int64_t length);
  void (*narrow_bfloat16)(const float* src, int64_t src_row, uint16_t* dst, int64_t dst_row,
                          int64_t rows, int64_t length);
  void (*widen_float16)(const uint16_t* src, int64_t src_row, float* dst, int64_t dst_row,
                        int64_t rows, int64_t length);
  void (*narrow_float16)(const float* src, int64_t src_row, uint16_t* dst, int64_t dst_row,
                         int64_t rows, int64_t length);
};

// Everything one instruction set provides.
struct InstructionSet {
  const char* name;
  const TileKernels<float>* (*float32)(Lanes, int components);
  const TileKernels<double>* (*float64)(Lanes, int components);
  StagingKernels staging;
};

// The best of plain, avx2 and avx512 that this processor has; MIXNORM_CPU_CAPABILITY names a lesser
// one.
const InstructionSet& instruction_set();

// The one called `name`, or null when it is not built or not supported here.
const InstructionSet* find_instruction_set(const char* name);

}  // namespace mixnorm::cpu
