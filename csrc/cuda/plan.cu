#include "cuda/plan.h"

#include <algorithm>
#include <unordered_map>

#include "cuda/general.h"

namespace mixnorm::cuda {
namespace {

// Tiles of a block per tile that stays: beyond, residency saves too little to pay for the lower
// occupancy of a block that takes all the shared memory.
constexpr int kMaxOverflow = 4;
// kSmallWork where a cluster of blocks is the other choice: its barriers take about a quarter of
// the time (reasoned, not measured).
constexpr int64_t kSmallWorkBesideClusters = kSmallWork / 4;
// Shared memory that the driver takes for itself from every block.
constexpr int kReservedBytes = 1024;

// Lets the kernel take all the shared memory that a block may have: the limit is one for all plans
// of a kernel, so none of them may lower it.
cudaError_t allow_shared_memory(const void* kernel, const DeviceLimits& limits) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              limits.shared_memory_per_block);
}

Plan refused(Family family, const char* reason) {
  return {cudaErrorNotSupported, reason, family, {}, 0, 0, 0};
}

int64_t work(const Cut& cut, int64_t tiles) {
  return tiles * cut.slot_bytes / cut.element_bytes * cut.geometry.components;
}

// What `slots` tiles of each of the blocks take; they stay from sweep to sweep.
Plan resident_plan(const Cut& cut, int tensors, Family family, Scope scope, int chunks,
                   int64_t slots, const char* reason) {
  Plan p{cudaSuccess, reason, family, cut.geometry, 0, 0, 0};
  p.geometry.chunks = chunks;
  p.geometry.slots = int(slots);
  p.geometry.resident = true;
  p.geometry.scope = scope;
  p.blocks = p.geometry.channel_blocks * chunks;
  p.threads = 32 * warps(p.geometry);
  p.shared_memory = slots * tile_bytes(cut, tensors) + cut.scratch_bytes;
  return p;
}

// A block for the whole of its groups; an error where that does not serve. most_work: of a block
// that is chosen because it is small.
Plan plan_small(Cut cut, int tensors, const DeviceLimits& limits, Family family,
                int64_t most_work = kSmallWork) {
  const Geometry& g = cut.geometry;
  while (g.tile_positions < g.positions && widen_tiles(cut)) {
  }
  const int64_t tiles = std::max<int64_t>(g.tiles, 1);
  const int64_t slots = std::min(tiles, slots_within(cut, tensors, limits.shared_memory_per_block));
  if (slots < tiles && (slots < kStages || family == Family::kAuto)) {
    return refused(Family::kSmall, "too little shared memory");
  }
  const bool small = work(cut, tiles) <= most_work;
  // As many blocks as there would be anyway need none of the others.
  if (family == Family::kAuto && !small && g.channel_blocks < limits.multiprocessors) {
    return refused(Family::kSmall, "fewer blocks than multiprocessors");
  }
  return resident_plan(cut, tensors, Family::kSmall, Scope::kBlock, 1, slots,
                       small           ? "so small that barriers between blocks would take longest"
                       : slots < tiles ? "asked for"
                                       : "every block has whole groups, and they fit its shared "
                                         "memory");
}

// Clusters of blocks that may be on the device at once.
int clusters_at_once(const Plan& p, const void* kernel) {
  cudaLaunchAttribute attribute = cluster_attribute(p.geometry.chunks);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(p.blocks));
  config.blockDim = dim3(unsigned(p.threads));
  config.dynamicSmemBytes = p.shared_memory;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  const bool known = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) == cudaSuccess;
  if (!known) (void)cudaGetLastError();
  return known ? clusters : 0;
}

// A cluster for the whole of its groups; an error where that does not serve.
//
// Beside a grid that is resident as a whole, it holds 2 to 8 blocks' shared memory of each group,
// however many groups there are: 2B forward and 3B backward are moved where streaming, for want of
// room, moves 3B and 5B. Its barrier is the multiprocessors' own, the launch an ordinary one, and
// another cluster's block on the same multiprocessor works while one waits.
//
// Against it: a cluster has at most 8 multiprocessors. Clusters that leave more than a third of
// them all idle lose what they save, and what fits on chip is moved in the time of a few barriers
// of a grid: at a quarter the saved barriers still pay. Reasoned, not measured.
Plan plan_cluster(Cut cut, const void* kernel, int tensors, const DeviceLimits& limits,
                  Family family) {
  const auto refuse = [](const char* reason) { return refused(Family::kCluster, reason); };
  if (!limits.cluster_launch) return refuse("no thread-block clusters on this device");
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess)
    return {error, cudaGetErrorString(error), Family::kCluster, {}, 0, 0, 0};
  if (attributes.ptxVersion < 90) return refuse("not compiled for thread-block clusters");

  const Geometry& g = cut.geometry;
  const int64_t room = limits.shared_memory_per_block;
  const int64_t half = limits.shared_memory_per_multiprocessor / 2 - kReservedBytes;
  const auto keeps_busy = [&](int64_t blocks) { return 4 * blocks >= 3 * limits.multiprocessors; };
  const auto widened = [](Cut some) {
    while (2 * some.geometry.tile_positions < some.geometry.positions && widen_tiles(some)) {
    }
    return some;
  };
  const auto fits_largest = [&](const Cut& some) {
    return ceil_div(some.geometry.tiles, kMaxCluster) <= slots_within(some, tensors, room);
  };
  // Fewer groups for each cluster, until there are enough clusters and their groups fit.
  while (!(keeps_busy(int64_t(g.channel_blocks) * kMaxCluster) && fits_largest(widened(cut))) &&
         narrow_blocks(cut)) {
  }
  cut = widened(cut);
  const auto tiles = [&](int size) { return std::max<int64_t>(1, ceil_div(g.tiles, size)); };
  const auto slots = [&](int size) {
    return std::min(tiles(size), slots_within(cut, tensors, room));
  };
  const auto of_size = [&](int size, const char* reason) {
    return resident_plan(cut, tensors, Family::kCluster, Scope::kCluster, size, slots(size),
                         reason);
  };
  const auto serves = [&](const Plan& p) {
    const bool asked = family == Family::kCluster;
    if (!asked && !keeps_busy(p.blocks)) return false;  // a question less to the driver
    const int64_t at_once = std::min(g.channel_blocks, clusters_at_once(p, kernel));
    return at_once > 0 && (asked || keeps_busy(at_once * p.geometry.chunks));
  };

  // The largest of which every block has a tile, and every multiprocessor two blocks at most.
  for (int size = kMaxCluster; size > 1; size /= 2) {
    if (slots(size) < tiles(size) || work(cut, tiles(size)) > kSmallWork) break;
    if (size > 2 &&
        (g.tiles < size || int64_t(g.channel_blocks) * size > 2 * limits.multiprocessors)) {
      continue;
    }
    const Plan p = of_size(size, "so small that barriers across the grid would take longest");
    if (clusters_at_once(p, kernel) > 0) return p;
  }
  // The smallest of which two fit a multiprocessor.
  for (int size = 2; size <= kMaxCluster; size *= 2) {
    if (slots(size) < tiles(size)) continue;
    const Plan p = of_size(size, "every cluster has whole groups, and they fit its shared memory");
    if (int64_t(p.shared_memory) <= half && serves(p)) return p;
  }
  // The one with the most shared memory for its groups.
  for (int size = kMaxCluster; size > 1; size /= 2) {
    const bool fits = slots(size) == tiles(size);
    if (!fits && (slots(size) < kStages ||
                  (family == Family::kAuto && tiles(size) > kMaxOverflow * slots(size)))) {
      break;
    }
    const Plan p =
        of_size(size, fits ? "every cluster has whole groups, and they fit its shared memory"
                           : "every cluster has whole groups, and a part of them fits");
    if (serves(p)) return p;
  }
  return refuse("too few groups for clusters to keep the device busy, or too large ones");
}

int chunks_of(const Cut& cut, int64_t blocks) {
  const Geometry& g = cut.geometry;
  return int(std::max<int64_t>(
      1, std::min({blocks / g.channel_blocks, int64_t(cut.max_chunks), g.tiles})));
}

// How many blocks of `p` a multiprocessor runs at once; 0 where it runs none.
cudaError_t blocks_at_once(const Plan& p, const void* kernel, const DeviceLimits& limits,
                           int* blocks) {
  *blocks = 0;
  if (p.shared_memory > size_t(limits.shared_memory_per_block)) return cudaSuccess;
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel, p.threads, p.shared_memory);
}

bool keeps_all(const Plan& p) {
  const Geometry& g = p.geometry;
  return g.resident && ceil_div(g.tiles, g.chunks) <= g.slots;
}

// The whole grid on the device at once, `blocks` to a multiprocessor.
Plan plan_resident(const Cut& cut, const void* kernel, int tensors, const DeviceLimits& limits,
                   Family family, int blocks) {
  const auto refuse = [](const char* reason) { return refused(Family::kResident, reason); };
  if (!limits.cooperative_launch) return refuse("no cooperative launch here");
  const int64_t room =
      std::min<int64_t>(limits.shared_memory_per_block,
                        limits.shared_memory_per_multiprocessor / blocks - kReservedBytes);
  const int64_t at_once = int64_t(blocks) * limits.multiprocessors;
  const int chunks = chunks_of(cut, at_once);
  const int64_t grid = int64_t(chunks) * cut.geometry.channel_blocks;
  const int64_t tiles = std::max<int64_t>(1, ceil_div(cut.geometry.tiles, chunks));
  const int64_t slots = std::min(tiles, slots_within(cut, tensors, room));
  if (grid > at_once) return refuse("more groups of channels than blocks at once");
  // Not half of it for blocks that are few enough to have all.
  const bool halved = slots < tiles && grid <= at_once - limits.multiprocessors;
  if (halved || slots < std::min<int64_t>(tiles, kStages))
    return refuse("too little shared memory");
  if (family == Family::kAuto && tiles > kMaxOverflow * slots) {
    return refuse("most of the tensor would not fit");
  }
  Plan p = resident_plan(cut, tensors, Family::kResident, Scope::kGrid, chunks, slots,
                         slots < tiles ? "a part of the tensor fits the shared memory"
                                       : "the tensor fits the shared memory");
  int possible = 0;
  p.error = blocks_at_once(p, kernel, limits, &possible);
  return p.error != cudaSuccess || possible >= blocks ? p : refuse("too little shared memory");
}

// reason: why nothing stays.
Plan plan_streaming(const Cut& cut, const void* kernel, int tensors, const DeviceLimits& limits,
                    const char* reason) {
  Plan p = resident_plan(cut, tensors, Family::kStreaming, Scope::kGrid, 1, kStages, reason);
  p.geometry.resident = false;
  int blocks = 0;
  p.error = blocks_at_once(p, kernel, limits, &blocks);
  if (p.error != cudaSuccess) return p;
  if (blocks == 0) return refused(Family::kStreaming, "too little shared memory");
  p.geometry.chunks = chunks_of(cut, int64_t(blocks) * limits.multiprocessors);
  p.blocks = p.geometry.chunks * p.geometry.channel_blocks;
  return p;
}

Plan find_plan(const Cut& cut, const void* kernel, int tensors, const DeviceLimits& limits,
               Family family) {
  if (!cut.supported) return refused(Family::kStreaming, cut.reason);
  const auto ready = [](const Plan& found) { return found.error == cudaSuccess; };
  if (family == Family::kStreaming) {
    return plan_streaming(cut, kernel, tensors, limits, "asked for");
  }
  if (family == Family::kAuto && limits.cluster_launch) {
    const Plan small = plan_small(cut, tensors, limits, family, kSmallWorkBesideClusters);
    if (ready(small)) return small;
  }
  if (family == Family::kAuto || family == Family::kCluster) {
    const Plan cluster = plan_cluster(cut, kernel, tensors, limits, family);
    if (ready(cluster) || family == Family::kCluster) return cluster;
  }
  if (family == Family::kAuto || family == Family::kSmall) {
    const Plan small = plan_small(cut, tensors, limits, family);
    if (ready(small) || family == Family::kSmall) return small;
  }
  // Of two blocks one works while the other waits; but one may keep all where two do not.
  const Plan two = plan_resident(cut, kernel, tensors, limits, family, 2);
  if (ready(two) && keeps_all(two)) return two;
  const Plan one = plan_resident(cut, kernel, tensors, limits, family, 1);
  if (ready(one) && (keeps_all(one) || !ready(two))) return one;
  if (ready(two)) return two;
  if (family == Family::kResident) return one;
  return plan_streaming(cut, kernel, tensors, limits, one.reason);
}

// All that a plan depends on.
struct Question {
  Cut cut;
  const void* kernel;
  int tensors;
  DeviceLimits limits;
  Family family;

  bool operator==(const Question&) const = default;
};

struct QuestionHash {
  size_t operator()(const Question& q) const {
    const Geometry& g = q.cut.geometry;
    size_t hash = reinterpret_cast<uintptr_t>(q.kernel);
    for (const int64_t part : {g.positions, g.length, int64_t(g.channels), int64_t(g.groups),
                               int64_t(g.components), int64_t(q.family)}) {
      hash = hash * 0x9e3779b97f4a7c15u + size_t(part);
    }
    return hash ^ hash >> 32;
  }
};

}  // namespace

Plan plan(const Cut& cut, const void* kernel, int tensors, const DeviceLimits& limits,
          Family family) {
  // Of the shapes that one network has, and not of all that there ever were.
  constexpr size_t kMost = 4096;
  thread_local std::unordered_map<Question, Plan, QuestionHash> known;
  const cudaError_t error = allow_shared_memory(kernel, limits);
  if (error != cudaSuccess) return {error, "", family, cut.geometry, 0, 0, 0};
  const Question question{cut, kernel, tensors, limits, family};
  const auto found = known.find(question);
  if (found != known.end()) return found->second;
  const Plan plan = find_plan(cut, kernel, tensors, limits, family);
  if (plan.error != cudaSuccess) return plan;
  if (known.size() == kMost) known.clear();
  return known.emplace(question, plan).first->second;
}

Description describe(Direction direction, const Input& x, int64_t components, int64_t groups,
                     const DeviceLimits& limits, Family family) {
  const bool forward = direction == Direction::kForward;
  const Cut c = cut(x, {}, components, groups, limits, forward ? kForwardCut : kBackwardCut);
  Description d{};
  d.reason = c.reason;
  if (!c.supported) {
    const bool asked_for_another = family != Family::kAuto && family != Family::kStreaming;
    return asked_for_another ? d : describe_general(x, components, groups, limits, c.reason);
  }
  const void* const kernel =
      forward ? forward_kernel_address(x.scalar, c) : backward_kernel_address(x.scalar, c);
  if (allow_shared_memory(kernel, limits) != cudaSuccess) return d;
  const Plan p = find_plan(c, kernel, forward ? 1 : 2, limits, family);
  d.reason = p.reason;
  if (p.error != cudaSuccess) return d;
  const int64_t tiles = ceil_div(p.geometry.tiles, p.geometry.chunks);
  const int64_t kept = keeps_all(p) ? tiles : p.geometry.resident ? p.geometry.slots : 0;
  return {true,
          p.family,
          c.access,
          c.geometry.matrix,
          p.threads,
          p.blocks,
          p.family == Family::kCluster ? p.geometry.chunks : 1,
          p.geometry.tile_positions,
          tiles,
          kept,
          p.shared_memory,
          p.reason};
}

cudaError_t device_limits(int device, DeviceLimits* limits) {
  int cooperative = 0, clusters = 0;
  const auto read = [device](cudaDeviceAttr attribute, int* value) {
    return cudaDeviceGetAttribute(value, attribute, device);
  };
  cudaError_t error = read(cudaDevAttrMultiProcessorCount, &limits->multiprocessors);
  if (error == cudaSuccess) {
    error = read(cudaDevAttrMaxSharedMemoryPerBlockOptin, &limits->shared_memory_per_block);
  }
  if (error == cudaSuccess) {
    error = read(cudaDevAttrMaxSharedMemoryPerMultiprocessor,
                 &limits->shared_memory_per_multiprocessor);
  }
  if (error == cudaSuccess) error = read(cudaDevAttrCooperativeLaunch, &cooperative);
  if (error == cudaSuccess) error = read(cudaDevAttrClusterLaunch, &clusters);
  limits->cooperative_launch = cooperative != 0;
  limits->cluster_launch = clusters != 0;
  return error;
}

}  // namespace mixnorm::cuda
