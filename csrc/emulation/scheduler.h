// Which thread of the grid runs, what it waits for, and what is wrong when none can go on.
//
// One thread runs at a time, until it waits. Which one is next is drawn from the seed: mostly a
// lane of the same warp, so that a warp runs far ahead of the others whenever no barrier holds it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>

#include "emulation/threads.h"

namespace mixnorm::emulation {

// The thread that runs.
inline Thread* current = nullptr;

// A kernel with its arguments.
struct Kernel {
  void (*call)(const void* arguments);
  const void* arguments;
};

struct Grid {
  unsigned blocks, threads;
  size_t shared_bytes;
  bool cooperative;  // all blocks alive at once, otherwise one cluster after the other
  unsigned cluster;  // blocks of one; 1 where there are none
};

// Runs the kernel to its end; the diagnosis of the first fault, empty where there is none.
std::string run(const Grid& grid, const Kernel& kernel, uint64_t seed);

// Ends the run; `problem` is completed with the block and the thread that met it.
[[noreturn]] void fault(const std::string& problem);

// Waits for every thread of the block; how many came with a predicate that is not 0.
unsigned block_barrier(bool predicate, std::source_location where);

// The barrier of the block's cluster: every thread arrives, may go on, and waits for all others to
// have arrived. Where the arrival is left out, so is the wait.
void cluster_arrive(std::source_location where);
void cluster_wait(std::source_location where);

// Waits for the lanes of `mask`, then returns, for a shuffle, the value of lane `source`, for a
// vote the lanes whose value is not 0.
uint64_t warp_collective(Collective collective, uint32_t mask, uint64_t value, unsigned source,
                         std::source_location where);

// Lets every other thread go on first.
void sleep(std::source_location where);

// A place where other threads, also those of other blocks, may get ahead.
void maybe_preempt();

}  // namespace mixnorm::emulation
