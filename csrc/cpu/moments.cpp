#include "cpu/moments.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace mixnorm::cpu {
namespace {

// A tile's channels stay in cache between the E-step and the two sums.
constexpr int64_t kTilePositions = 128;
// Enough chunks for any number of threads to share evenly; few enough that merging costs nothing.
constexpr int64_t kMaxChunks = 64;
// Sums are divided by max(S, kMassFloor), so an empty component needs no branch.
constexpr double kMassFloor = 1e-6;

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
float widen(float value) { return value; }
double widen(double value) { return value; }
float widen(BFloat16 value) { return from_bits(uint32_t{value.bits} << 16); }
float widen(Half value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Moving exponent and mantissa into a float leaves its bias 112 short; the product restores it,
  // for subnormal numbers too.
  return from_bits(sign | magnitude << 13) * 0x1p112f;
}

// Mass, mean and sum of squared deviations; merging is Chan, Golub and LeVeque (1983).
struct Partial {
  double mass = 0, mean = 0, deviation = 0;

  void merge(const Partial& other) {
    const double total = mass + other.mass;
    if (total == 0) return;
    const double delta = other.mean - mean;
    mean += delta * (other.mass / total);
    deviation += other.deviation + delta * delta * (mass * other.mass / total);
    mass = total;
  }
};

// What the E-step needs of theta, per component and channel.
template <class T>
struct Precomputed {
  std::vector<T> half_precision;  // [K, C]   -1 / (2 (var + eps))
  std::vector<T> constant;        // [G, K]   log weight - 1/2 sum log(var + eps)

  Precomputed(const MomentsArguments<T>& a, int64_t channels)
      : half_precision(a.components * channels), constant(a.groups * a.components) {
    const int64_t depth = channels / a.groups;
    for (int64_t g = 0; g < a.groups; ++g) {
      for (int64_t k = 0; k < a.components; ++k) {
        double log_det = 0;
        for (int64_t c = g * depth; c < (g + 1) * depth; ++c) {
          const double variance = a.var[k * channels + c] + a.eps;
          half_precision[k * channels + c] = T(-0.5 / variance);
          log_det += std::log(variance);
        }
        const T weight =
            std::max(a.mixing_weight[g * a.components + k], std::numeric_limits<T>::min());
        constant[g * a.components + k] = T(std::log(double(weight)) - 0.5 * log_det);
      }
    }
  }
};

template <class Element, class T>
class MomentsKernel {
 public:
  MomentsKernel(const Input& x, const MomentsArguments<T>& arguments)
      : x_(x),
        a_(arguments),
        depth_(x.channels / arguments.groups),
        positions_(x.batch * x.length),
        chunk_(std::max(kTilePositions, (positions_ + kMaxChunks - 1) / kMaxChunks)),
        theta_(arguments, x.channels) {}

  void run(Executor executor) {
    const int64_t chunks = (positions_ + chunk_ - 1) / chunk_;
    const int64_t size = a_.components * x_.channels;
    std::vector<Partial> partials(chunks * size);
    parallel_for(executor, chunks, [&](int64_t begin, int64_t end) {
      std::vector<T> tile(depth_ * kTilePositions);
      std::vector<T> nu(a_.components * kTilePositions);
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t last = std::min((chunk + 1) * chunk_, positions_);
        for (int64_t first = chunk * chunk_; first < last; first += kTilePositions) {
          const int64_t count = std::min(kTilePositions, last - first);
          for (int64_t g = 0; g < a_.groups; ++g) {
            load(g, first, count, tile.data());
            responsibilities(g, count, tile.data(), nu.data());
            accumulate(g, count, tile.data(), nu.data(), &partials[chunk * size]);
          }
        }
      }
    });
    parallel_for(executor, size, [&](int64_t begin, int64_t end) {
      for (int64_t kc = begin; kc < end; ++kc) {
        Partial total;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) total.merge(partials[chunk * size + kc]);
        store(kc / x_.channels, kc % x_.channels, total);
      }
    });
  }

 private:
  void load(int64_t g, int64_t first, int64_t count, T* tile) const {
    const auto* data = static_cast<const Element*>(x_.data);
    int64_t n = first / x_.length, l = first % x_.length;
    for (int64_t i = 0; i < count; ++i) {
      const Element* at = data + n * x_.stride_n + l * x_.stride_l + g * depth_ * x_.stride_c;
      for (int64_t d = 0; d < depth_; ++d) {
        tile[d * kTilePositions + i] = widen(at[d * x_.stride_c]);
      }
      if (++l == x_.length) l = 0, ++n;
    }
  }

  void responsibilities(int64_t g, int64_t count, const T* tile, T* nu) const {
    const int64_t K = a_.components;
    if (K == 1) {
      std::fill(nu, nu + count, T(1));
      return;
    }
    for (int64_t k = 0; k < K; ++k) {
      T* logit = nu + k * kTilePositions;
      std::fill(logit, logit + count, theta_.constant[g * K + k]);
      for (int64_t d = 0; d < depth_; ++d) {
        const int64_t kc = k * x_.channels + g * depth_ + d;
        const T mean = a_.mean[kc], half_precision = theta_.half_precision[kc];
        const T* row = tile + d * kTilePositions;
        for (int64_t i = 0; i < count; ++i) {
          logit[i] += (row[i] - mean) * (row[i] - mean) * half_precision;
        }
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      T largest = nu[i];
      for (int64_t k = 1; k < K; ++k) largest = std::max(largest, nu[k * kTilePositions + i]);
      T sum = 0;
      for (int64_t k = 0; k < K; ++k) {
        T& value = nu[k * kTilePositions + i];
        value = std::exp(value - largest);
        sum += value;
      }
      for (int64_t k = 0; k < K; ++k) nu[k * kTilePositions + i] /= sum;
    }
  }

  void accumulate(int64_t g, int64_t count, const T* tile, const T* nu, Partial* partials) const {
    for (int64_t k = 0; k < a_.components; ++k) {
      const T* weight = nu + k * kTilePositions;
      double mass = 0;
      for (int64_t i = 0; i < count; ++i) mass += weight[i];
      for (int64_t d = 0; d < depth_; ++d) {
        const int64_t c = g * depth_ + d;
        const T* row = tile + d * kTilePositions;
        const double shift = row[0];
        double first = 0;
        for (int64_t i = 0; i < count; ++i) first += weight[i] * (row[i] - shift);
        Partial part{mass, mass > 0 ? shift + first / mass : shift, 0};
        for (int64_t i = 0; i < count; ++i) {
          part.deviation += weight[i] * (row[i] - part.mean) * (row[i] - part.mean);
        }
        partials[k * x_.channels + c].merge(part);
      }
    }
  }

  // S~ = max(S, floor): m = mu + sum nu (x - mu) / S~ and q = sum nu (x - m)^2 / S~.
  void store(int64_t k, int64_t c, const Partial& total) const {
    const int64_t kc = k * x_.channels + c;
    const double safe_mass = std::max(total.mass, kMassFloor);
    const double mean = a_.mean[kc] + (total.mean - a_.mean[kc]) * (total.mass / safe_mass);
    const double offset = total.mean - mean;
    a_.batch_mean[kc] = T(mean);
    a_.batch_var[kc] = T((total.deviation + total.mass * offset * offset) / safe_mass);
    if (c % depth_ == 0) a_.mass[c / depth_ * a_.components + k] = T(total.mass);
  }

  const Input& x_;
  const MomentsArguments<T>& a_;
  int64_t depth_, positions_, chunk_;
  Precomputed<T> theta_;
};

}  // namespace

template <>
void moments(const Input& x, const MomentsArguments<double>& arguments, Executor executor) {
  MomentsKernel<double, double>(x, arguments).run(executor);
}

template <>
void moments(const Input& x, const MomentsArguments<float>& arguments, Executor executor) {
  switch (x.scalar) {
    case Scalar::kHalf:
      return MomentsKernel<Half, float>(x, arguments).run(executor);
    case Scalar::kBFloat16:
      return MomentsKernel<BFloat16, float>(x, arguments).run(executor);
    default:
      return MomentsKernel<float, float>(x, arguments).run(executor);
  }
}

}  // namespace mixnorm::cpu
