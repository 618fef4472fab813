#include "cuda/plan.h"

#include <cstdint>
#include <sstream>
#include <string>

#include "ops/arguments.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/register.h"
#include "ops/cuda/tensors.h"

namespace mixnorm::ops {
namespace {

device::Scalar scalar_of(const char* op, ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return device::Scalar::kFloat;
    case ScalarType::Double:
      return device::Scalar::kDouble;
    case ScalarType::Half:
      return device::Scalar::kHalf;
    default:
      MIXNORM_CHECK(dtype == ScalarType::BFloat16, op, ": dtype is ", dtype,
                    ", expected Float, Double, Half or BFloat16");
      return device::Scalar::kBFloat16;
  }
}

const char* name_of(cuda::Family family) {
  return family == cuda::Family::kSmall      ? "small"
         : family == cuda::Family::kCluster  ? "cluster"
         : family == cuda::Family::kResident ? "resident"
         : family == cuda::Family::kGeneral  ? "general"
                                             : "streaming";
}

const char* name_of(cuda::Access access) {
  switch (access) {
    case cuda::Access::kPositions:
      return "4 positions at once";
    case cuda::Access::kChannels:
      return "4 channels at once";
    default:
      return "1 element at once";
  }
}

// The launch that x of [batch, channels, length] would get on a device, in one line.
std::string cuda_plan(ScalarType dtype, int64_t batch, int64_t channels, int64_t length,
                      bool channels_last, int64_t components, int64_t groups, bool backward,
                      int64_t device) {
  MIXNORM_CHECK(components >= 1 && components <= device::kMaxComponents,
                "cuda_plan: components is ", components, ", expected 1 to ",
                device::kMaxComponents);
  MIXNORM_CHECK(channels >= 1 && groups >= 1 && channels % groups == 0, "cuda_plan: groups is ",
                groups, ", expected a divisor of channels = ", channels);
  MIXNORM_CHECK(batch >= 0 && length >= 0, "cuda_plan: batch is ", batch, " and length ", length,
                ", expected 0 or more");
  const DeviceGuard guard(static_cast<int32_t>(device));
  cuda::DeviceLimits limits{};
  check_cuda("cuda_plan", cuda::device_limits(static_cast<int>(device), &limits));
  const cuda::Input x{nullptr,
                      scalar_of("cuda_plan", dtype),
                      batch,
                      channels,
                      length,
                      channels * length,
                      channels_last ? 1 : length,
                      channels_last ? channels : 1};
  const cuda::Description d =
      cuda::describe(backward ? cuda::Direction::kBackward : cuda::Direction::kForward, x,
                     components, groups, limits, family_from_environment());
  std::ostringstream text;
  if (!d.supported) {
    text << "not served: " << d.reason;
    return text.str();
  }
  text << name_of(d.family) << ", " << (groups == channels ? "a mixture per channel, " : "")
       << (d.matrix ? "matrix products, " : "") << name_of(d.access) << ", " << d.blocks
       << " blocks of " << d.threads << " threads";
  if (d.cluster_blocks > 1) text << " in clusters of " << d.cluster_blocks;
  text << ", tiles of " << d.positions_per_tile << " positions, " << d.tiles_per_block
       << " a block (" << d.resident_tiles << " kept on chip), " << d.shared_memory
       << " bytes of shared memory: " << d.reason;
  return text.str();
}

}  // namespace

MIXNORM_CUDA_FUNCTIONS(m) { m.impl("cuda_plan", TORCH_BOX(&cuda_plan)); }

}  // namespace mixnorm::ops
