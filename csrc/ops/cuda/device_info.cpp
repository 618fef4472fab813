#include "cuda/device_info.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "ops/check.h"
#include "ops/cuda/check.h"

namespace mixnorm::ops {
namespace {

std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t> cuda_device_info(int64_t device) {
  int count = 0;
  check_cuda("cuda_device_info", cudaGetDeviceCount(&count));
  MIXNORM_CHECK(device >= 0 && device < count, "cuda_device_info: device is ", device,
                ", expected 0 to ", count - 1);
  const torch::stable::accelerator::DeviceGuard guard(static_cast<int32_t>(device));
  cuda::DeviceInfo info{};
  check_cuda("cuda_device_info", cuda::device_info(static_cast<int>(device), &info));
  return {info.multiprocessors, info.shared_memory_per_block, info.l2_bytes, info.binary_version,
          info.ptx_version};
}

}  // namespace

// There is no tensor to find the device by, so this serves every dispatch key.
STABLE_TORCH_LIBRARY_IMPL(mixnorm, CompositeExplicitAutograd, m) {
  m.impl("cuda_device_info", TORCH_BOX(&cuda_device_info));
}

}  // namespace mixnorm::ops
