// The emulation runs kernels as a GPU may: sample kernels give their results under every schedule,
// and other results where a barrier or a wait is left out.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "cuda/cluster_barrier.h"
#include "cuda/grid_barrier.h"
#include "cuda/launch.h"
#include "cuda/shared_memory.h"
#include "emulation/omission.h"
#include "tests/emulation.h"

namespace {

using mixnorm::cuda::GridBarrier;
using mixnorm::cuda::launch_clusters;
using mixnorm::cuda::launch_kernel;
using namespace mixnorm::tests;

// The sum of each block's part of x: shuffles within a warp, shared memory between the warps.
template <bool kBarrier>
__global__ void block_sum_kernel(const float* x, int per_block, float* sums) {
  MIXNORM_DYNAMIC_SHARED(memory);
  float* warp_sums = reinterpret_cast<float*>(memory);
  float sum = 0;
  for (int i = threadIdx.x; i < per_block; i += blockDim.x) {
    sum += x[static_cast<size_t>(blockIdx.x) * per_block + i];
  }
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  if (kBarrier) __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned w = 1; w < blockDim.x / 32; ++w) sum += warp_sums[w];
    sums[blockIdx.x] = sum;
  }
}

void test_reduction() {
  constexpr int kBlocks = 7, kPerBlock = 500;
  std::vector<float> x(kBlocks * kPerBlock);
  std::iota(x.begin(), x.end(), 0.0f);
  bool noticed = true;
  for_seeds([&] {
    std::vector<float> sums(kBlocks, NAN), wrong(kBlocks, NAN);
    check_success(launch_kernel(block_sum_kernel<true>, kBlocks, 128, 16, false, nullptr, x.data(),
                                kPerBlock, sums.data()));
    for (int b = 0; b < kBlocks; ++b) {
      const float first = x[b * kPerBlock], last = x[(b + 1) * kPerBlock - 1];
      CHECK(sums[b] == (first + last) / 2 * kPerBlock);  // exact: all sums are below 2^24
    }
    check_success(launch_kernel(block_sum_kernel<false>, kBlocks, 128, 16, false, nullptr, x.data(),
                                kPerBlock, wrong.data()));
    noticed = noticed && wrong != sums;
  });
  CHECK(noticed);
  // The same by leaving the barrier out of the kernel that has it.
  const std::string place = mixnorm::emulation::synchronization_places();
  CHECK(place.find("test_emulation.cpp:") == 0 && place.find(' ') == std::string::npos);
  mixnorm::emulation::omit_synchronization(place);
  for_seeds([&] {
    std::vector<float> sums(kBlocks, NAN);
    check_success(launch_kernel(block_sum_kernel<true>, kBlocks, 128, 16, false, nullptr, x.data(),
                                kPerBlock, sums.data()));
    CHECK(sums[0] != (x[0] + x[kPerBlock - 1]) / 2 * kPerBlock);
  });
  mixnorm::emulation::omit_synchronization("");
}

// The maximum of each warp's values, round after round through the same shared memory: one barrier
// before it is read and one before it is written again.
template <bool kBarrier>
__global__ void reuse_kernel(int rounds, int* sums) {
  MIXNORM_DYNAMIC_SHARED(memory);
  int* parts = reinterpret_cast<int*>(memory);
  const int warp = static_cast<int>(threadIdx.x / 32);
  for (int round = 0; round < rounds; ++round) {
    if (kBarrier) __syncthreads();
    int value = 100 * round + warp;
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      value = max(value, __shfl_xor_sync(~0u, value, lanes));
    }
    if (threadIdx.x % 32 == 0) parts[warp] = value;
    __syncthreads();
    if (threadIdx.x == 0) sums[round] = parts[0] + parts[1] + parts[2] + parts[3];
  }
}

void test_reuse() {
  constexpr int kRounds = 6;
  for_seeds([&] {
    std::vector<int> right(kRounds), wrong(kRounds);
    check_success(
        launch_kernel(reuse_kernel<true>, 1, 128, 16, false, nullptr, kRounds, right.data()));
    for (int round = 0; round < kRounds; ++round) CHECK(right[round] == 400 * round + 6);
    check_success(
        launch_kernel(reuse_kernel<false>, 1, 128, 16, false, nullptr, kRounds, wrong.data()));
    CHECK(wrong != right);
  });
}

struct WarpResults {
  int up, down, exclusive_or, broadcast, segment_down;
  unsigned ballot, half_ballot;
  int any, all, count, either, both;
};

__global__ void warp_kernel(WarpResults* results) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  WarpResults r{};
  r.up = __shfl_up_sync(~0u, lane, 3);
  r.down = __shfl_down_sync(~0u, lane, 3);
  r.exclusive_or = __shfl_xor_sync(~0u, lane, 5);
  r.broadcast = __shfl_sync(~0u, lane, 7);
  r.segment_down = __shfl_down_sync(~0u, lane, 2, 8);
  r.ballot = __ballot_sync(~0u, lane % 3 == 0);
  // The two halves of the warp each on their own.
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  r.half_ballot = __ballot_sync(half, lane % 2 == 0);
  __syncwarp();
  r.any = __any_sync(~0u, lane == 31);
  r.all = __all_sync(~0u, lane < 31);
  r.count = __syncthreads_count(lane == 0);
  r.either = __syncthreads_or(threadIdx.x == 5);
  r.both = __syncthreads_and(threadIdx.x != 5);
  results[threadIdx.x] = r;
}

void test_warp_operations() {
  for_seeds([&] {
    std::vector<WarpResults> results(96);
    check_success(launch_kernel(warp_kernel, 1, 96, 0, false, nullptr, results.data()));
    for (int t = 0; t < 96; ++t) {
      const int lane = t % 32;
      const WarpResults& r = results[t];
      CHECK(r.up == (lane < 3 ? lane : lane - 3));
      CHECK(r.down == (lane + 3 < 32 ? lane + 3 : lane));
      CHECK(r.exclusive_or == (lane ^ 5));
      CHECK(r.broadcast == 7);
      CHECK(r.segment_down == (lane % 8 < 6 ? lane + 2 : lane));
      CHECK(r.ballot == 0x49249249u);
      CHECK(r.half_ballot == (lane < 16 ? 0x5555u : 0x55550000u));
      CHECK(r.any == 1 && r.all == 0 && r.count == 3 && r.either == 1 && r.both == 0);
    }
  });
}

// x doubled, through two buffers of shared memory that are filled ahead.
template <int kPending>
__global__ void double_buffer_kernel(const float4* x, int tiles, float4* y) {
  MIXNORM_DYNAMIC_SHARED(memory);
  float4* stages = reinterpret_cast<float4*>(memory);
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const auto fill = [&](int tile) {
    if (tile < tiles) {
      __pipeline_memcpy_async(&stages[tile % 2 * threads + thread], &x[tile * threads + thread],
                              sizeof(float4));
    }
    __pipeline_commit();
  };
  fill(0);
  for (int tile = 0; tile < tiles; ++tile) {
    fill(tile + 1);
    __pipeline_wait_prior(kPending);
    __syncthreads();
    // Another thread's element: the barriers are needed.
    const float4 v = stages[tile % 2 * threads + threads - 1 - thread];
    y[tile * threads + threads - 1 - thread] = float4{2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w};
    __syncthreads();
  }
}

void test_async_copies() {
  constexpr int kTiles = 5, kThreads = 64;
  std::vector<float4> x(kTiles * kThreads);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float4{float(i), 1, 2, 3};
  for_seeds([&] {
    for (int pending : {1, 2}) {
      std::vector<float4> y(x.size(), float4{0, 0, 0, 0});
      const auto kernel = pending == 1 ? double_buffer_kernel<1> : double_buffer_kernel<2>;
      check_success(launch_kernel(kernel, 1, kThreads, 2 * kThreads * sizeof(float4), false,
                                  nullptr, x.data(), kTiles, y.data()));
      int right = 0;
      for (size_t i = 0; i < x.size(); ++i) right += y[i].x == 2 * x[i].x && y[i].w == 6;
      // With one copy too many in flight nothing has arrived.
      CHECK(pending == 1 ? right == kTiles * kThreads : right == 0);
    }
  });
}

// Each block adds its number to a sum of all the others' numbers, in rounds.
__global__ void grid_kernel(unsigned* counter, const int rounds, int* numbers, int* sums) {
  GridBarrier barrier(counter);
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x == 63) numbers[block] = block + round;
    barrier.arrive_and_wait();
    int sum = 0;
    for (int b = threadIdx.x; b < blocks; b += 32) sum += __ldcg(&numbers[b]);
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    if (threadIdx.x == 0) sums[round * blocks + block] = sum;
    barrier.arrive_and_wait();
  }
}

void test_grid_barrier() {
  constexpr int kBlocks = 40, kRounds = 3;
  for_seeds([&] {
    unsigned counter = 0;
    std::vector<int> numbers(kBlocks), sums(kBlocks * kRounds, -1);
    check_success(launch_kernel(grid_kernel, kBlocks, 64, 0, true, nullptr, &counter, kRounds,
                                numbers.data(), sums.data()));
    for (int i = 0; i < kBlocks * kRounds; ++i) {
      CHECK(sums[i] == kBlocks * (kBlocks - 1) / 2 + kBlocks * (i / kBlocks));
    }
  });
  // Without the barrier before it, a block may announce what it has not yet written.
  std::istringstream places(mixnorm::emulation::synchronization_places());
  std::string place;
  while (places >> place) {
    if (place.rfind("grid_barrier.h:", 0) != 0) continue;
    mixnorm::emulation::omit_synchronization(place);
    int noticed = 0;
    for_seeds([&] {
      unsigned counter = 0;
      std::vector<int> numbers(kBlocks, -1000), sums(kBlocks * kRounds, -1);
      check_success(launch_kernel(grid_kernel, kBlocks, 64, 0, true, nullptr, &counter, kRounds,
                                  numbers.data(), sums.data()));
      bool right = true;
      for (int i = 0; i < kBlocks * kRounds; ++i) {
        right = right && sums[i] == kBlocks * (kBlocks - 1) / 2 + kBlocks * (i / kBlocks);
      }
      noticed += !right;
    });
    std::printf("without %s: noticed under %d of %d schedules\n", place.c_str(), noticed, kSeeds);
    CHECK(noticed >= kSeeds / 2);
  }
  mixnorm::emulation::omit_synchronization("");
  // Blocks that do not run together wait for each other for ever.
  unsigned counter = 0;
  std::vector<int> numbers(kBlocks), sums(kBlocks * kRounds);
  CHECK(mentions(launch_kernel(grid_kernel, kBlocks, 64, 0, false, nullptr, &counter, kRounds,
                               numbers.data(), sums.data()),
                 "deadlock"));
}

// Likewise within each cluster of blocks, at its barrier.
__global__ void cluster_kernel(const int rounds, int* numbers, int* sums) {
  const int blocks = static_cast<int>(__clusterSizeInBlocks());
  const int block = static_cast<int>(blockIdx.x), rank = static_cast<int>(blockIdx.x) % blocks;
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x == 63) numbers[block] = block + round;
    mixnorm::cuda::cluster_barrier();
    int sum = static_cast<int>(__clusterRelativeBlockRank()) - rank;
    for (int b = 0; b < blocks; ++b) sum += __ldcg(&numbers[block - rank + b]);
    if (threadIdx.x == 0) sums[round * gridDim.x + block] = sum;
    mixnorm::cuda::cluster_barrier();
  }
}

void test_cluster_barrier() {
  constexpr int kBlocks = 24, kRounds = 3;
  const auto right = [&](int cluster) {
    std::vector<int> numbers(kBlocks, -1000), sums(kBlocks * kRounds, -1);
    const cudaError_t error = launch_clusters(cluster_kernel, kBlocks, 64, 0, cluster, nullptr,
                                              kRounds, numbers.data(), sums.data());
    if (error != cudaSuccess) return false;
    bool all = true;
    for (int i = 0; i < kBlocks * kRounds; ++i) {
      const int first = i % kBlocks / cluster * cluster, round = i / kBlocks;
      all = all && sums[i] == cluster * (first + round) + cluster * (cluster - 1) / 2;
    }
    return all;
  };
  for_seeds([&] {
    for (const int cluster : {1, 2, 4, 8}) CHECK(right(cluster));
  });
  // Without the arrival (and its wait) or the wait: other sums, or an arrival before its time.
  std::istringstream places(mixnorm::emulation::synchronization_places());
  int count = 0;
  for (std::string place; places >> place;) {
    if (place.rfind("cluster_barrier.h:", 0) != 0) continue;
    ++count;
    mixnorm::emulation::omit_synchronization(place);
    for_seeds([&] { CHECK(!right(8)); });
    (void)cudaGetLastError();
  }
  CHECK(count == 2);
  mixnorm::emulation::omit_synchronization("");
}

// The last block to finish adds what the others left: atomics in an ordinary launch.
__global__ void ticket_kernel(unsigned* ticket, int* parts, int* sum) {
  if (threadIdx.x != 0) return;
  parts[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
  __threadfence();
  if (atomicAdd(ticket, 1u) + 1 == gridDim.x) {
    int total = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) total += __ldcg(&parts[b]);
    *sum = total;
  }
}

void test_last_block() {
  for_seeds([&] {
    unsigned ticket = 0;
    std::vector<int> parts(20, -1000);
    int sum = 0;
    check_success(
        launch_kernel(ticket_kernel, 20, 32, 0, false, nullptr, &ticket, parts.data(), &sum));
    CHECK(sum == 210);
  });
}

void test_half_precision() {
  for (int bits = 0; bits < 1 << 16; ++bits) {
    const auto pattern = static_cast<unsigned short>(bits);
    const float half = __half2float(__ushort_as_half(pattern));
    const float brain = __bfloat162float(__ushort_as_bfloat16(pattern));
    CHECK(std::isnan(half) || __half_as_ushort(__float2half_rn(half)) == pattern);
    CHECK(std::isnan(brain) || __bfloat16_as_ushort(__float2bfloat16_rn(brain)) == pattern);
  }
  CHECK(__half2float(__ushort_as_half(0x3555)) == 0x1.554p-2f);
  CHECK(__half2float(__ushort_as_half(0x0001)) == 0x1p-24f);
  CHECK(__half_as_ushort(__float2half_rn(65520.0f)) == 0x7c00);
  CHECK(__half_as_ushort(__float2half_rn(65519.0f)) == 0x7bff);
  CHECK(__half_as_ushort(__float2half_rn(1 + 0x1p-11f)) == 0x3c00);  // a tie, to the even
  CHECK(__half_as_ushort(__float2half_rn(1 + 0x3p-11f)) == 0x3c02);
  CHECK(__half_as_ushort(__float2half_rn(0x1.8p-25f)) == 0x0001);
  CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(1 + 0x1p-8f)) == 0x3f80);
  CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(1 + 0x3p-8f)) == 0x3f82);
  CHECK(std::isnan(__half2float(__float2half_rn(NAN))));
  CHECK(std::isnan(__bfloat162float(__float2bfloat16_rn(NAN))));
}

__global__ void shuffling_kernel(int rounds, unsigned* out) {
  unsigned value = threadIdx.x;
  for (int i = 0; i < rounds; ++i) {
    value += __shfl_xor_sync(~0u, value, 1);
    __syncthreads();
  }
  out[threadIdx.x] = value;
}

// For information: what a test pays for a barrier or a shuffle.
void print_cost() {
  constexpr int kRounds = 2000, kThreads = 256;
  std::vector<unsigned> out(kThreads);
  const auto start = std::chrono::steady_clock::now();
  check_success(
      launch_kernel(shuffling_kernel, 1, kThreads, 0, false, nullptr, kRounds, out.data()));
  const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
  std::printf("a shuffle and a barrier: %.0f ns a thread\n", time.count() / (kRounds * kThreads));
}

}  // namespace

int main() {
  test_reduction();
  test_reuse();
  test_warp_operations();
  test_async_copies();
  test_grid_barrier();
  test_cluster_barrier();
  test_last_block();
  test_half_precision();
  print_cost();
  return mixnorm::tests::report("emulation");
}
