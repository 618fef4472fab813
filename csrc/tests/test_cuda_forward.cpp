// The forward kernels, emulated: every family, layout and element type against the formulas.
#include <cstdio>

#include "cuda/evaluate.h"
#include "cuda/forward.h"
#include "cuda/moments.h"
#include "cuda/plan.h"
#include "tests/cuda_problem.h"

namespace {

using namespace mixnorm::tests;
using mixnorm::cuda::Affine;
using mixnorm::cuda::BatchMoments;
using mixnorm::cuda::DeviceLimits;
using mixnorm::cuda::Family;
using mixnorm::cuda::Launch;
using mixnorm::cuda::Mixture;

DeviceLimits limits() {
  DeviceLimits limits{};
  CHECK(mixnorm::cuda::device_limits(0, &limits) == cudaSuccess);
  return limits;
}

bool succeeded(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return true;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  (void)cudaGetLastError();
  CHECK(error == cudaSuccess);
  return false;
}

struct Tolerance {
  double statistics, output;
};
template <class S>
Tolerance tolerance() {
  // Output: two rounding steps of the element type. Statistics are of the accumulation type.
  if (sizeof(S) == 8) return {1e-12, 1e-12};
  if (sizeof(S) == 4) return {2e-6, 2e-6};
  return {2e-6, std::is_same_v<S, __half> ? 1.0 / 1024 : 1.0 / 128};
}

template <class S>
void check(const Shape& s, Layout layout, Family family, int64_t em_iters, double offset = 0.5) {
  using T = typename Element<S>::T;
  static unsigned seed = 0;
  Model m = random_model(s, offset, ++seed);
  mixnorm::emulation::schedule_seed() = seed;
  Array<S> x(s, layout), y(s, layout);
  x.store(m.x);
  const int64_t GK = s.groups * s.components, KC = s.components * s.channels;
  const auto lambda = as<T>(m.lambda), mu = as<T>(m.mu), sigma = as<T>(m.sigma);
  const auto gamma = as<T>(m.gamma), beta = as<T>(m.beta);
  auto mass = unwritten<T>(GK), mean = unwritten<T>(KC), var = unwritten<T>(KC);
  auto final_lambda = unwritten<T>(GK), final_mu = unwritten<T>(KC), final_sigma = unwritten<T>(KC);
  const DeviceLimits device = limits();
  PoisonedWorkspace workspace(
      mixnorm::cuda::forward_workspace(x.input(), s.components, s.groups, device));
  const mixnorm::cuda::ForwardArguments<T> arguments{
      s.components,
      s.groups,
      {lambda.data(), mu.data(), sigma.data()},
      {gamma.data(), s.channels, beta.data(), s.channels},
      m.eps,
      em_iters,
      true,
      y.output(),
      {mass.data(), mean.data(), var.data()},
      {final_lambda.data(), final_mu.data(), final_sigma.data()}};
  const Launch launch{device, nullptr, workspace.get(), family};
  if (!succeeded(mixnorm::cuda::launch_forward<T>(x.input(), arguments, launch), "forward")) return;

  for (int64_t i = 0; i < em_iters; ++i) em_step(m);
  const Vector nu = posterior(m);
  const Moments moments = mixnorm::tests::moments(m, nu);
  const Tolerance t = tolerance<S>();
  const double scale = 1 + em_iters;
  const int before = failures;
  CHECK_NEAR(distance(mass, moments.mass), 0, t.statistics * scale);
  CHECK_NEAR(distance(mean, moments.mean), 0, t.statistics * scale);
  CHECK_NEAR(distance(var, moments.var), 0, t.statistics * scale);
  CHECK_NEAR(distance(final_lambda, m.lambda), 0, t.statistics * scale);
  CHECK_NEAR(distance(final_mu, m.mu), 0, t.statistics * scale);
  CHECK_NEAR(distance(final_sigma, m.sigma), 0, t.statistics * scale);
  CHECK_NEAR(distance(y.load(), normalize(m, nu, moments.mean, moments.var)), 0, t.output * scale);
  if (failures != before) {
    std::fprintf(stderr, "  N=%ld C=%ld L=%ld K=%ld G=%ld layout=%d family=%d em=%ld size=%zu\n",
                 s.batch, s.channels, s.length, s.components, s.groups, int(layout), int(family),
                 em_iters, sizeof(S));
  }
}

}  // namespace

int main() {
  const Family families[] = {Family::kStreaming, Family::kResident};
  for (const Family family : families) {
    for (const Layout layout : {Layout::kPositions, Layout::kChannels, Layout::kSpaced}) {
      check<float>({3, 8, 20, 3, 1}, layout, family, 0);
      check<float>({2, 17, 9, 3, 1}, layout, family, 1);
      check<float>({63, 3, 1, 2, 1}, layout, family, 0);
      check<float>({1, 1, 4097, 3, 1}, layout, family, 2);
      check<float>({1, 1000, 2, 3, 1}, layout, family, 0);
      check<float>({2, 48, 36, 5, 3}, layout, family, 1);
      check<float>({2, 20, 12, 1, 1}, layout, family, 0);
      check<float>({5, 12, 7, 16, 4}, layout, family, 0);
      check<float>({4, 16, 64, 4, 16}, layout, family, 1);
      check<__half>({3, 8, 20, 3, 1}, layout, family, 0);
      check<__nv_bfloat16>({3, 8, 20, 3, 1}, layout, family, 1);
      check<double>({3, 9, 20, 3, 3}, layout, family, 1);
    }
  }
  return mixnorm::tests::report("test_cuda_forward");
}
