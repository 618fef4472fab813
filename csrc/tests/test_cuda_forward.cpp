// The forward kernels, emulated: every family, layout and element type against the formulas.
#include <cstdio>
#include <set>
#include <sstream>
#include <string>

#include "cuda/evaluate.h"
#include "cuda/forward.h"
#include "cuda/moments.h"
#include "cuda/plan.h"
#include "emulation/launch.h"
#include "emulation/omission.h"
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

// What one run gives, and whether it could run.
template <class T>
struct Result {
  bool ran;
  std::vector<T> mass, mean, var, final_lambda, final_mu, final_sigma;
  Vector y;
};

template <class S, class T = typename Element<S>::T>
Result<T> run(const Model& m, const Shape& s, Layout layout, Family family, int64_t em_iters) {
  Array<S> x(s, layout), y(s, layout);
  Vector values = m.x;
  x.store(values);
  const int64_t GK = s.groups * s.components, KC = s.components * s.channels;
  const auto lambda = as<T>(m.lambda), mu = as<T>(m.mu), sigma = as<T>(m.sigma);
  const auto gamma = as<T>(m.gamma), beta = as<T>(m.beta);
  Result<T> r{false,
              unwritten<T>(GK),
              unwritten<T>(KC),
              unwritten<T>(KC),
              unwritten<T>(GK),
              unwritten<T>(KC),
              unwritten<T>(KC),
              {}};
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
      {r.mass.data(), r.mean.data(), r.var.data()},
      {r.final_lambda.data(), r.final_mu.data(), r.final_sigma.data()}};
  const Launch launch{device, nullptr, workspace.get(), family};
  const cudaError_t error = mixnorm::cuda::launch_forward<T>(x.input(), arguments, launch);
  r.ran = error == cudaSuccess;
  if (!r.ran) std::fprintf(stderr, "forward: %s\n", cudaGetErrorString(error));
  (void)cudaGetLastError();
  r.y = y.load();
  return r;
}

template <class S>
void check(const Shape& s, Layout layout, Family family, int64_t em_iters, double offset = 0.5) {
  using T = typename Element<S>::T;
  const unsigned seed = seed_of({s.batch, s.channels, s.length, s.components, s.groups, int(layout),
                                 int(family), em_iters, int(Element<S>::kScalar)});
  Model m = random_model(s, offset, seed);
  mixnorm::emulation::schedule_seed() = seed;
  Array<S>(s, layout).store(m.x);
  const Result<T> r = run<S>(m, s, layout, family, em_iters);
  CHECK(r.ran);
  for (int64_t i = 0; i < em_iters; ++i) em_step(m);
  const Vector nu = posterior(m);
  const Moments moments = mixnorm::tests::moments(m, nu);
  const Tolerance t = tolerance<S>();
  const double scale = 1 + em_iters;
  const int before = failures;
  CHECK_NEAR(distance(r.mass, moments.mass), 0, t.statistics * scale);
  CHECK_NEAR(distance(r.mean, moments.mean), 0, t.statistics * scale);
  CHECK_NEAR(distance(r.var, moments.var), 0, t.statistics * scale);
  CHECK_NEAR(distance(r.final_lambda, m.lambda), 0, t.statistics * scale);
  CHECK_NEAR(distance(r.final_mu, m.mu), 0, t.statistics * scale);
  CHECK_NEAR(distance(r.final_sigma, m.sigma), 0, t.statistics * scale);
  CHECK_NEAR(distance(r.y, normalize(m, nu, moments.mean, moments.var)), 0, t.output * scale);
  if (failures != before) {
    std::fprintf(stderr,
                 "  N=%ld C=%ld L=%ld K=%ld G=%ld layout=%d family=%d em=%ld size=%zu seed=%u\n",
                 s.batch, s.channels, s.length, s.components, s.groups, int(layout), int(family),
                 em_iters, sizeof(S), seed);
  }
}

// Results do not depend on how blocks and threads take turns: the same bits under every schedule.
void check_schedules() {
  const Shape s{3, 40, 50, 3, 1};
  const Model m = random_model(s, 0.5, 7);
  for (const Family family :
       {Family::kStreaming, Family::kResident, Family::kCluster, Family::kSmall}) {
    mixnorm::emulation::schedule_seed() = 0;
    const auto first = run<float>(m, s, Layout::kPositions, family, 1);
    CHECK(first.ran);
    for (int seed = 1; seed < 4; ++seed) {
      mixnorm::emulation::schedule_seed() = seed;
      const auto other = run<float>(m, s, Layout::kPositions, family, 1);
      CHECK(other.y == first.y && other.mean == first.mean && other.var == first.var);
    }
  }
}

// One multiprocessor whose shared memory holds few of the tiles: the others are read again.
void check_overflow() {
  auto& device = mixnorm::emulation::device();
  const auto whole = device;
  device.multiprocessors = 1;
  device.shared_memory_per_block_optin = 120 << 10;
  const Shape shapes[] = {{1, 8, 8192, 3, 1}, {3, 8, 3000, 3, 2}};
  for (const Shape& s : shapes) {
    Array<float> x(s, Layout::kPositions);
    const auto d = mixnorm::cuda::describe(mixnorm::cuda::Direction::kForward, x.input(),
                                           s.components, s.groups, limits(), Family::kResident);
    CHECK(d.supported && d.resident_tiles > 0 && d.resident_tiles < d.tiles_per_block);
    check<float>(s, Layout::kPositions, Family::kResident, 2);
    check<float>(s, Layout::kChannels, Family::kResident, 1);
  }
  // Of a cluster of two blocks, one on each of two multiprocessors.
  device.multiprocessors = 2;
  device.shared_memory_per_multiprocessor = 121 << 10;
  for (const Shape& s : {Shape{1, 8, 9000, 3, 1}, Shape{2, 2, 35000, 2, 2}}) {
    Array<float> x(s, Layout::kPositions);
    const auto d = mixnorm::cuda::describe(mixnorm::cuda::Direction::kForward, x.input(),
                                           s.components, s.groups, limits(), Family::kCluster);
    CHECK(d.supported && d.cluster_blocks == 2);
    CHECK(d.resident_tiles > 0 && d.resident_tiles < d.tiles_per_block);
    check<float>(s, Layout::kPositions, Family::kCluster, 1);
    check<float>(s, Layout::kChannels, Family::kCluster, 0);
  }
  device = whole;
}

// |mean| / std of 1e4: sums of raw squares would lose every digit of the variance in float.
void check_large_mean() {
  const Shape s{4, 8, 500, 1, 1};
  Model m = random_model(s, 1e4, 17);
  Array<float>(s, Layout::kPositions).store(m.x);
  const auto r = run<float>(m, s, Layout::kPositions, Family::kResident, 0);
  const Moments expected = moments(m, posterior(m));
  CHECK_NEAR(distance(r.var, expected.var), 0, 1e-4);
  CHECK_NEAR(distance(r.y, normalize(m, posterior(m), expected.mean, expected.var)), 0, 1e-3);
}

void check_empty_batch() {
  const auto check = [](auto element, const Shape& s, Family family) {
    const Model m = random_model(s, 0.5, 5);
    const auto r = run<decltype(element)>(m, s, Layout::kPositions, family, 0);
    CHECK(r.ran);
    for (const auto mass : r.mass) CHECK(mass == 0);
    CHECK_NEAR(distance(r.mean, m.mu), 0, 1e-7);
    for (const auto var : r.var) CHECK(var == 0);
  };
  for (const Family family :
       {Family::kStreaming, Family::kResident, Family::kCluster, Family::kSmall}) {
    check(float{}, {0, 4, 9, 3, 2}, family);
  }
  check(double{}, {0, 4, 9, 9, 2}, Family::kAuto);
}

// A problem of the general kernels is refused where others are asked for.
void check_refusal() {
  const Shape s{1, 2100, 2, 3, 1};
  const Model m = random_model(s, 0.5, 9);
  CHECK(!run<float>(m, s, Layout::kPositions, Family::kResident, 0).ran);
}

void check_nan_reaches_the_result() {
  const Shape s{2, 4, 40, 3, 1};
  Model m = random_model(s, 0.5, 6);
  m.x[5] = std::numeric_limits<double>::quiet_NaN();
  const auto r = run<float>(m, s, Layout::kPositions, Family::kResident, 0);
  CHECK(r.ran && std::isnan(r.mean[0]) && std::isnan(r.y[0]));
}

// Adds the places of barriers and waits to `all`, and those to `noticed` whose omission makes a
// launch fail or give something else.
void look_for_barriers(const Shape& s, Family family, std::set<std::string>& all,
                       std::set<std::string>& noticed) {
  Model m = random_model(s, 0.5, 8);
  Array<float>(s, Layout::kPositions).store(m.x);
  const auto result = [&] { return run<float>(m, s, Layout::kPositions, family, 1); };
  (void)mixnorm::emulation::synchronization_places();
  const auto expected = result();
  CHECK(expected.ran);
  const auto right = [&] {
    const auto r = result();
    return r.ran && r.y == expected.y && r.mass == expected.mass && r.mean == expected.mean;
  };
  std::istringstream places(mixnorm::emulation::synchronization_places());
  for (std::string place; places >> place;) {
    all.insert(place);
    mixnorm::emulation::omit_synchronization(place);
    for (int seed = 0; seed < 8 && noticed.count(place) == 0; ++seed) {
      mixnorm::emulation::schedule_seed() = seed;
      if (!right()) noticed.insert(place);
    }
    mixnorm::emulation::omit_synchronization("");
  }
}

// No barrier of the kernels is there for nothing: some problem needs it.
void check_barriers() {
  std::set<std::string> all, noticed;
  const Shape channels{2, 72, 96, 3, 1}, positions{2, 16, 512, 3, 1}, own{2, 3, 4096, 3, 3};
  for (const Family family : {Family::kResident, Family::kCluster, Family::kSmall}) {
    for (const Shape& s : {channels, positions, own}) {
      look_for_barriers(s, family, all, noticed);
    }
  }
  // Matrix products, with several warps of channels and with several of positions.
  look_for_barriers({2, 40, 96, 8, 1}, Family::kSmall, all, noticed);
  look_for_barriers({1, 8, 2048, 8, 1}, Family::kSmall, all, noticed);
  CHECK(all.size() >= 18);
  for (const std::string& place : all) {
    if (noticed.count(place) > 0) continue;
    // Products follow, for which all lanes wait, too: what it adds is the order of memory.
    if (place.starts_with("matrix_tile.cuh")) continue;
    std::fprintf(stderr, "nothing depends on the barrier at %s\n", place.c_str());
    CHECK(false);
  }
}

// What fits a block or a cluster, or one for each group, is one ordinary launch; the plan says so
// by itself.
void check_one_launch() {
  const struct {
    Shape shape;
    Family family;
    int cluster_blocks;
  } cases[] = {
      {{4, 16, 64, 3, 1}, Family::kSmall, 1},     {{4, 16, 64, 3, 16}, Family::kSmall, 1},
      {{2, 40, 1500, 3, 40}, Family::kSmall, 1},  {{4, 16, 512, 3, 1}, Family::kCluster, 8},
      {{2, 2, 10000, 3, 2}, Family::kCluster, 4}, {{4, 16, 512, 3, 2}, Family::kCluster, 8}};
  for (const auto& [s, family, cluster_blocks] : cases) {
    Array<float> x(s, Layout::kPositions);
    const auto d = mixnorm::cuda::describe(mixnorm::cuda::Direction::kForward, x.input(),
                                           s.components, s.groups, limits());
    CHECK(d.supported && d.family == family && d.resident_tiles == d.tiles_per_block);
    CHECK(d.cluster_blocks == cluster_blocks);
    const int64_t before = mixnorm::emulation::enqueued();
    CHECK(run<float>(random_model(s, 0.5, 9), s, Layout::kPositions, Family::kAuto, 2).ran);
    CHECK(mixnorm::emulation::enqueued() == before + 1);
  }
}

}  // namespace

int main() {
  const Family families[] = {Family::kStreaming, Family::kResident, Family::kCluster,
                             Family::kSmall};
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
  // Matrix products: odd channels and components, several groups, many warps of channels.
  for (const Layout layout : {Layout::kPositions, Layout::kChannels}) {
    for (const Family family : families) {
      check<float>({2, 36, 20, 8, 1}, layout, family, 1);
      check<float>({3, 21, 12, 5, 3}, layout, family, 0);
      check<float>({1, 8, 600, 16, 1}, layout, family, 1);
    }
    check<float>({1, 131, 36, 6, 1}, layout, Family::kAuto, 0);
    check<float>({2, 256, 16, 8, 1}, layout, Family::kAuto, 0);
    check<__half>({2, 24, 20, 9, 1}, layout, Family::kAuto, 0);
    check<__nv_bfloat16>({2, 24, 20, 16, 1}, layout, Family::kAuto, 0);
  }
  // What no kernel holds in registers: wide groups, and many components in double.
  for (const Layout layout : {Layout::kPositions, Layout::kChannels, Layout::kSpaced}) {
    check<float>({1, 2100, 12, 3, 1}, layout, Family::kAuto, 0);
    check<float>({3, 530, 13, 9, 1}, layout, Family::kStreaming, 0);
    check<__half>({1, 1030, 4, 5, 1}, layout, Family::kAuto, 0);
    check<__nv_bfloat16>({2, 2052, 2, 1, 1}, layout, Family::kAuto, 0);
    check<double>({2, 1040, 3, 2, 2}, layout, Family::kAuto, 0);
    check<double>({3, 9, 70, 12, 3}, layout, Family::kAuto, 2);
    check<double>({1, 2, 5000, 16, 2}, layout, Family::kAuto, 0);
    check<double>({2000, 3, 1, 9, 1}, layout, Family::kAuto, 1);
  }
  for (const Family family : families) {
    for (const Layout layout : {Layout::kPositions, Layout::kChannels, Layout::kSpaced}) {
      // One mixture per channel, too: K = 1 to 16, odd channels, one position, many chunks.
      check<float>({4, 6, 28, 1, 6}, layout, family, 0);
      check<float>({2, 7, 25, 2, 7}, layout, family, 2);
      check<float>({2, 4, 2060, 3, 4}, layout, family, 1);
      check<float>({37, 6, 1, 5, 6}, layout, family, 1);
      check<float>({5, 3, 7, 16, 3}, layout, family, 1);
      check<__half>({3, 8, 20, 2, 8}, layout, family, 0);
      check<__nv_bfloat16>({3, 8, 20, 3, 8}, layout, family, 1);
      check<double>({3, 7, 20, 6, 7}, layout, family, 1);
    }
  }
  // More channels than blocks at once.
  check<float>({4, 70, 28, 1, 70}, Layout::kPositions, Family::kAuto, 0);
  check<float>({2, 140, 36, 3, 140}, Layout::kChannels, Family::kStreaming, 1);
  // Clusters of several sizes, several of them, and groups that a block has only some of.
  for (const Layout layout : {Layout::kPositions, Layout::kChannels, Layout::kSpaced}) {
    check<float>({4, 16, 512, 3, 1}, layout, Family::kCluster, 1);
    check<float>({4, 18, 300, 3, 9}, layout, Family::kCluster, 0);
    check<float>({4, 5, 1100, 3, 5}, layout, Family::kCluster, 1);
    check<__nv_bfloat16>({4, 34, 300, 2, 34}, layout, Family::kCluster, 0);
  }
  check_schedules();
  check_barriers();
  check_one_launch();
  check_overflow();
  check_large_mean();
  check_empty_batch();
  check_nan_reaches_the_result();
  check_refusal();
  return mixnorm::tests::report("test_cuda_forward");
}
