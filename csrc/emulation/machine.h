// The state of the run, shared by the scheduler and the barriers; nobody else's.
#pragma once

#include <deque>
#include <string>

#include "emulation/random.h"
#include "emulation/scheduler.h"

namespace mixnorm::emulation {

struct Machine {
  Context caller;
  std::deque<Block> blocks;  // kept for the next run, with their stacks
  size_t alive = 0;          // how many of them take part
  std::deque<Cluster> clusters;
  size_t finished = 0;
  size_t sleeping = 0;  // threads
  Kernel kernel{};
  Grid grid{};
  Random random;
  bool progress = false;  // since the last look of those that sleep
  bool news = false;
  int idle_rounds = 0;
  std::string problem;
};

inline Machine machine;

inline uint32_t lowest_bits(unsigned count) {
  return count >= 32 ? ~uint32_t{0} : (uint32_t{1} << count) - 1;
}

inline void make_ready(Warp& warp, uint32_t lanes, Block& block) {
  warp.ready |= lanes;
  block.ready_warps |= uint32_t{1} << (&warp - block.warps.data());
}

inline void make_late(Block& block, Warp& warp, uint32_t lanes) {
  warp.late = lanes;
  block.late_warps |= uint32_t{1} << (&warp - block.warps.data());
}

// Continues some thread; returns when the calling one is continued. A warp goes on for as long as
// it can, so that it overwrites what slower warps have yet to read, if nothing keeps it from that;
// then one of the block's other warps or of another block's. Sometimes a spinning thread looks
// before those that it waits for are all done, and always before the late ones go on.
void suspend();

// The warp's collective with that mask is done, if all of its lanes have come.
bool complete(Warp& warp, Block& block, uint32_t mask);

}  // namespace mixnorm::emulation
