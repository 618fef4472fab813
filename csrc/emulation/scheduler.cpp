#include "emulation/scheduler.h"

#include <algorithm>
#include <numeric>
#include <sstream>
#include <vector>

#include "emulation/builtins.h"
#include "emulation/diagnosis.h"
#include "emulation/matrix.h"
#include "emulation/omission.h"
#include "emulation/random.h"

namespace mixnorm::emulation {
namespace {

// Rounds in which every sleeping thread looked and slept again before that is called a deadlock.
constexpr int kIdleRounds = 200;

// Thrown through the kernel, so that what the diagnosis was made of is freed.
struct Fault {
  std::string problem;
};

struct Machine {
  Context caller;
  std::deque<Block> blocks;  // kept for the next run, with their stacks
  size_t alive = 0;          // how many of them take part
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

Machine machine;

void thread_main();

uint32_t lowest_bits(unsigned count) {
  return count >= 32 ? ~uint32_t{0} : (uint32_t{1} << count) - 1;
}

void make_ready(Warp& warp, uint32_t lanes, Block& block) {
  warp.ready |= lanes;
  block.ready_warps |= uint32_t{1} << (&warp - block.warps.data());
}

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

void make_late(Block& block, Warp& warp, uint32_t lanes) {
  warp.late = lanes;
  block.late_warps |= uint32_t{1} << (&warp - block.warps.data());
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

// Continues some thread; returns when the calling one is continued. A warp goes on for as long as
// it can, so that it overwrites what slower warps have yet to read, if nothing keeps it from that;
// then one of the block's other warps or of another block's. Sometimes a spinning thread looks
// before those that it waits for are all done, and always before the late ones go on.
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

void multiply_lanes(uint32_t lanes, const uint64_t (&values)[kWarpSize]) {
  if (lanes != ~uint32_t{0}) fault("a matrix product without all lanes of the warp");
  const MatrixOperands* operands[kWarpSize];
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    operands[lane] = reinterpret_cast<const MatrixOperands*>(values[lane]);
  }
  multiply(operands);
}

// Gives the lanes of a collective their results, once all of them have come.
bool complete(Warp& warp, Block& block, uint32_t mask) {
  const uint32_t lanes = mask & ~warp.returned;
  if ((warp.waiting & lanes) != lanes || lanes == 0) return false;
  uint64_t values[kWarpSize];
  uint32_t votes = 0;
  const Thread& first = *warp.lanes[std::countr_zero(lanes)];
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    const Thread& thread = *warp.lanes[lane];
    if (thread.mask != mask) return false;
    if (thread.collective != first.collective) {
      fault("divergent warp: " + describe(thread) + " while " + describe(first));
    }
    values[lane] = thread.value;
    votes |= uint32_t{thread.value != 0} << lane;
  }
  if (first.collective == Collective::kMultiply) multiply_lanes(lanes, values);
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    Thread& thread = *warp.lanes[std::countr_zero(rest)];
    if (thread.collective == Collective::kVote) {
      thread.value = votes;
    } else if (thread.collective == Collective::kShuffle) {
      // A lane that takes no part has no value to give.
      const bool there = lanes >> thread.source & 1;
      thread.value = there ? values[thread.source] : ~uint64_t{0};
    }
  }
  warp.waiting &= ~lanes;
  make_ready(warp, lanes, block);
  return true;
}

void thread_returned() {
  Thread& self = *current;
  Block& block = *self.block;
  Warp& warp = *self.warp;
  machine.progress = machine.news = true;
  self.wait = Wait::kReturned;
  self.copies.clear();
  warp.returned |= uint32_t{1} << self.lane;
  if (block.arrived > 0) {
    fault("the thread has returned and never reaches the barrier that others wait at, " +
          describe(block.barrier));
  }
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
  }
  block.ready_warps = block.late_warps = 0;
  for (size_t w = 0; w < block.warps.size(); ++w) {
    const auto lanes = static_cast<unsigned>(grid.threads - w * kWarpSize);
    make_ready(block.warps[w], lowest_bits(lanes), block);
  }
  block.returned = block.arrived = block.votes = 0;
  block.shared_memory.reset(grid.shared_bytes);
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
  const size_t together = grid.cooperative ? grid.blocks : 1;
  while (machine.blocks.size() < together) machine.blocks.emplace_back();
  if (grid.cooperative) {
    for (unsigned b = 0; b < grid.blocks; ++b) prepare(machine.blocks[b], b);
    run_blocks(together);
  } else {
    std::vector<unsigned> order(grid.blocks);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size(); i > 1; --i) {
      std::swap(order[i - 1], order[machine.random.below(i)]);
    }
    for (size_t b = 0; b < order.size() && machine.problem.empty(); ++b) {
      prepare(machine.blocks[0], order[b]);
      run_blocks(1);
    }
  }
  if (!machine.problem.empty()) restart_contexts();
  return machine.problem;
}

void fault(const std::string& problem) {
  std::ostringstream text;
  text << "block " << current->block->index << ", thread " << current->index << ": " << problem;
  throw Fault{text.str()};
}

unsigned block_barrier(bool predicate, std::source_location where) {
  if (omitted(where)) return predicate;
  Thread& self = *current;
  Block& block = *self.block;
  machine.progress = machine.news = true;
  if (block.returned > 0) {
    fault("a barrier, " + describe(where) + ", after other threads of the block have returned");
  }
  if (block.arrived == 0) {
    block.barrier = where;
  } else if (!same_place(block.barrier, where)) {
    fault("divergent barrier: " + describe(where) + " while other threads of the block wait at " +
          describe(block.barrier));
  }
  self.wait = Wait::kBlock;
  self.where = where;
  block.votes += predicate;
  if (++block.arrived == block.size) {
    block.result = block.votes;
    block.arrived = block.votes = 0;
    for (size_t w = 0; w < block.warps.size(); ++w) {
      const auto lanes = static_cast<unsigned>(block.size - w * kWarpSize);
      make_ready(block.warps[w], lowest_bits(lanes), block);
      block.warps[w].late = 0;
    }
    block.late_warps = 0;
    if (machine.random.rarely(2)) {
      Warp& warp = block.warps[machine.random.below(block.warps.size())];
      make_late(block, warp, warp.ready);
    }
  }
  suspend();
  return block.result;
}

uint64_t warp_collective(Collective collective, uint32_t mask, uint64_t value, unsigned source,
                         std::source_location where) {
  Thread& self = *current;
  Warp& warp = *self.warp;
  const uint32_t bit = uint32_t{1} << self.lane;
  machine.progress = machine.news = true;
  if (!(mask & bit)) fault("the mask of a warp operation lacks its caller, " + describe(where));
  self.wait = Wait::kWarp;
  self.where = where;
  self.collective = collective;
  self.mask = mask;
  self.source = source;
  self.value = value;
  warp.waiting |= bit;
  complete(warp, *self.block, mask);
  suspend();
  return self.value;
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
