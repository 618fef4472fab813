// The moments kernel against the formulas of docs/method.md, section 1, written out in double.
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "cpu/moments.h"
#include "tests/check.h"
#include "tests/executors.h"

namespace {

using mixnorm::cpu::Input;
using mixnorm::cpu::MomentsArguments;
using mixnorm::cpu::Scalar;

struct Shape {
  int64_t batch, channels, length, components, groups;
};

template <class T>
struct Problem {
  Shape shape;
  std::vector<T> x;  // [N, C, L]
  std::vector<T> weight, mean, var;

  Problem(const Shape& s, double offset, unsigned seed) : shape(s) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < s.batch * s.channels * s.length; ++i) {
      x.push_back(T(offset + 2 * normal(generator)));
    }
    for (int64_t g = 0; g < s.groups; ++g) {
      for (int64_t k = 0; k < s.components; ++k) weight.push_back(T(1) / s.components);
    }
    for (int64_t kc = 0; kc < s.components * s.channels; ++kc) {
      mean.push_back(T(offset + normal(generator)));
      var.push_back(T(0.5 + std::fabs(normal(generator))));
    }
  }
};

template <class T>
struct Result {
  std::vector<T> mass, mean, var;
};

template <class T>
Result<T> run(const Problem<T>& p, mixnorm::cpu::Executor executor, bool channels_last) {
  const auto [N, C, L, K, G] = p.shape;
  std::vector<T> data = p.x;
  Input input{data.data(), sizeof(T) == 8 ? Scalar::kDouble : Scalar::kFloat, N, C, L, C * L, L, 1};
  if (channels_last) {
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t c = 0; c < C; ++c) {
        for (int64_t l = 0; l < L; ++l) data[(n * L + l) * C + c] = p.x[(n * C + c) * L + l];
      }
    }
    input.stride_c = 1;
    input.stride_l = C;
  }
  // Every element must be written: what is not stays NaN.
  const T nan = std::numeric_limits<T>::quiet_NaN();
  Result<T> r{std::vector<T>(G * K, nan), std::vector<T>(K * C, nan), std::vector<T>(K * C, nan)};
  MomentsArguments<T> arguments{K,
                                G,
                                p.weight.data(),
                                p.mean.data(),
                                p.var.data(),
                                1e-5,
                                r.mass.data(),
                                r.mean.data(),
                                r.var.data()};
  mixnorm::cpu::moments(input, arguments, executor);
  return r;
}

template <class T>
Result<double> expected(const Problem<T>& p) {
  const auto [N, C, L, K, G] = p.shape;
  const int64_t D = C / G, M = N * L;
  Result<double> r{std::vector<double>(G * K), std::vector<double>(K * C),
                   std::vector<double>(K * C)};
  const auto at = [&, L = L, C = C](int64_t i, int64_t c) {
    return double(p.x[(i / L * C + c) * L + i % L]);
  };
  for (int64_t g = 0; g < G; ++g) {
    std::vector<double> nu(M * K);
    for (int64_t i = 0; i < M; ++i) {
      double sum = 0;
      for (int64_t k = 0; k < K; ++k) {
        double logit = std::log(double(p.weight[g * K + k]));
        for (int64_t c = g * D; c < (g + 1) * D; ++c) {
          const double variance = p.var[k * C + c] + 1e-5, u = at(i, c) - p.mean[k * C + c];
          logit -= 0.5 * (u * u / variance + std::log(variance));
        }
        sum += nu[i * K + k] = std::exp(logit);
      }
      for (int64_t k = 0; k < K; ++k) nu[i * K + k] /= sum;
    }
    for (int64_t k = 0; k < K; ++k) {
      double mass = 0;
      for (int64_t i = 0; i < M; ++i) mass += nu[i * K + k];
      r.mass[g * K + k] = mass;
      const double safe_mass = std::max(mass, 1e-6);
      for (int64_t c = g * D; c < (g + 1) * D; ++c) {
        const double mu = p.mean[k * C + c];
        double first = 0, second = 0;
        for (int64_t i = 0; i < M; ++i) first += nu[i * K + k] * (at(i, c) - mu);
        const double mean = mu + first / safe_mass;
        for (int64_t i = 0; i < M; ++i) second += nu[i * K + k] * std::pow(at(i, c) - mean, 2);
        r.mean[k * C + c] = mean;
        r.var[k * C + c] = second / safe_mass;
      }
    }
  }
  return r;
}

template <class T>
void compare(const Result<T>& actual, const Result<double>& reference, double tolerance,
             double magnitude) {
  for (size_t i = 0; i < actual.mass.size(); ++i) {
    CHECK_NEAR(actual.mass[i], reference.mass[i], tolerance * (1 + reference.mass[i]));
  }
  for (size_t i = 0; i < actual.mean.size(); ++i) {
    CHECK_NEAR(actual.mean[i], reference.mean[i], tolerance * (1 + magnitude));
    CHECK_NEAR(actual.var[i], reference.var[i], tolerance * (4 + reference.var[i]));
  }
}

// A logit of D channels reaches about -50 D here, and its rounding is the relative error of nu.
template <class T>
double tolerance_for(const Shape& s) {
  return 50.0 * double(s.channels / s.groups) * std::numeric_limits<T>::epsilon();
}

template <class T>
void check_shapes() {
  const Shape shapes[] = {
      {2, 4, 37, 3, 1},  {3, 6, 100, 2, 2}, {2, 5, 64, 3, 5},  {7, 3, 1, 5, 1},
      {1, 8, 600, 1, 1}, {1, 1, 1, 1, 1},   {130, 2, 9, 4, 2},
  };
  unsigned seed = 0;
  for (const Shape& shape : shapes) {
    const Problem<T> problem(shape, 0.5, ++seed);
    const Result<double> reference = expected(problem);
    const Result<T> contiguous = run(problem, mixnorm::tests::serial, false);
    compare(contiguous, reference, tolerance_for<T>(shape), 4);
    compare(run(problem, mixnorm::tests::serial, true), reference, tolerance_for<T>(shape), 4);
    const Result<T> threads = run(problem, mixnorm::tests::threaded<3>, false);
    CHECK(threads.mass == contiguous.mass);
    CHECK(threads.mean == contiguous.mean);
    CHECK(threads.var == contiguous.var);
  }
}

// |mean| / std of 5e3: sums of raw squares would lose every digit of the variance in float.
void check_large_mean() {
  const Shape shape{4, 3, 500, 1, 1};
  const Problem<float> problem(shape, 1e4, 17);
  compare(run(problem, mixnorm::tests::threaded<2>, false), expected(problem), 1e-6, 1e4);
}

void check_empty_batch() {
  const Problem<float> problem({0, 4, 9, 3, 2}, 1.0, 5);
  const Result<float> r = run(problem, mixnorm::tests::threaded<2>, false);
  for (float mass : r.mass) CHECK(mass == 0);
  CHECK(r.mean == problem.mean);
  for (float var : r.var) CHECK(var == 0);
}

// A component that no position belongs to keeps its mean.
void check_empty_component() {
  Problem<double> problem({2, 2, 50, 2, 1}, 0.0, 9);
  problem.mean[2] = problem.mean[3] = 1e4;
  const Result<double> r = run(problem, mixnorm::tests::serial, false);
  CHECK(r.mass[1] == 0);
  CHECK(r.mean[2] == 1e4 && r.mean[3] == 1e4);
  CHECK(r.var[2] == 0 && r.var[3] == 0);
}

void check_nan_reaches_the_result() {
  Problem<float> problem({2, 2, 50, 2, 1}, 0.0, 9);
  problem.x[3] = std::numeric_limits<float>::quiet_NaN();
  const Result<float> r = run(problem, mixnorm::tests::serial, false);
  CHECK(std::isnan(r.mean[0]) && std::isnan(r.var[0]));
}

}  // namespace

int main() {
  check_shapes<float>();
  check_shapes<double>();
  check_large_mean();
  check_empty_batch();
  check_empty_component();
  check_nan_reaches_the_result();
  return mixnorm::tests::report("test_moments");
}
