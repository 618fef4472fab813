// The backward kernels, emulated: every family, layout and element type against the formulas.
#include <cstdio>
#include <optional>

#include "cuda/backward.h"
#include "cuda/evaluate.h"
#include "tests/cuda_problem.h"

namespace {

using namespace mixnorm::tests;
using mixnorm::cuda::DeviceLimits;
using mixnorm::cuda::Family;
using mixnorm::cuda::Launch;

enum class Mode { kTraining, kDetached, kLearned, kEval };

// Of sums of products: dx, then the parameters'.
template <class S>
double tolerance(bool input) {
  if (sizeof(S) == 8) return 1e-11;
  if (sizeof(S) == 4 || !input) return 1e-5;
  return std::is_same_v<S, __half> ? 1.0 / 1024 : 1.0 / 128;
}

// dy_layout: of dy, where it is not x's.
template <class S>
void check(const Shape& s, Layout layout, Family family, Mode mode,
           std::optional<Layout> dy_layout = {}) {
  using T = typename Element<S>::T;
  const unsigned seed = seed_of({s.batch, s.channels, s.length, s.components, s.groups, int(layout),
                                 int(family), int(mode), int(Element<S>::kScalar)});
  Model m = random_model(s, 0.5, seed);
  m.responsibility_grad = mode != Mode::kDetached;
  mixnorm::emulation::schedule_seed() = seed;
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  Vector upstream(m.x.size());
  for (double& value : upstream) value = normal(generator);
  Array<S> x(s, layout), dy(s, dy_layout.value_or(layout)), dx(s, layout);
  x.store(m.x);
  dy.store(upstream);
  const int64_t GK = s.groups * s.components, KC = s.components * s.channels;
  const Vector nu = posterior(m);
  Moments batch = moments(m, nu);
  if (mode == Mode::kEval) batch = {m.lambda, m.mu, m.sigma};
  // The kernels are given rounded statistics: so is the reference.
  for (Vector* values : {&batch.mass, &batch.mean, &batch.var}) {
    for (double& value : *values) value = T(value);
  }
  const auto lambda = as<T>(m.lambda), mu = as<T>(m.mu), sigma = as<T>(m.sigma);
  const auto gamma = as<T>(m.gamma), beta = as<T>(m.beta);
  const auto mass = as<T>(batch.mass), mean = as<T>(batch.mean), var = as<T>(batch.var);
  auto dgamma = unwritten<T>(KC), dbeta = unwritten<T>(KC);
  auto dlambda = unwritten<T>(GK), dmu = unwritten<T>(KC), dsigma = unwritten<T>(KC);
  DeviceLimits device{};
  CHECK(mixnorm::cuda::device_limits(0, &device) == cudaSuccess);
  PoisonedWorkspace workspace(
      mixnorm::cuda::backward_workspace(x.input(), s.components, s.groups, device));
  const Launch launch{device, nullptr, workspace.get(), family};
  cudaError_t error;
  if (mode == Mode::kEval) {
    const mixnorm::cuda::EvaluateBackwardArguments<T> arguments{
        s.components,
        s.groups,
        {lambda.data(), mu.data(), sigma.data()},
        {gamma.data(), s.channels, beta.data(), s.channels},
        m.eps,
        true,
        true,
        dx.output(),
        dgamma.data(),
        dbeta.data()};
    error = mixnorm::cuda::launch_evaluate_backward<T>(dy.input(), x.input(), arguments, launch);
  } else {
    mixnorm::cuda::BackwardArguments<T> arguments{
        s.components,
        s.groups,
        {mass.data(), mean.data(), var.data()},
        {lambda.data(), mu.data(), sigma.data()},
        {gamma.data(), s.channels, beta.data(), s.channels},
        m.eps,
        true,
        m.responsibility_grad,
        dx.output(),
        dgamma.data(),
        dbeta.data(),
        {}};
    if (mode == Mode::kLearned) arguments.dmixture = {dlambda.data(), dmu.data(), dsigma.data()};
    error = mixnorm::cuda::launch_backward<T>(dy.input(), x.input(), arguments, launch);
  }
  if (error != cudaSuccess) std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  (void)cudaGetLastError();

  const Gradients g = gradients(m, nu, batch, mode == Mode::kEval, upstream);
  const int before = failures;
  CHECK(error == cudaSuccess);
  CHECK_NEAR(distance(dx.load(), g.dx), 0, tolerance<S>(true));
  CHECK_NEAR(distance(dgamma, g.dgamma), 0, tolerance<S>(false));
  CHECK_NEAR(distance(dbeta, g.dbeta), 0, tolerance<S>(false));
  if (mode == Mode::kLearned) {
    CHECK_NEAR(distance(dlambda, g.dlambda), 0, tolerance<S>(false));
    CHECK_NEAR(distance(dmu, g.dmu), 0, tolerance<S>(false));
    CHECK_NEAR(distance(dsigma, g.dsigma), 0, tolerance<S>(false));
  }
  if (failures != before) {
    std::fprintf(stderr,
                 "  N=%ld C=%ld L=%ld K=%ld G=%ld layout=%d family=%d mode=%d size=%zu seed=%u\n",
                 s.batch, s.channels, s.length, s.components, s.groups, int(layout), int(family),
                 int(mode), sizeof(S), seed);
  }
}

}  // namespace

int main() {
  const Family families[] = {Family::kStreaming, Family::kResident, Family::kCluster,
                             Family::kSmall};
  for (const Family family : families) {
    for (const Layout layout : {Layout::kPositions, Layout::kChannels, Layout::kSpaced}) {
      for (const Mode mode : {Mode::kTraining, Mode::kDetached, Mode::kLearned, Mode::kEval}) {
        check<float>({3, 8, 20, 3, 1}, layout, family, mode);
        check<float>({4, 16, 16, 4, 4}, layout, family, mode);
      }
      check<float>({2, 17, 9, 3, 1}, layout, family, Mode::kLearned);
      check<float>({1, 1, 4097, 3, 1}, layout, family, Mode::kTraining);
      check<float>({63, 3, 1, 2, 1}, layout, family, Mode::kTraining);
      check<float>({2, 1000, 4, 3, 1}, layout, family, Mode::kLearned);
      check<float>({2, 48, 36, 5, 3}, layout, family, Mode::kLearned);
      check<float>({2, 20, 12, 1, 1}, layout, family, Mode::kLearned);
      check<float>({5, 12, 7, 16, 4}, layout, family, Mode::kLearned);
      check<__half>({3, 8, 20, 3, 1}, layout, family, Mode::kTraining);
      check<__nv_bfloat16>({3, 8, 20, 3, 1}, layout, family, Mode::kTraining);
      check<double>({3, 9, 20, 3, 3}, layout, family, Mode::kLearned);
    }
  }
  // Many components, by matrix products: padded components, lanes without channels, groups.
  for (const Family family : families) {
    for (const Layout layout : {Layout::kPositions, Layout::kChannels}) {
      for (const Mode mode : {Mode::kTraining, Mode::kDetached, Mode::kLearned, Mode::kEval}) {
        check<float>({3, 24, 20, 8, 1}, layout, family, mode);
      }
      check<float>({2, 20, 36, 9, 1}, layout, family, Mode::kLearned);
      check<float>({2, 5, 44, 5, 1}, layout, family, Mode::kLearned);
      check<float>({2, 60, 8, 16, 3}, layout, family, Mode::kLearned);
      check<float>({4, 128, 12, 6, 1}, layout, family, Mode::kTraining);
      check<__half>({2, 200, 12, 8, 1}, layout, family, Mode::kTraining);
      check<__nv_bfloat16>({3, 24, 20, 12, 1}, layout, family, Mode::kTraining);
    }
  }
  // One mixture per channel.
  for (const Family family : families) {
    for (const Layout layout : {Layout::kPositions, Layout::kChannels, Layout::kSpaced}) {
      for (const Mode mode : {Mode::kTraining, Mode::kDetached, Mode::kLearned, Mode::kEval}) {
        check<float>({3, 8, 36, 3, 8}, layout, family, mode);
      }
      // K = 1 to 16, odd channels, one position, more than one chunk.
      check<float>({4, 6, 28, 1, 6}, layout, family, Mode::kLearned);
      check<float>({2, 7, 25, 2, 7}, layout, family, Mode::kLearned);
      check<float>({1, 4, 4100, 4, 4}, layout, family, Mode::kLearned);
      check<float>({37, 6, 1, 5, 6}, layout, family, Mode::kLearned);
      check<float>({5, 3, 7, 16, 3}, layout, family, Mode::kLearned);
      check<__half>({3, 8, 20, 2, 8}, layout, family, Mode::kLearned);
      check<__nv_bfloat16>({3, 8, 20, 3, 8}, layout, family, Mode::kLearned);
      check<double>({3, 7, 20, 6, 7}, layout, family, Mode::kLearned);
    }
  }
  // More channels than blocks at once.
  check<float>({4, 70, 28, 3, 70}, Layout::kPositions, Family::kAuto, Mode::kLearned);
  check<float>({2, 140, 36, 3, 140}, Layout::kChannels, Family::kStreaming, Mode::kLearned);
  // Clusters of several sizes, and several of them.
  for (const Layout layout : {Layout::kPositions, Layout::kChannels, Layout::kSpaced}) {
    check<float>({4, 16, 512, 3, 1}, layout, Family::kCluster, Mode::kLearned);
    check<float>({4, 18, 300, 3, 9}, layout, Family::kCluster, Mode::kTraining);
    check<float>({4, 5, 1100, 3, 5}, layout, Family::kCluster, Mode::kLearned);
  }
  // A tensor that lies otherwise: the workspace is asked for by x alone.
  check<float>({2, 64, 2048, 3, 8}, Layout::kPositions, Family::kStreaming, Mode::kLearned,
               Layout::kSpaced);
  // What no kernel holds in registers: wide groups, and many components in double.
  for (const Layout layout : {Layout::kPositions, Layout::kChannels, Layout::kSpaced}) {
    for (const Mode mode : {Mode::kTraining, Mode::kDetached, Mode::kLearned, Mode::kEval}) {
      check<double>({3, 9, 20, 12, 3}, layout, Family::kAuto, mode);
    }
    check<float>({1, 2100, 12, 3, 1}, layout, Family::kAuto, Mode::kTraining);
    check<float>({2, 1030, 3, 3, 1}, layout, Family::kStreaming, Mode::kLearned);
    check<float>({3, 530, 13, 9, 1}, layout, Family::kStreaming, Mode::kLearned);
    check<__half>({1, 1030, 4, 5, 1}, layout, Family::kAuto, Mode::kTraining);
    check<__nv_bfloat16>({2, 2052, 2, 1, 1}, layout, Family::kAuto, Mode::kTraining);
    check<double>({1, 2, 3000, 16, 2}, layout, Family::kAuto, Mode::kLearned);
  }
  return mixnorm::tests::report("test_cuda_backward");
}
