#include "cuda/running.h"

#include <cuda_runtime.h>

#include <cfloat>
#include <cmath>

namespace mixnorm::cuda {
namespace {

constexpr int kThreads = 512;

__device__ double smallest_normal(float) { return FLT_MIN; }
__device__ double smallest_normal(double) { return DBL_MIN; }

// One block: the whole of K C numbers is looked at before the first is changed.
template <class T>
__global__ void __launch_bounds__(kThreads) update_running_kernel(const RunningArguments<T> a) {
  const int64_t masses = a.groups * a.components, values = a.components * a.channels;
  bool finite = true;
  for (int64_t i = threadIdx.x; i < masses; i += blockDim.x) {
    finite = finite && isfinite(a.moments.mass[i]);
  }
  for (int64_t i = threadIdx.x; i < values; i += blockDim.x) {
    finite = finite && isfinite(a.moments.mean[i]) && isfinite(a.moments.var[i]);
  }
  finite = __syncthreads_and(finite);
  if (threadIdx.x == 0 && a.finite != nullptr) *a.finite = finite;
  if (!finite) return;

  double factor = a.device_factor == nullptr ? a.momentum : double(*a.device_factor);
  if (a.cumulative) factor = T(1) / static_cast<T>(*a.tracked + 1);
  const int64_t group_channels = a.channels / a.groups;
  const auto share = [&](int64_t gk) { return double(a.moments.mass[gk]) / double(a.count); };
  const auto moved = [&](int64_t gk) {
    const double weight = a.running.mixing_weight[gk];
    return static_cast<T>(weight + factor * (share(gk) - weight));
  };
  for (int64_t i = threadIdx.x; i < values; i += blockDim.x) {
    const int64_t k = i / a.channels, gk = (i % a.channels) / group_channels * a.components + k;
    const double mass = a.moments.mass[gk];
    // Unbiased from two observations on; a mass just above 1 must not blow the variance up.
    const double correction = mass / (mass - 1);
    const double unbiased = mass > 1 ? (correction < 2 ? correction : 2.0) : 1.0;
    const double floor = smallest_normal(T(0)), weight = double(moved(gk));
    // At most 1 as numbers; rounding could take the weight to 0 and rho far above.
    const double ratio = factor * share(gk) / (weight > floor ? weight : floor);
    const double rho = ratio < 1 ? ratio : 1.0;
    T& mean = a.running.mean[i];
    T& var = a.running.var[i];
    mean = static_cast<T>(mean + rho * (double(a.moments.mean[i]) - mean));
    var = static_cast<T>(var + rho * (double(a.moments.var[i]) * unbiased - var));
  }
  __syncthreads();  // the old weights and the old count have served
  for (int64_t i = threadIdx.x; i < masses; i += blockDim.x) {
    a.running.mixing_weight[i] = moved(i);
  }
  if (threadIdx.x == 0 && a.tracked != nullptr) ++*a.tracked;
}

}  // namespace

template <class T>
cudaError_t launch_update_running(const RunningArguments<T>& arguments, cudaStream_t stream) {
  return launch_kernel(update_running_kernel<T>, 1, kThreads, 0, false, stream, arguments);
}

template cudaError_t launch_update_running(const RunningArguments<float>&, cudaStream_t);
template cudaError_t launch_update_running(const RunningArguments<double>&, cudaStream_t);

}  // namespace mixnorm::cuda
