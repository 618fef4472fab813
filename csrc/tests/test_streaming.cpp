// Large outputs are streamed past the caches where their rows allow it, with the same bits wherever
// the rows start.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu/evaluate.h"
#include "cpu/plan.h"
#include "cpu/tile_io.h"
#include "tests/check.h"
#include "tests/executors.h"

namespace {

using namespace mixnorm::cpu;

struct Shape {
  int64_t batch, channels, length, groups;
  bool channels_last;
  int64_t elements() const { return batch * channels * length; }
  Input input(const void* data, Scalar scalar = Scalar::kFloat) const {
    return {data,
            scalar,
            batch,
            channels,
            length,
            channels * length,
            channels_last ? 1 : length,
            channels_last ? channels : 1};
  }
  Output output(void* data) const {
    const Input like = input(data);
    return {data, like.stride_n, like.stride_c, like.stride_l};
  }
};

constexpr Shape kRows{17, 64, 4112, 1, false};     // rows end between two tiles, in whole vectors
constexpr Shape kOddRows{17, 64, 4113, 1, false};  // each row at another place of a cache line
constexpr Shape kColumns{17, 48, 5500, 3, true};   // groups of 16 channels

// Elements of a buffer that starts `offset` floats after an aligned address.
std::vector<float> buffer(const Shape& shape) {
  return std::vector<float>(shape.elements() + 32, std::numeric_limits<float>::quiet_NaN());
}
float* aligned(std::vector<float>& v, int64_t offset) {
  const auto address = reinterpret_cast<uintptr_t>(v.data());
  return v.data() + (kLineBytes - address % kLineBytes) % kLineBytes / 4 + offset;
}

void check_choice() {
  const auto stores = [](const Shape& shape, int64_t offset, Scalar scalar = Scalar::kFloat) {
    alignas(kLineBytes) static float here[2];  // an address; nothing is read or written
    const Plan plan(shape.input(here, scalar), shape.groups, 3, {});
    return TileWriter<float>(plan, shape.output(here + offset), scalar).stores();
  };
  CHECK(stores(kRows, 0) == kStreamed);
  CHECK(stores(kColumns, 0) == kStreamed);
  CHECK(stores(kRows, 1) == kStreamed);
  CHECK(stores(kColumns, 1) == kCached);
  CHECK(stores(kOddRows, 0) == kStreamed);
  CHECK(stores({1700, 64, 49, 1, false}, 0) == kCached);  // short rows
  CHECK(stores({17, 56, 5500, 1, true}, 0) == kCached);
  CHECK(stores({17, 48, 5500, 6, true}, 0) == kCached);  // groups of 8 channels
  CHECK(stores({2, 64, 4112, 1, false}, 0) == kCached);  // small
  CHECK(stores(kRows, 0, Scalar::kBFloat16) == kCached);
}

void check_bits(const Shape& s) {
  constexpr int64_t kComponents = 3;
  std::mt19937 generator(3);
  const auto draw = [&](int64_t count, float scale, float offset) {
    std::vector<float> values(count);
    for (float& v : values) v = offset + scale * float(generator() % 2048) / 1024;
    return values;
  };
  const int64_t kc = kComponents * s.channels;
  const std::vector<float> x = draw(s.elements(), 1, -1), dy = draw(s.elements(), 1, -1);
  const std::vector<float> lambda(s.groups * kComponents, 1.f / kComponents),
      mu = draw(kc, 1, -1), var = draw(kc, 1, 1), weight = draw(kc, 1, 0), bias = draw(kc, 1, -1);
  const Mixture<const float> mixture{lambda.data(), mu.data(), var.data()};
  const Affine<float> affine{weight.data(), s.channels, bias.data(), s.channels};
  std::vector<float> y[2] = {buffer(s), buffer(s)}, dx[2] = {buffer(s), buffer(s)};
  for (int64_t offset : {0, 1}) {
    std::vector<float> dweight(kc), dbias(kc);
    evaluate(s.input(x.data()),
             EvaluateArguments<float>{kComponents, s.groups, mixture, affine, 1e-5, true,
                                      s.output(aligned(y[offset], offset))},
             mixnorm::tests::threaded<2>);
    evaluate_backward(s.input(dy.data()), s.input(x.data()),
                      EvaluateBackwardArguments<float>{
                          kComponents, s.groups, mixture, affine, 1e-5, true, true,
                          s.output(aligned(dx[offset], offset)), dweight.data(), dbias.data()},
                      mixnorm::tests::threaded<2>);
  }
  const auto same = [&](std::vector<float>* v) {
    const float *here = aligned(v[0], 0), *there = aligned(v[1], 1);
    return std::memcmp(here, there, s.elements() * sizeof(float)) == 0;
  };
  const auto written = [&](std::vector<float>& v) {
    return std::count_if(v.begin(), v.end(), [](float value) { return value == value; });
  };
  for (int i : {0, 1}) CHECK(written(y[i]) == s.elements() && written(dx[i]) == s.elements());
  CHECK(same(y));
  CHECK(same(dx));
}

int run() {
  check_choice();
  check_bits(kRows);
  check_bits(kOddRows);
  check_bits(kColumns);
  return mixnorm::tests::report(instruction_set().name);
}

}  // namespace

// The instruction set is chosen once a process, so each gets its own.
int main(int, char** argv) {
  if (std::getenv("MIXNORM_CPU_CAPABILITY")) return run();
  int status = 0;
  for (const char* name : {"plain", "avx2", "avx512"}) {
    if (!find_instruction_set(name)) {
      std::printf("%s: skipped, not supported by this processor or build\n", name);
      continue;
    }
    std::fflush(stdout);
    status |= std::system(("MIXNORM_CPU_CAPABILITY=" + std::string(name) + " " + argv[0]).c_str());
  }
  return status == 0 ? 0 : 1;
}
