// Launches of kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <tuple>
#include <type_traits>

#include "emulation/scheduler.h"

namespace mixnorm::emulation {

// Checks the configuration against the device's limits, runs the kernel to its end and reports as
// the CUDA runtime does: in the value returned and as the last error.
cudaError_t launch(const cudaLaunchConfig_t& configuration, const void* function,
                   const Kernel& kernel);

// How many launches and fills of memory there have been.
int64_t& enqueued();

// How many questions about occupancy.
int64_t& asked();

}  // namespace mixnorm::emulation

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* configuration,
                               void (*kernel)(Parameters...), Arguments&&... arguments) {
  static_assert((std::is_trivially_copyable_v<std::remove_cv_t<Parameters>> && ...));
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "more than a GPU takes as parameters");
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<std::remove_cv_t<Parameters>...> arguments;
  };
  const Call call{kernel, {static_cast<Arguments&&>(arguments)...}};
  const auto run = [](const void* data) {
    const Call& call = *static_cast<const Call*>(data);
    std::apply(call.kernel, call.arguments);
  };
  return mixnorm::emulation::launch(*configuration, reinterpret_cast<const void*>(kernel),
                                    {run, &call});
}
