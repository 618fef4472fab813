// The emulation finds what a GPU may get wrong: each mistake that is planted in a kernel, each
// limit that a launch passes and each write behind an end is reported.
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/launch.h"
#include "cuda/shared_memory.h"
#include "emulation/context.h"
#include "emulation/device.h"
#include "tests/emulation.h"

namespace {

using mixnorm::cuda::launch_clusters;
using mixnorm::cuda::launch_kernel;
using namespace mixnorm::tests;

enum class Fault {
  kDivergentBarrier,
  kBarrierAfterReturn,
  kWarpDeadlock,
  kWarpDivergence,
  kSpin,
  kMisaligned,
  kCopyOutside,
  kTrap,
  kDivergentCluster,
  kClusterAfterReturn,
  kTwoArrivals,
  kWaitAlone,
  kClusterDeadlock,
};

__global__ void faulty_kernel(Fault fault, float* data) {
  MIXNORM_DYNAMIC_SHARED(memory);
  const unsigned thread = threadIdx.x;
  switch (fault) {
    case Fault::kDivergentBarrier:
      if (thread < 32) {
        __syncthreads();
      } else {
        __syncthreads();
      }
      break;
    case Fault::kBarrierAfterReturn:
      if (thread == 40) return;
      __syncthreads();
      break;
    case Fault::kWarpDeadlock:
      if (thread % 32 != 3) {
        __syncwarp();
      } else {
        __shfl_sync(8u, 1, 3);
        __syncthreads();
      }
      break;
    case Fault::kWarpDivergence:
      if (thread % 2) {
        __syncwarp();
      } else {
        __any_sync(~0u, 1);
      }
      break;
    case Fault::kSpin:
      while (*static_cast<volatile float*>(data) == 0) __nanosleep(10);
      break;
    case Fault::kMisaligned:
      data[0] = __ldg(reinterpret_cast<const float2*>(data + 1)).x;
      break;
    case Fault::kCopyOutside:
      __pipeline_memcpy_async(memory + 64, data, 4);
      break;
    case Fault::kTrap:
      __trap();
    case Fault::kDivergentCluster:
      if (blockIdx.x % 2) {
        __cluster_barrier_arrive();
      } else {
        __cluster_barrier_arrive();
      }
      __cluster_barrier_wait();
      break;
    case Fault::kClusterAfterReturn:
      if (blockIdx.x == 1 && thread == 40) return;
      __cluster_barrier_arrive();
      __cluster_barrier_wait();
      break;
    case Fault::kTwoArrivals:
      __cluster_barrier_arrive();
      __cluster_barrier_arrive();
      break;
    case Fault::kWaitAlone:
      __cluster_barrier_wait();
      break;
    case Fault::kClusterDeadlock:
      if (blockIdx.x % 2 && thread < 32) {
        __syncthreads();
      } else {
        __cluster_barrier_arrive();
        __cluster_barrier_wait();
      }
  }
}

void test_faults() {
  alignas(16) float data[8] = {};
  const struct {
    Fault fault;
    const char* words;
    int cluster = 1;
  } cases[] = {
      {Fault::kDivergentBarrier, "divergent barrier"},
      {Fault::kBarrierAfterReturn, "returned"},
      {Fault::kWarpDeadlock, "deadlock"},
      {Fault::kWarpDivergence, "divergent warp"},
      {Fault::kSpin, "spins"},
      {Fault::kMisaligned, "misaligned"},
      {Fault::kCopyOutside, "outside the block's shared memory"},
      {Fault::kTrap, "__trap"},
      {Fault::kDivergentCluster, "divergent cluster's barrier", 2},
      {Fault::kClusterAfterReturn, "returned", 2},
      {Fault::kTwoArrivals, "a second arrival", 2},
      {Fault::kWaitAlone, "without an arrival", 2},
      {Fault::kClusterDeadlock, "waits at the cluster's barrier", 2},
  };
  for_seeds([&] {
    for (const auto& c : cases) {
      const cudaError_t error =
          launch_clusters(faulty_kernel, 4, 64, 64, c.cluster, nullptr, c.fault, &data[0]);
      CHECK(error == cudaErrorLaunchFailure && cudaPeekAtLastError() == error);
      const std::string text = cudaGetErrorString(error);
      CHECK(text.find("block ") != std::string::npos && text.find("thread ") != std::string::npos);
      CHECK(mentions(error, c.words));
    }
  });
  CHECK(cudaGetLastError() == cudaSuccess);
}

__global__ void touch_kernel(unsigned char* poison, int last) {
  MIXNORM_DYNAMIC_SHARED(memory);
  if (threadIdx.x == 0) *poison = memory[last];
}

void test_limits() {
  unsigned char poison = 0;
  const auto touch = [&](int blocks, int threads, size_t bytes, bool cooperative) {
    return launch_kernel(touch_kernel, blocks, threads, bytes, cooperative, nullptr, &poison, 0);
  };
  check_success(touch(1, 1024, 48 << 10, false));
  CHECK(poison == 0xff);
  CHECK(mentions(touch(1, 1056, 16, false), "1 to 1024"));
  CHECK(mentions(touch(0, 32, 16, false), "a grid of 0 blocks"));
  CHECK(mentions(touch(1, 32, (48 << 10) + 1, false), "dynamic shared memory"));
  const auto opt_in = [](int bytes) {
    return cudaFuncSetAttribute(touch_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  };
  CHECK(mentions(opt_in((227 << 10) + 1), "dynamic shared memory"));
  check_success(opt_in(227 << 10));
  check_success(touch(1, 32, 227 << 10, false));

  int most = 0;
  check_success(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&most, touch_kernel, 256, 100 << 10));
  CHECK(most == 2);
  const int blocks = most * mixnorm::emulation::device().multiprocessors;
  check_success(touch(blocks, 256, 100 << 10, true));
  CHECK(touch(blocks + 1, 256, 100 << 10, true) == cudaErrorCooperativeLaunchTooLarge);
  CHECK(cudaGetLastError() == cudaErrorCooperativeLaunchTooLarge);
  check_success(touch(blocks + 1, 256, 100 << 10, false));
}

void test_cluster_limits() {
  mixnorm::emulation::Device& device = mixnorm::emulation::device();
  const mixnorm::emulation::Device usual = device;
  unsigned char poison = 0;
  const auto touch = [&](int blocks, size_t bytes, int cluster) {
    return launch_clusters(touch_kernel, blocks, 32, bytes, cluster, nullptr, &poison, 0);
  };
  check_success(touch(16, 100 << 10, 8));
  CHECK(mentions(touch(32, 16, 16), "1 to 8"));
  CHECK(mentions(touch(12, 16, 8), "whole clusters of 8"));
  CHECK(mentions(touch(8, 227 << 10, 8), "more than the device holds"));
  cudaLaunchAttribute attribute = mixnorm::cuda::cluster_attribute(4);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(8);
  config.blockDim = dim3(256);
  config.dynamicSmemBytes = 100 << 10;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int most = 0, has = 0;
  check_success(cudaOccupancyMaxActiveClusters(&most, touch_kernel, &config));
  CHECK(most == 2 * device.multiprocessors / 4);
  check_success(cudaDeviceGetAttribute(&has, cudaDevAttrClusterLaunch, 0));
  CHECK(has == 1);
  device.cluster_launch = 0;
  CHECK(mentions(touch(8, 16, 2), "no clusters"));
  device = usual;
}

__global__ void past_the_end_kernel(float* data, int count, bool shared) {
  MIXNORM_DYNAMIC_SHARED(memory);
  if (shared) data = reinterpret_cast<float*>(memory);
  if (threadIdx.x == 17) data[count] = 1;
}

cudaError_t write_past_the_end(bool shared) {
  std::vector<float> data(64);
  return launch_kernel(past_the_end_kernel, 1, 64, 64 * sizeof(float), false, nullptr, data.data(),
                       64, shared);
}

// AddressSanitizer ends the process; without it, shared memory at least is watched.
void test_bounds(const std::string& program) {
#ifdef MIXNORM_ADDRESS_SANITIZER
  for (const char* memory : {"global", "shared"}) {
    const std::string log = program + "." + memory + ".log";
    CHECK(std::system((program + " " + memory + " 2> " + log).c_str()) != 0);
    const std::string found =
        memory == std::string("global") ? "heap-buffer-overflow" : "use-after-poison";
    CHECK(std::system(("grep -q " + found + " " + log).c_str()) == 0);
    CHECK(std::system(("grep -q past_the_end_kernel " + log).c_str()) == 0);
    std::remove(log.c_str());
  }
#else
  static_cast<void>(program);
  CHECK(mentions(write_past_the_end(true), "behind its dynamic shared memory"));
#endif
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) return static_cast<int>(write_past_the_end(arguments[1] == std::string("shared")));
  test_faults();
  test_limits();
  test_cluster_limits();
  test_bounds(arguments[0]);
  return report("emulation_faults");
}
