// Where threads wait for each other: the block's barrier, the cluster's and the warp's operations.
#include "emulation/diagnosis.h"
#include "emulation/machine.h"
#include "emulation/matrix.h"
#include "emulation/omission.h"

namespace mixnorm::emulation {

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
  if (first.collective == Collective::kMultiply) multiply(lanes, values);
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

void cluster_arrive(std::source_location where) {
  Thread& self = *current;
  self.omits_cluster = omitted(where);
  if (self.omits_cluster) return;
  Cluster& cluster = *self.block->cluster;
  machine.progress = machine.news = true;
  if (self.arrived_at_cluster) {
    fault("a second arrival at the cluster's barrier, " + describe(where) + ", without a wait");
  }
  if (cluster.returned > 0) {
    fault("the cluster's barrier, " + describe(where) +
          ", after other threads of the cluster have returned");
  }
  if (cluster.arrived == 0) {
    cluster.barrier = where;
  } else if (!same_place(cluster.barrier, where)) {
    fault("divergent cluster's barrier: " + describe(where) +
          " while other threads of the cluster have arrived at " + describe(cluster.barrier));
  }
  self.arrived_at_cluster = true;
  self.cluster_phase = cluster.phase;
  if (++cluster.arrived < cluster.threads) return;
  cluster.arrived = 0;
  ++cluster.phase;
  for (Block* block : cluster.blocks) {
    for (unsigned t = 0; t < block->size; ++t) {
      const Thread& thread = block->threads[t];
      if (thread.wait != Wait::kCluster) continue;
      make_ready(*thread.warp, uint32_t{1} << thread.lane, *block);
    }
  }
  // Sometimes one block goes on only when no other can.
  if (cluster.blocks.size() > 1 && machine.random.rarely(2)) {
    Block& block = *cluster.blocks[machine.random.below(cluster.blocks.size())];
    for (Warp& warp : block.warps) make_late(block, warp, warp.ready);
  }
}

void cluster_wait(std::source_location where) {
  Thread& self = *current;
  if (self.omits_cluster || omitted(where)) return;
  if (!self.arrived_at_cluster) {
    fault("a wait at the cluster's barrier, " + describe(where) + ", without an arrival");
  }
  self.arrived_at_cluster = false;
  if (self.block->cluster->phase != self.cluster_phase) return maybe_preempt();
  self.wait = Wait::kCluster;
  self.where = where;
  suspend();
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

}  // namespace mixnorm::emulation
