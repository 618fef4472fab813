// Where an operator's kernels run: the device and the current stream of its tensors, the device's
// limits, and a workspace.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>

#include "cuda/launch.h"
#include "ops/allocate.h"
#include "ops/cuda/check.h"

namespace mixnorm::ops {

#if defined(MIXNORM_EMULATION)
struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
};
inline cudaStream_t current_stream(int32_t) { return nullptr; }
#else
using DeviceGuard = torch::stable::accelerator::DeviceGuard;
inline cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}
#endif

// MIXNORM_CUDA_KERNELS: which family of kernels has to serve, instead of the plan's choice.
inline cuda::Family family_from_environment() {
  const char* value = std::getenv("MIXNORM_CUDA_KERNELS");
  const std::string name = value ? value : "";
  if (name.empty() || name == "auto") return cuda::Family::kAuto;
  if (name == "streaming") return cuda::Family::kStreaming;
  if (name == "small") return cuda::Family::kSmall;
  if (name == "cluster") return cuda::Family::kCluster;
  MIXNORM_CHECK(name == "resident", "MIXNORM_CUDA_KERNELS is ", name,
                ", expected auto, streaming, resident, cluster or small");
  return cuda::Family::kResident;
}

class LaunchScope {
 public:
  LaunchScope(const char* op, const Tensor& x)
      : op_(op), x_(x), device_(index_of(x)), guard_(device_) {
    check_cuda(op, cuda::device_limits(device_, &limits_));
  }

  const cuda::DeviceLimits& limits() const { return limits_; }
  cudaStream_t stream() const { return current_stream(device_); }

  // With so many bytes of workspace, which lives as long as this object and, as the allocator
  // knows the stream, as long as the kernels that use it.
  cuda::Launch launch(size_t workspace_bytes) {
    constexpr size_t kAlignment = 256;
    const auto bytes = static_cast<int64_t>(workspace_bytes + kAlignment);
    const int64_t stride = 1;
    workspace_ = empty_strided(x_, aoti_torch_dtype_uint8(), 1, &bytes, &stride);
    const auto address = reinterpret_cast<uintptr_t>(workspace_->mutable_data_ptr());
    void* aligned = reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
    return {limits_, stream(), aligned, family_from_environment()};
  }

  void check(cudaError_t error) const {
    if (error == cudaErrorNotSupported) {
      (void)cudaGetLastError();
      const bool clusters = family_from_environment() == cuda::Family::kCluster;
      throw std::runtime_error(
          message("mixnorm::", op_, ": the CUDA kernels do not serve x of ", shape_of(x_), " and ",
                  x_.scalar_type(), " on this device",
                  clusters && !limits_.cluster_launch ? ", which has no thread-block clusters" : "",
                  ": ", cudaGetErrorString(error)));
    }
    check_cuda(op_, error);
  }

 private:
  static int32_t index_of(const Tensor& x) {
#if defined(MIXNORM_EMULATION)
    static_cast<void>(x);
    return 0;  // the one device that is emulated
#else
    int32_t device;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &device));
    return device;
#endif
  }

  const char* op_;
  Tensor x_;
  int32_t device_;
  DeviceGuard guard_;
  cuda::DeviceLimits limits_{};
  std::optional<Tensor> workspace_;
};

}  // namespace mixnorm::ops
