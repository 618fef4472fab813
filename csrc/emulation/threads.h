// The threads of a grid: blocks of warps of 32 lanes, every lane with a context of its own.
#pragma once

#include <cstdint>
#include <deque>
#include <source_location>
#include <vector>

#include "emulation/async_copy.h"
#include "emulation/context.h"
#include "emulation/shared_memory.h"

namespace mixnorm::emulation {

constexpr unsigned kWarpSize = 32;

// What a thread waits for.
enum class Wait : uint8_t { kNothing, kBlock, kCluster, kWarp, kSleep, kReturned };

enum class Collective : uint8_t { kSynchronize, kShuffle, kVote, kMultiply };

struct Block;
struct Cluster;
struct Warp;

struct Thread {
  Context context;
  Block* block = nullptr;
  Warp* warp = nullptr;
  unsigned index = 0;
  unsigned lane = 0;
  Wait wait = Wait::kNothing;
  std::source_location where;
  // A warp collective: who takes part, which lane to read from, and the value brought, then taken.
  Collective collective = Collective::kSynchronize;
  uint32_t mask = 0;
  unsigned source = 0;
  uint64_t value = 0;
  // The cluster's barrier: whether it has arrived and not waited yet, when, and whether both are
  // left out.
  bool arrived_at_cluster = false;
  bool omits_cluster = false;
  unsigned cluster_phase = 0;
  AsyncCopies copies;
};

// Sets of lanes.
struct Warp {
  Thread* lanes[kWarpSize] = {};
  uint32_t ready = 0;
  uint32_t late = 0;     // to go on only when no others can
  uint32_t waiting = 0;  // in a collective
  uint32_t sleeping = 0;
  uint32_t returned = 0;
};

struct Block {
  Cluster* cluster = nullptr;
  unsigned index = 0;
  unsigned size = 0;
  std::deque<Thread> threads;  // contexts, and what points to them, stay where they are
  std::vector<Warp> warps;
  uint32_t ready_warps = 0;
  uint32_t late_warps = 0;  // with late lanes
  unsigned returned = 0;
  bool started = false;
  // The barrier: how many have arrived, where, and what they voted.
  unsigned arrived = 0;
  unsigned votes = 0;
  unsigned result = 0;
  std::source_location barrier;
  SharedMemory shared_memory;
};

// Blocks of consecutive index that are alive together and have a barrier of their own.
struct Cluster {
  std::vector<Block*> blocks;
  unsigned threads = 0;  // of all blocks
  unsigned returned = 0;
  unsigned arrived = 0;
  unsigned phase = 0;  // how often all have arrived
  std::source_location barrier;
};

}  // namespace mixnorm::emulation
