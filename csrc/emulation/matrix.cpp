#include "emulation/matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "emulation/scheduler.h"

namespace mixnorm::emulation {
namespace {

constexpr int kTerms = 8;

// What a lane brings, and the sums that it takes.
struct Operands {
  const float* a;  // 4
  const float* b;  // 2
  float* sum;      // 4
};

float cut_to_tf32(float value) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & ~uint32_t{0x1fff});
}

float cut_to_float(double value) {
  const auto nearest = static_cast<float>(value);
  return std::abs(double(nearest)) > std::abs(value) ? std::nextafter(nearest, 0.0f) : nearest;
}

// start + sum_k x[k] y[k].
float sum_of_products(float start, const float (&x)[kTerms], const float (&y)[kTerms]) {
  double terms[kTerms + 1] = {start}, plain = start, largest = std::abs(double(start));
  for (int k = 0; k < kTerms; ++k) {
    terms[k + 1] = double(x[k]) * double(y[k]);
    plain += terms[k + 1];
    largest = std::max(largest, std::abs(terms[k + 1]));
  }
  if (!std::isfinite(plain) || largest == 0) return static_cast<float>(plain);
  const int last_bit = std::ilogb(largest) - 24;
  const double scale = std::ldexp(1.0, -last_bit);
  int64_t sum = 0;
  for (const double term : terms) sum += static_cast<int64_t>(term * scale);
  return cut_to_float(std::ldexp(double(sum), last_bit));
}

}  // namespace

void multiply(uint32_t present, const uint64_t (&values)[kWarpSize]) {
  if (present != ~uint32_t{0}) fault("a matrix product without all lanes of the warp");
  const auto of = [&](unsigned lane) -> const Operands& {
    return *reinterpret_cast<const Operands*>(values[lane]);
  };
  float a[16][kTerms], b[8][kTerms];  // b[column][row]
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    const unsigned i = lane % 4, m = lane / 4;
    for (unsigned e = 0; e < 4; ++e) a[m + e % 2 * 8][i + e / 2 * 4] = cut_to_tf32(of(lane).a[e]);
    for (unsigned e = 0; e < 2; ++e) b[m][i + e * 4] = cut_to_tf32(of(lane).b[e]);
  }
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    const unsigned i = lane % 4, m = lane / 4;
    for (unsigned e = 0; e < 4; ++e) {
      float& sum = of(lane).sum[e];
      sum = sum_of_products(sum, a[m + e / 2 * 8], b[2 * i + e % 2]);
    }
  }
}

void multiply_matrices(float (&sum)[4], const float (&a)[4], const float (&b)[2],
                       std::source_location where) {
  const Operands operands{a, b, sum};
  warp_collective(Collective::kMultiply, ~0u, reinterpret_cast<uintptr_t>(&operands), 0, where);
}

}  // namespace mixnorm::emulation
