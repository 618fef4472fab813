// Which kernels the plan chooses for a device, emulated only as far as its limits.
#include <cstdio>
#include <cstring>

#include "cuda/plan.h"
#include "emulation/device.h"
#include "emulation/launch.h"
#include "tests/check.h"

namespace {

using mixnorm::cuda::Description;
using mixnorm::cuda::Direction;
using mixnorm::cuda::Family;
using mixnorm::cuda::Scalar;

// Of x [N, C, L] in a GPU's memory.
struct Problem {
  int64_t batch, channels, length, components, groups;
  Scalar scalar = Scalar::kFloat;
  bool channels_last = false;
};

Description describe(const Problem& p, Direction direction, Family family = Family::kAuto) {
  mixnorm::cuda::DeviceLimits limits{};
  CHECK(mixnorm::cuda::device_limits(0, &limits) == cudaSuccess);
  const mixnorm::cuda::Input x{nullptr,
                               p.scalar,
                               p.batch,
                               p.channels,
                               p.length,
                               p.channels * p.length,
                               p.channels_last ? 1 : p.length,
                               p.channels_last ? p.channels : 1};
  return mixnorm::cuda::describe(direction, x, p.components, p.groups, limits, family);
}

// kept: of a block's tiles, on chip.
void check(const Problem& p, Direction direction, Family family, int cluster_blocks, bool kept) {
  const Description d = describe(p, direction);
  const bool right = d.supported && d.family == family && d.cluster_blocks == cluster_blocks &&
                     (d.resident_tiles == d.tiles_per_block) == kept;
  CHECK(right);
  if (!right) {
    std::fprintf(
        stderr,
        "  N=%ld C=%ld L=%ld K=%ld G=%ld direction=%d: family=%d, %d blocks in clusters of "
        "%d, %ld of %ld tiles on chip: %s\n",
        p.batch, p.channels, p.length, p.components, p.groups, int(direction), int(d.family),
        d.blocks, d.cluster_blocks, d.resident_tiles, d.tiles_per_block, d.reason);
  }
}

constexpr Direction kForward = Direction::kForward, kBackward = Direction::kBackward;

// A mixture per channel, 0.8 MB each and 51 MB in all: more than the device, less than 8 blocks of
// it, hold on chip.
constexpr Problem kChannels{64, 64, 56 * 56, 3, 64};

// An H200's multiprocessors and shared memory.
void check_hopper() {
  check(kChannels, kForward, Family::kCluster, 8, true);
  check(kChannels, kBackward, Family::kCluster, 8, true);
  CHECK(describe(kChannels, kForward).blocks == 512);
  check({64, 64, 56 * 56, 3, 64, Scalar::kBFloat16}, kForward, Family::kCluster, 4, true);
  // Joint mixtures of 8 channels alike.
  check({32, 512, 28 * 28, 3, 64}, kForward, Family::kCluster, 8, true);
  // A part stays of channels of 3.2 MB; channels of 13 MB are streamed.
  check({64, 64, 112 * 112, 3, 64}, kForward, Family::kCluster, 8, false);
  check({256, 64, 112 * 112, 3, 64}, kForward, Family::kStreaming, 1, false);
  // One group takes the whole grid, unless it is small.
  check({64, 64, 56 * 56, 3, 1}, kForward, Family::kResident, 1, false);
  check({32, 64, 28 * 28, 3, 1}, kForward, Family::kResident, 1, true);
  check({32, 64, 49, 3, 1}, kForward, Family::kCluster, 8, true);
  check({4, 16, 49, 3, 1}, kForward, Family::kSmall, 1, true);
  // Blocks that are one to a multiprocessor have all of its shared memory.
  check({64, 1156, 64, 3, 1}, kForward, Family::kResident, 1, true);
  // Two blocks to a multiprocessor would have 3 of their 4 tiles each, one all 6 of its own.
  check({64, 256, 14 * 14, 3, 1}, kBackward, Family::kResident, 1, true);
  // Channels enough for every multiprocessor fit a block each.
  check({32, 256, 28 * 28, 3, 256}, kForward, Family::kSmall, 1, true);
  // A cluster takes whole sectors of rows of channels: those of 64 are too few clusters.
  check({64, 64, 28 * 28, 3, 64, Scalar::kFloat, true}, kForward, Family::kResident, 1, true);
  check({64, 512, 28 * 28, 3, 512, Scalar::kFloat, true}, kForward, Family::kCluster, 8, true);
}

// Without clusters a part of the same problem stays; by name they are refused, and it says why.
void check_no_clusters(const char* reason) {
  check(kChannels, kForward, Family::kResident, 1, false);
  check({32, 64, 49, 3, 1}, kForward, Family::kResident, 1, true);
  check({4, 16, 49, 3, 1}, kForward, Family::kSmall, 1, true);
  const Description d = describe(kChannels, kForward, Family::kCluster);
  CHECK(!d.supported && std::strcmp(d.reason, reason) == 0);
}

// Groups that fill a block's threads, on GPUs with less shared memory than a Hopper GPU: tiles of
// fewer elements, and where those do not fit either, the general kernels.
void check_shared_memory() {
  auto& device = mixnorm::emulation::device();
  const auto hopper = device;
  device.compute_capability_major = 8;
  for (const int kilobytes : {163, 99}) {
    device.shared_memory_per_block_optin = kilobytes << 10;
    device.shared_memory_per_multiprocessor = (kilobytes + 1) << 10;
    for (const bool channels_last : {false, true}) {
      for (const int64_t channels : {64, 256, 512, 1024, 2048}) {
        for (const Direction direction : {kForward, kBackward}) {
          const Description d =
              describe({32, channels, 64, 3, 1, Scalar::kFloat, channels_last}, direction);
          const bool held = kilobytes > 99 || channels < 512 || direction == kForward;
          CHECK(d.supported && (d.family != Family::kGeneral) == held);
          CHECK(d.shared_memory <= size_t(device.shared_memory_per_block_optin));
        }
      }
    }
  }
  device = hopper;
}

// A plan is looked for once; another device has its own.
void check_remembered() {
  using mixnorm::cuda::Plan;
  mixnorm::cuda::DeviceLimits limits{};
  CHECK(mixnorm::cuda::device_limits(0, &limits) == cudaSuccess);
  const mixnorm::cuda::Input x{nullptr, Scalar::kFloat, 64, 64, 3136, 64 * 3136, 3136, 1};
  const auto cut = mixnorm::cuda::cut(x, {}, 3, 1, limits);
  const void* const kernel = mixnorm::cuda::forward_kernel_address(Scalar::kFloat, cut);
  const auto plan = [&] { return mixnorm::cuda::plan(cut, kernel, 1, limits, Family::kAuto); };
  const int64_t before = mixnorm::emulation::asked();
  const Plan first = plan();
  const int64_t after = mixnorm::emulation::asked();
  const Plan second = plan();
  CHECK(first.error == cudaSuccess && after > before);
  CHECK(mixnorm::emulation::asked() == after);
  CHECK(second.geometry == first.geometry && second.blocks == first.blocks &&
        second.shared_memory == first.shared_memory && second.family == first.family);
  limits.cooperative_launch = limits.cluster_launch = false;
  CHECK(plan().family == Family::kStreaming && first.family == Family::kResident);
}

}  // namespace

int main() {
  auto& device = mixnorm::emulation::device();
  device.multiprocessors = 132;
  const auto hopper = device;
  check_hopper();
  check_shared_memory();
  check_remembered();
  device.cluster_launch = 0;
  check_no_clusters("no thread-block clusters on this device");
  // Kernels that were compiled for an older GPU only.
  device = hopper;
  device.compute_capability_major = 8;
  check_no_clusters("not compiled for thread-block clusters");
  // Too few multiprocessors for any cluster that is wanted.
  device = hopper;
  device.multiprocessors = 1;
  device.shared_memory_per_block_optin = 120 << 10;
  CHECK(describe({64, 1, 56 * 56, 3, 1}, kForward).family != Family::kCluster);
  return mixnorm::tests::report("test_cuda_plan");
}
