// Barriers, fences, shuffles and votes by their CUDA names.
#pragma once

#include <cstdint>
#include <cstring>
#include <source_location>

#include "emulation/omission.h"
#include "emulation/scheduler.h"

#define MIXNORM_HERE std::source_location where = std::source_location::current()

inline void __syncthreads(MIXNORM_HERE) { mixnorm::emulation::block_barrier(false, where); }
inline int __syncthreads_or(int predicate, MIXNORM_HERE) {
  return mixnorm::emulation::block_barrier(predicate != 0, where) > 0;
}
inline int __syncthreads_and(int predicate, MIXNORM_HERE) {
  return mixnorm::emulation::block_barrier(predicate == 0, where) == 0;
}
inline int __syncthreads_count(int predicate, MIXNORM_HERE) {
  return static_cast<int>(mixnorm::emulation::block_barrier(predicate != 0, where));
}

// Every store is visible at once; a fence is where the others may be quicker.
inline void __threadfence_block() { mixnorm::emulation::maybe_preempt(); }
inline void __threadfence() { mixnorm::emulation::maybe_preempt(); }
inline void __threadfence_system() { mixnorm::emulation::maybe_preempt(); }

inline void __cluster_barrier_arrive(MIXNORM_HERE) { mixnorm::emulation::cluster_arrive(where); }
inline void __cluster_barrier_wait(MIXNORM_HERE) { mixnorm::emulation::cluster_wait(where); }

inline unsigned __clusterSizeInBlocks() {
  return static_cast<unsigned>(mixnorm::emulation::current->block->cluster->blocks.size());
}
inline unsigned __clusterRelativeBlockRank() {
  return mixnorm::emulation::current->block->index % __clusterSizeInBlocks();
}

inline void __nanosleep(unsigned, MIXNORM_HERE) { mixnorm::emulation::sleep(where); }

[[noreturn]] inline void __trap() { mixnorm::emulation::fault("the kernel called __trap"); }

inline void __syncwarp(unsigned mask = ~0u, MIXNORM_HERE) {
  using namespace mixnorm::emulation;
  if (!omitted(where)) warp_collective(Collective::kSynchronize, mask, 0, 0, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, MIXNORM_HERE) {
  using namespace mixnorm::emulation;
  return static_cast<unsigned>(warp_collective(Collective::kVote, mask, predicate != 0, 0, where));
}
inline int __any_sync(unsigned mask, int predicate, MIXNORM_HERE) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, MIXNORM_HERE) {
  return __ballot_sync(mask, predicate == 0, where) == 0;
}

namespace mixnorm::emulation {

template <class T>
T shuffle(unsigned mask, T value, unsigned source, std::source_location where) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_collective(Collective::kShuffle, mask, bits, source, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// A lane reads within its own segment of `width` lanes, and itself where the source is outside.
inline unsigned segment(int width) { return current->lane & ~static_cast<unsigned>(width - 1); }

}  // namespace mixnorm::emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, MIXNORM_HERE) {
  using namespace mixnorm::emulation;
  return shuffle(mask, value, segment(width) + (static_cast<unsigned>(source) & (width - 1)),
                 where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, MIXNORM_HERE) {
  using namespace mixnorm::emulation;
  const unsigned lane = current->lane;
  return shuffle(mask, value, lane >= segment(width) + delta ? lane - delta : lane, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, MIXNORM_HERE) {
  using namespace mixnorm::emulation;
  const unsigned lane = current->lane;
  return shuffle(mask, value, lane + delta < segment(width) + width ? lane + delta : lane, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, MIXNORM_HERE) {
  using namespace mixnorm::emulation;
  // Segments below one's own can be read too.
  const unsigned lane = current->lane, source = lane ^ static_cast<unsigned>(lanes);
  return shuffle(mask, value, source < segment(width) + width ? source : lane, where);
}

#undef MIXNORM_HERE
