// Matrix products of a warp, emulated: where the lanes' elements lie, what of them counts.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "cuda/launch.h"
#include "cuda/matrix.cuh"
#include "tests/emulation.h"

namespace {

using mixnorm::cuda::launch_kernel;
using namespace mixnorm::tests;

constexpr int kRows = 16, kTerms = 8, kColumns = 8;

// out += a b, [16][8] += [16][8] [8][8]: of both halves of the operands, or the large ones alone.
template <bool kSplit>
__global__ void multiply_kernel(const float* a, const float* b, float* out) {
  using namespace mixnorm::cuda;
  const int i = threadIdx.x % 4, m = threadIdx.x / 4;
  MatrixA left;
  MatrixB right;
  for (int e = 0; e < 4; ++e) left.set(e, a[(m + e % 2 * 8) * kTerms + i + e / 2 * 4]);
  for (int e = 0; e < 2; ++e) right.set(e, b[(i + e * 4) * kColumns + m]);
  float values[4] = {};
  if (kSplit) {
    MatrixSum sum;
    sum.add(left, right);
    for (int e = 0; e < 4; ++e) values[e] = sum[e];
  } else {
    multiply_tf32(values, left.hi, right.hi);
  }
  for (int e = 0; e < 4; ++e) out[(m + e / 2 * 8) * kColumns + 2 * i + e % 2] += values[e];
}

struct Matrices {
  std::vector<float> a, b, out;
};

Matrices random_matrices() {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  Matrices m{std::vector<float>(kRows * kTerms), std::vector<float>(kTerms * kColumns),
             std::vector<float>(kRows * kColumns)};
  for (auto* matrix : {&m.a, &m.b}) {
    for (float& value : *matrix) value = normal(generator);
  }
  return m;
}

template <bool kSplit>
void multiply(Matrices& m) {
  check_success(launch_kernel(multiply_kernel<kSplit>, 1, 32, 0, false, nullptr, m.a.data(),
                              m.b.data(), m.out.data()));
}

// Largest error over the largest sum of its terms' magnitudes.
double error(const Matrices& m) {
  double worst = 0;
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      double sum = 0, magnitude = 0;
      for (int k = 0; k < kTerms; ++k) {
        const double term = double(m.a[row * kTerms + k]) * double(m.b[k * kColumns + column]);
        sum += term;
        magnitude += std::abs(term);
      }
      worst = std::max(worst, std::abs(m.out[row * kColumns + column] - sum) / magnitude);
    }
  }
  return worst;
}

// Halves that are left out lie below 2^-11 of a factor each; what the split misses, below 2^-21.
void test_precision() {
  Matrices whole = random_matrices(), large = whole;
  multiply<true>(whole);
  multiply<false>(large);
  CHECK_NEAR(error(whole), 0, std::ldexp(1.0, -21));
  CHECK(error(large) > 1e-5 && error(large) < std::ldexp(1.0, -10));
}

// Not finite: in the results that it belongs to, and no others.
void test_not_finite() {
  for (const float value : {NAN, -NAN, INFINITY}) {
    Matrices m = random_matrices();
    m.a[5 * kTerms + 3] = value;
    multiply<true>(m);
    for (int row = 0; row < kRows; ++row) {
      for (int column = 0; column < kColumns; ++column) {
        CHECK(std::isfinite(m.out[row * kColumns + column]) == (row != 5));
      }
    }
  }
}

__global__ void lonely_kernel(float* out) {
  if (threadIdx.x == 9) return;
  const float a[4] = {}, b[2] = {};
  float sum[4] = {};
  mixnorm::cuda::multiply_tf32(sum, a, b);
  out[threadIdx.x] = sum[0];
}

void test_missing_lane() {
  std::vector<float> out(32);
  CHECK(mentions(launch_kernel(lonely_kernel, 1, 32, 0, false, nullptr, out.data()),
                 "a matrix product without all lanes of the warp"));
}

}  // namespace

int main() {
  test_precision();
  test_not_finite();
  test_missing_lane();
  return mixnorm::tests::report("test_matrix");
}
