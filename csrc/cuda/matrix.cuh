// Matrix products on tensor cores at nearly fp32's precision: 16 x 8 += 16 x 8 times 8 x 8 by the
// lanes of a warp together (PTX ISA, mma.m16n8k8 with .tf32). Lane l holds, with i = l % 4 and
// m = l / 4, of A the elements (m, i), (m + 8, i), (m, i + 4), (m + 8, i + 4), of B (i, m) and
// (i + 4, m), of the sums (m, 2 i), (m, 2 i + 1), (m + 8, 2 i), (m + 8, 2 i + 1).
//
// A tensor core reads 11 significant bits of its operands. So each is the sum of two such numbers,
// and a product is three: 22 bits of every factor remain.
#pragma once

#include <cuda_runtime.h>

namespace mixnorm::cuda {

// The nearest number of 11 significant bits; of NaN, anything. In two instructions, where the
// conversion (cvt.rna.tf32) takes four.
__device__ __forceinline__ float round_to_tf32(float value) {
  return __uint_as_float((__float_as_uint(value) + 0x1000u) & ~0x1fffu);
}

// `N` values as sums hi + lo; of lo, which is exact, the product reads the upper bits. Where a
// value is not finite, lo is NaN.
template <int N>
struct Split {
  float hi[N], lo[N];

  __device__ __forceinline__ void set(int i, float value) {
    hi[i] = round_to_tf32(value);
    lo[i] = value - hi[i];
  }
};
using MatrixA = Split<4>;
using MatrixB = Split<2>;

// sum += a b, of operands cut to 11 significant bits. Lanes wait for each other, but their memory
// is not ordered.
__device__ __forceinline__ void multiply_tf32(float (&sum)[4], const float (&a)[4],
                                              const float (&b)[2]) {
#if defined(__CUDA_ARCH__)
  const auto bits = [](float value) { return __float_as_uint(value); };
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(bits(a[0])), "r"(bits(a[1])), "r"(bits(a[2])), "r"(bits(a[3])), "r"(bits(b[0])),
        "r"(bits(b[1])));
#elif defined(MIXNORM_EMULATION)
  mixnorm::emulation::multiply_matrices(sum, a, b);
#endif
}

// Sums of products. Tensor cores cut their sums off instead of rounding them, so a sum is of few
// products, to be added to others in fp32; and what the small halves give is added up apart, not
// cut off at the last bits of the large.
class MatrixSum {
 public:
  __device__ __forceinline__ void add(const MatrixA& a, const MatrixB& b) {
    multiply_tf32(small_, a.lo, b.hi);
    multiply_tf32(small_, a.hi, b.lo);
    multiply_tf32(large_, a.hi, b.hi);
  }
  __device__ __forceinline__ float operator[](int i) const { return large_[i] + small_[i]; }

 private:
  float large_[4] = {}, small_[4] = {};
};

// In half the registers, for sums of which the last bit does not matter.
class MatrixShortSum {
 public:
  __device__ __forceinline__ void add(const MatrixA& a, const MatrixB& b) {
    multiply_tf32(sum_, a.lo, b.hi);
    multiply_tf32(sum_, a.hi, b.lo);
    multiply_tf32(sum_, a.hi, b.hi);
  }
  __device__ __forceinline__ float operator[](int i) const { return sum_[i]; }

 private:
  float sum_[4] = {};
};

}  // namespace mixnorm::cuda
