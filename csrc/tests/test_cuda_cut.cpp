// Random problems on random devices: what a launch takes fits what it was given.
#include <cstdio>
#include <random>

#include "cuda/backward.h"
#include "cuda/forward.h"
#include "cuda/general.h"
#include "cuda/workspace.h"
#include "emulation/device.h"
#include "tests/check.h"

namespace {

using namespace mixnorm::cuda;

class Random {
 public:
  explicit Random(unsigned seed) : generator_(seed) {}
  int64_t of(std::initializer_list<int64_t> values) {
    return values.begin()[generator_() % values.size()];
  }

 private:
  std::mt19937 generator_;
};

struct Problem {
  Scalar scalar;
  int64_t batch, channels, length, components, groups;
  DeviceLimits limits;
};

Problem draw(Random& random) {
  Problem p{};
  p.scalar = Scalar(random.of(
      {int(Scalar::kFloat), int(Scalar::kDouble), int(Scalar::kHalf), int(Scalar::kBFloat16)}));
  p.batch = random.of({0, 1, 2, 3, 16, 64, 256});
  p.length = random.of({1, 2, 3, 7, 16, 49, 64, 225, 256, 3136, 12544});
  p.components = random.of({1, 2, 3, 3, 4, 5, 7, 8, 9, 12, 16});
  p.groups = random.of({1, 1, 2, 3, 5, 8, 16, 32, 64, 100, 512});
  p.channels = p.groups * random.of({1, 1, 2, 3, 4, 5, 8, 16, 24, 64, 129, 300, 1024, 2048, 2100});
  auto& limits = p.limits;
  limits.multiprocessors = int(random.of({1, 4, 7, 16, 108, 132, 148}));
  limits.shared_memory_per_block = int(random.of({99, 163, 227}) << 10);
  limits.shared_memory_per_multiprocessor = limits.shared_memory_per_block + 1024;
  limits.cooperative_launch = random.of({0, 1}) != 0;
  limits.cluster_launch = random.of({0, 1}) != 0;
  return p;
}

// Dense in either order, spaced, or not aligned.
Input tensor(const Problem& p, Random& random) {
  const int64_t C = p.channels, L = p.length;
  const auto* const data = reinterpret_cast<const char*>(4096) + random.of({0, 0, 2, 4, 8});
  Input x{data, p.scalar, p.batch, C, L, C * L, L, 1};
  switch (random.of({0, 1, 2, 3, 4})) {
    case 1:
      x.stride_c = 1, x.stride_l = C;
      break;
    case 2:
      x.stride_l = 2, x.stride_c = 2 * L + 1, x.stride_n = C * x.stride_c + 3;
      break;
    case 3:
      x.stride_n = 2 * C * L;
      break;
    case 4:
      x.stride_n = C * L + 1;
      break;
    default:
      break;
  }
  return x;
}

Tensor other(const Problem& p, Random& random) {
  const Input t = tensor(p, random);
  return {t.data, {t.stride_n, t.stride_c, t.stride_l}};
}

size_t bytes_of(const Problem& p, const Cut& cut) {
  Workspace workspace(nullptr);
  if (p.scalar == Scalar::kDouble) {
    Buffers<double>(workspace, cut);
  } else {
    Buffers<float>(workspace, cut);
  }
  return workspace.used();
}

void report(const Problem& p, const char* what, size_t needed, size_t given) {
  std::fprintf(stderr,
               "  %s: %zu bytes of %zu: N=%ld C=%ld L=%ld K=%ld G=%ld, type %d, %d multiprocessors "
               "of %d bytes\n",
               what, needed, given, p.batch, p.channels, p.length, p.components, p.groups,
               int(p.scalar), p.limits.multiprocessors, p.limits.shared_memory_per_block);
}

// The workspace, which is asked for by x alone, holds what the launch makes of all its tensors.
void check_workspace(const Problem& p, Random& random) {
  const Input x = tensor(p, random);
  const auto cut_of = [&](std::initializer_list<Tensor> others, const CutOptions& options) {
    return cut(x, others, p.components, p.groups, p.limits, options);
  };
  const auto general = [&](Direction direction) {
    return general_workspace(x, p.components, p.groups, p.limits, direction);
  };
  const auto check = [&](const char* what, size_t needed, size_t given) {
    CHECK(needed <= given);
    if (needed > given) report(p, what, needed, given);
  };
  const Tensor dy = other(p, random), out = other(p, random);
  const Cut forward = cut_of({out}, kForwardCut);
  check("forward", forward.supported ? bytes_of(p, forward) : general(Direction::kForward),
        forward_workspace(x, p.components, p.groups, p.limits));
  for (const bool learned : {false, true}) {
    const BackwardCuts cuts = cut_backward(x, {dy, out}, p.components, p.groups, learned, p.limits);
    check("backward", cuts.supported ? bytes_of(p, cuts.backward) : general(Direction::kBackward),
          backward_workspace(x, p.components, p.groups, p.limits));
    const bool shared = learned && cuts.supported && !cuts.backward.geometry.per_channel;
    CHECK(!shared ||
          (cuts.backward.compiled == cuts.fewer_threads.compiled &&
           cuts.backward.geometry.group_columns == cuts.fewer_threads.geometry.group_columns));
  }
}

// Every problem is served, by a launch that the device can do.
void check_plan(const Problem& p, Random& random) {
  auto& device = mixnorm::emulation::device();
  device.multiprocessors = p.limits.multiprocessors;
  device.shared_memory_per_block_optin = p.limits.shared_memory_per_block;
  device.shared_memory_per_multiprocessor = p.limits.shared_memory_per_multiprocessor;
  const Input x = tensor(p, random);
  for (const Direction direction : {Direction::kForward, Direction::kBackward}) {
    const Description d = describe(direction, x, p.components, p.groups, p.limits);
    const bool right = d.supported && d.threads % 32 == 0 && d.threads > 0 && d.threads <= 512 &&
                       d.blocks > 0 && d.blocks % d.cluster_blocks == 0 &&
                       d.shared_memory <= size_t(p.limits.shared_memory_per_block) &&
                       d.resident_tiles <= d.tiles_per_block;
    CHECK(right);
    if (!right) report(p, d.reason, d.shared_memory, size_t(p.limits.shared_memory_per_block));
  }
}

}  // namespace

int main() {
  Random random(1);
  for (int i = 0; i < 200000; ++i) {
    const Problem p = draw(random);
    if (p.channels <= 8192) check_workspace(p, random);
    if (p.channels <= 8192 && i % 10 == 0) check_plan(p, random);
  }
  return mixnorm::tests::report("test_cuda_cut");
}
