#include "emulation/scheduler.h"

#include <algorithm>
#include <numeric>
#include <sstream>
#include <vector>

#include "emulation/builtins.h"
#include "emulation/diagnosis.h"
#include "emulation/machine.h"

namespace mixnorm::emulation {
namespace {

// Rounds in which every sleeping thread looked and slept again before that is called a deadlock.
constexpr int kIdleRounds = 200;

// Thrown through the kernel, so that what the diagnosis was made of is freed.
struct Fault {
  std::string problem;
};

void thread_main();

void run_next(Thread& next) {
  Warp& warp = *next.warp;
  Block& block = *next.block;
  warp.ready &= ~(uint32_t{1} << next.lane);
  if (warp.ready == 0) block.ready_warps &= ~(uint32_t{1} << (&warp - block.warps.data()));
  Thread* self = current;
  next.wait = Wait::kNothing;
  if (&next == self) return;
  current = &next;
  threadIdx.x = next.index;
  if (!self || self->block != &block) {
    blockIdx.x = block.index;
    builtins.shared_memory = block.shared_memory.data();
  }
  Context::change(self ? self->context : machine.caller, next.context);
}

void return_to_caller() {
  Thread* self = current;
  current = nullptr;
  Context::change(self->context, machine.caller);
}

uint32_t eager_warps(const Block& block) {
  uint32_t warps = block.ready_warps;
  for (uint32_t rest = warps & block.late_warps; rest; rest &= rest - 1) {
    const Warp& warp = block.warps[std::countr_zero(rest)];
    if (!(warp.ready & ~warp.late)) warps &= ~(rest & -rest);
  }
  return warps;
}

Thread* pick_eager(Block& block, uint32_t warps) {
  const Warp& warp = block.warps[machine.random.bit_of(warps)];
  return warp.lanes[machine.random.bit_of(warp.ready & ~warp.late)];
}

// No longer late.
Thread* pick_late(Block& block) {
  const unsigned index = machine.random.bit_of(block.ready_warps);
  Warp& warp = block.warps[index];
  warp.late = 0;
  block.late_warps &= ~(uint32_t{1} << index);
  return warp.lanes[machine.random.bit_of(warp.ready)];
}

// From a random block on: a thread that is not late, or else any.
Thread* pick_block(bool late_too) {
  const size_t start = machine.alive > 1 ? machine.random.below(machine.alive) : 0;
  for (size_t i = 0; i < machine.alive; ++i) {
    Block& block = machine.blocks[(start + i) % machine.alive];
    if (late_too) {
      if (block.ready_warps) return pick_late(block);
    } else if (const uint32_t warps = eager_warps(block)) {
      return pick_eager(block, warps);
    }
  }
  return nullptr;
}

// Whether there were any.
bool wake_sleepers() {
  if (machine.sleeping == 0) return false;
  machine.sleeping = 0;
  for (size_t b = 0; b < machine.alive; ++b) {
    Block& block = machine.blocks[b];
    for (Warp& warp : block.warps) {
      if (!warp.sleeping) continue;
      make_ready(warp, warp.sleeping, block);
      warp.sleeping = 0;
    }
  }
  return true;
}

// Whether somebody may go on after another look at what all that are left wait for.
bool look_again() {
  machine.idle_rounds = machine.progress ? 0 : machine.idle_rounds + 1;
  machine.progress = false;
  return machine.idle_rounds < kIdleRounds && wake_sleepers();
}

std::string deadlock() {
  std::vector<const Block*> blocks;
  for (size_t b = 0; b < machine.alive; ++b) blocks.push_back(&machine.blocks[b]);
  return "deadlock, no thread can go on: " + what_they_wait_for(blocks);
}

}  // namespace

void suspend() {
  const Thread* self = current;
  Random& random = machine.random;
  const bool spins = self->wait == Wait::kSleep && random.rarely(1);
  if (spins && self->warp->ready) make_late(*self->block, *self->warp, self->warp->ready);
  const uint32_t lanes = self->warp->ready & ~self->warp->late;
  if (lanes && !random.rarely(9)) return run_next(*self->warp->lanes[random.bit_of(lanes)]);
  if (machine.sleeping > 0 && random.rarely(3)) wake_sleepers();
  if (!spins && (machine.alive == 1 || !random.rarely(1))) {
    if (const uint32_t warps = eager_warps(*self->block)) {
      return run_next(*pick_eager(*self->block, warps));
    }
  }
  Thread* next = pick_block(false);
  if (!next && machine.news) {
    machine.news = false;
    if (wake_sleepers()) next = pick_block(false);
  }
  if (!next) next = pick_block(true);
  if (!next) {
    if (machine.finished == machine.alive) return return_to_caller();
    if (!look_again()) fault(deadlock());
    next = pick_block(true);
  }
  run_next(*next);
}

namespace {

void thread_returned() {
  Thread& self = *current;
  Block& block = *self.block;
  Cluster& cluster = *block.cluster;
  Warp& warp = *self.warp;
  machine.progress = machine.news = true;
  self.wait = Wait::kReturned;
  self.copies.clear();
  warp.returned |= uint32_t{1} << self.lane;
  if (block.arrived > 0) {
    fault("the thread has returned and never reaches the barrier that others wait at, " +
          describe(block.barrier));
  }
  if (cluster.arrived > 0) {
    fault("the thread has returned and never reaches the cluster's barrier that others wait at, " +
          describe(cluster.barrier));
  }
  ++cluster.returned;
  for (uint32_t rest = warp.waiting; rest; rest &= rest - 1) {
    if (complete(warp, block, warp.lanes[std::countr_zero(rest)]->mask)) break;
  }
  if (++block.returned == block.size) {
    ++machine.finished;
    if (!block.shared_memory.intact()) fault("the block wrote behind its dynamic shared memory");
  }
  suspend();  // continued for the next block or the next run
}

void thread_main() {
  for (;;) {
    try {
      machine.kernel.call(machine.kernel.arguments);
      thread_returned();
    } catch (const Fault& fault) {
      machine.problem = fault.problem;
    }
    if (!machine.problem.empty()) return_to_caller();
  }
}

// Makes the block's threads ready to run the kernel from its start.
void prepare(Block& block, unsigned index) {
  const Grid& grid = machine.grid;
  block.index = index;
  block.size = grid.threads;
  block.warps.assign((grid.threads + kWarpSize - 1) / kWarpSize, Warp{});
  while (block.threads.size() < grid.threads) {
    Thread& thread = block.threads.emplace_back();
    thread.index = static_cast<unsigned>(block.threads.size() - 1);
    thread.lane = thread.index % kWarpSize;
    thread.context.start(&thread_main);
  }
  for (unsigned t = 0; t < grid.threads; ++t) {
    Thread& thread = block.threads[t];
    thread.block = &block;
    thread.warp = &block.warps[t / kWarpSize];
    thread.warp->lanes[thread.lane] = &thread;
    thread.wait = Wait::kNothing;
    thread.arrived_at_cluster = thread.omits_cluster = false;
  }
  block.ready_warps = block.late_warps = 0;
  for (size_t w = 0; w < block.warps.size(); ++w) {
    const auto lanes = static_cast<unsigned>(grid.threads - w * kWarpSize);
    make_ready(block.warps[w], lowest_bits(lanes), block);
  }
  block.returned = block.arrived = block.votes = 0;
  block.shared_memory.reset(grid.shared_bytes);
}

// Makes the first `alive` blocks, of consecutive indices from `first` on, ready as clusters.
void prepare_clusters(size_t alive, unsigned first) {
  const Grid& grid = machine.grid;
  machine.clusters.assign(alive / grid.cluster, Cluster{});
  for (size_t b = 0; b < alive; ++b) {
    Block& block = machine.blocks[b];
    prepare(block, first + static_cast<unsigned>(b));
    block.cluster = &machine.clusters[b / grid.cluster];
    block.cluster->blocks.push_back(&block);
    block.cluster->threads += grid.threads;
  }
}

// Runs the first `alive` blocks until all of their threads have returned.
void run_blocks(size_t alive) {
  machine.alive = alive;
  machine.finished = 0;
  machine.sleeping = 0;
  machine.idle_rounds = 0;
  run_next(*pick_block(true));
}

// After a fault the threads are somewhere in the kernel: they begin anew, on the same stacks.
void restart_contexts() {
  for (Block& block : machine.blocks) {
    for (Thread& thread : block.threads) {
      thread.copies.clear();
      thread.context.start(&thread_main);
    }
  }
}

}  // namespace

std::string run(const Grid& grid, const Kernel& kernel, uint64_t seed) {
  machine.grid = grid;
  machine.kernel = kernel;
  machine.random = Random(seed);
  machine.problem.clear();
  blockDim.x = grid.threads;
  gridDim.x = grid.blocks;
  const size_t together = grid.cooperative ? grid.blocks : grid.cluster;
  while (machine.blocks.size() < together) machine.blocks.emplace_back();
  std::vector<unsigned> order(grid.blocks / together);
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[machine.random.below(i)]);
  }
  for (size_t i = 0; i < order.size() && machine.problem.empty(); ++i) {
    prepare_clusters(together, static_cast<unsigned>(order[i] * together));
    run_blocks(together);
  }
  if (!machine.problem.empty()) restart_contexts();
  return machine.problem;
}

void fault(const std::string& problem) {
  std::ostringstream text;
  text << "block " << current->block->index << ", thread " << current->index << ": " << problem;
  throw Fault{text.str()};
}

void sleep(std::source_location where) {
  Thread& self = *current;
  self.wait = Wait::kSleep;
  self.where = where;
  self.warp->sleeping |= uint32_t{1} << self.lane;
  ++machine.sleeping;
  suspend();
}

void maybe_preempt() {
  if (!machine.random.rarely(3)) return;
  Thread& self = *current;
  make_ready(*self.warp, uint32_t{1} << self.lane, *self.block);
  run_next(*pick_block(true));
}

}  // namespace mixnorm::emulation
