#include "cuda/cut.h"

#include <cuda_fp16.h>

#include <algorithm>
#include <limits>

namespace mixnorm::cuda {
namespace {

// Blocks of one multiprocessor, at most: what the workspace is sized for.
constexpr int kMaxBlocks = 4;
// Warps of a block where the channels of a group leave the choice.
constexpr int kWarps = 8;
// A chunk of fewer positions than this times K writes sums of the size of its x.
constexpr int kChunkPositions = 16;
// Of global memory, moved at once.
constexpr int kSectorBytes = 32;
constexpr const char* kTooWide = "a group has more channels than the threads of a block can hold";
constexpr const char* kTooLarge = "tiles of a group's channels do not fit the shared memory";

int size_of(Scalar scalar) {
  return scalar == Scalar::kDouble ? 8 : scalar == Scalar::kFloat ? 4 : 2;
}

struct Held {
  int channels, positions, max_threads;
};

template <class T, int K>
Held held(Access access) {
  return {kChannels<T, K>,
          access == Access::kElements ? kPositions<T, K, Access::kElements>
                                      : kPositions<T, K, Access::kPositions>,
          kMaxThreads<T, K>};
}

Held held(Scalar scalar, int compiled, Access access) {
  if (scalar == Scalar::kDouble) {
    return compiled > 4 ? held<double, 8>(access) : held<double, 4>(access);
  }
  return compiled > 8   ? held<float, 16>(access)
         : compiled > 3 ? held<float, 8>(access)
                        : held<float, 3>(access);
}

Held held_of_own(Scalar scalar, int compiled, Access access) {
  if (access != Access::kElements) {
    const int channels = access == Access::kChannels ? kOwnChannels<Access::kChannels> : 1;
    return {channels, kOwnTileBytes / size_of(scalar) / channels, kOwnThreads};
  }
  const int positions = scalar == Scalar::kDouble
                            ? compiled > 4 ? kOwnPositions<double, 8, Access::kElements>
                                           : kOwnPositions<double, 4, Access::kElements>
                        : compiled > 8 ? kOwnPositions<float, 16, Access::kElements>
                        : compiled > 4 ? kOwnPositions<float, 8, Access::kElements>
                                       : kOwnPositions<float, 4, Access::kElements>;
  return {1, positions, kOwnThreads};
}

Strides strides_of(const Input& t) { return {t.stride_n, t.stride_c, t.stride_l}; }

RowStep reverse(const RowStep& step, int64_t length) {
  return {-step.n - (step.l > 0), step.l > 0 ? length - step.l : 0};
}

// What a problem's sweeps walk, x first.
struct Walked {
  Tensor tensors[4];
  int count;
  Scalar scalar;
};

template <int K>
int matrix_threads(Scalar scalar, const CutOptions& options) {
  return options.tensors == 1       ? kMatrixThreads<K>
         : scalar == Scalar::kFloat ? kMatrixBackwardThreads<float, K>
                                    : kMatrixBackwardThreads<__half, K>;
}
int matrix_threads(Scalar scalar, int components, const CutOptions& options) {
  return components > 8 ? matrix_threads<16>(scalar, options) : matrix_threads<8>(scalar, options);
}

// Whether matrix products have kernels for the problem's groups, and not only lanes without
// channels.
bool fits_matrices(const Geometry& g, Scalar scalar, const CutOptions& options) {
  const int most =
      kMatrixChannels * kMatrixLanes * matrix_threads(scalar, g.components, options) / 32;
  return options.matrix && scalar != Scalar::kDouble && !g.per_channel &&
         g.components >= kMatrixComponents && g.group_channels > kMatrixChannels &&
         g.group_channels <= most;
}

// matrix: by kernels for matrix products, if they serve the access. vectors: as in CutOptions.
Access access_of(const Geometry& g, const Walked& walked, bool matrix, bool vectors) {
  if (walked.scalar == Scalar::kDouble || (g.components > 4 && !matrix) || !vectors) {
    return Access::kElements;
  }
  const int64_t together = g.per_channel ? kOwnChannels<Access::kChannels> : 4;
  bool channels =
      g.length == g.positions && (g.per_channel ? g.channels : g.group_channels) % together == 0;
  bool positions = true;
  for (int t = 0; t < walked.count; ++t) {
    const Strides& s = walked.tensors[t].strides;
    const int64_t start =
        int64_t(reinterpret_cast<uintptr_t>(walked.tensors[t].data)) / size_of(walked.scalar);
    const auto multiples = [](int64_t of, std::initializer_list<int64_t> values) {
      return std::all_of(values.begin(), values.end(), [of](int64_t a) { return a % of == 0; });
    };
    channels = channels && s.c == 1 && multiples(together, {start, s.l});
    positions = positions && s.l == 1 && multiples(4, {start, g.length, s.n, s.c});
  }
  return channels ? Access::kChannels : positions ? Access::kPositions : Access::kElements;
}

// Sets what follows from how many warps lie side by side.
void size_tiles(Cut& cut, int position_warps) {
  Geometry& g = cut.geometry;
  g.position_warps = position_warps;
  const int lanes = 32 / g.channel_lanes * position_warps;
  g.tile_positions = lanes * cut.held_positions;
  g.tiles = ceil_div(g.positions, g.tile_positions);
  g.tile_step = row_step(g.tile_positions, g.length);
  g.lane_step = row_step(cut.access == Access::kPositions ? 4 * lanes : lanes, g.length);
  g.steps = {0, 0, 0, 1};
  if (g.length != g.positions) {
    g.steps = {int(g.tile_step.l), int(reverse(g.tile_step, g.length).l), int(g.lane_step.l),
               int(g.length)};
  }
  cut.slot_bytes =
      int64_t(cut.held_channels) * cut.held_positions * 32 * warps(g) * cut.element_bytes;
  const int64_t number = cut.element_bytes == 8 ? 8 : 4;
  const int64_t nu = weights_size(g, cut.compiled) * number;
  cut.nu_bytes = g.matrix ? 0 : nu;
  cut.scratch_bytes =
      scratch_sizes(g, cut.compiled, cut.held_channels).total() * number + (g.matrix ? nu : 0);
}

bool room_for_twice_the_warps(const Geometry& g) { return 2 * warps(g) <= kWarps; }

}  // namespace

int compiled_components(Scalar scalar, Access access, int64_t components) {
  if (scalar == Scalar::kDouble) return components > 4 ? 8 : 4;
  if (access == Access::kElements) return components > 8 ? 16 : components > 3 ? 8 : 3;
  if (components >= kMatrixComponents) return components > 8 ? 16 : 8;
  return int(scalar == Scalar::kHalf ? std::max<int64_t>(components, 3) : components);
}

Tensor flattened(const Geometry& g, const Input& x) {
  const bool one_row = g.length == g.positions;
  Tensor t{x.data, strides_of(x), {}};
  // The next position of a sample of one position is the next sample's.
  if (one_row && x.batch > 1) t.strides = {0, x.stride_c, x.length == 1 ? x.stride_n : x.stride_l};
  const int64_t size = size_of(x.scalar), row = one_row ? g.length * t.strides.l : t.strides.n;
  const auto bytes = [&](const RowStep& step) {
    return (step.n * row + step.l * t.strides.l) * size;
  };
  t.steps = {bytes(g.tile_step), bytes(reverse(g.tile_step, g.length)), bytes(g.lane_step),
             bytes({-1, g.length})};
  return t;
}

Tensor flattened(const Geometry& g, const Input& x, const Output& y) {
  return flattened(
      g, {y.data, x.scalar, x.batch, x.channels, x.length, y.stride_n, y.stride_c, y.stride_l});
}

namespace {

// Whole groups for the warps of a block; false where they are too wide for one.
bool cut_groups(Cut& cut, int max_warps, const DeviceLimits& limits) {
  Geometry& g = cut.geometry;
  int64_t lanes = ceil_div(g.group_channels, cut.held_channels);
  // Divides into warps: of any shape where they are many.
  lanes = g.matrix             ? ceil_div(lanes, kMatrixLanes) * kMatrixLanes
          : lanes > 8 * kWarps ? ceil_div(lanes, 32) * 32
                               : lanes;
  g.channel_lanes = 1;
  const auto channel_warps = [&] { return int(ceil_div(lanes, g.channel_lanes)); };
  while (g.channel_lanes < std::min<int64_t>(lanes, 4)) g.channel_lanes *= 2;
  while (!g.matrix && g.channel_lanes < 8 && channel_warps() > kWarps) g.channel_lanes *= 2;
  while (channel_warps() > max_warps && g.channel_lanes < 32) g.channel_lanes *= 2;
  g.channel_warps = channel_warps();
  if (g.channel_warps > max_warps) return false;
  g.group_columns = g.channel_warps * g.channel_lanes * cut.held_channels;
  cut.most_groups = std::clamp(kWarps / g.channel_warps, 1, g.groups);
  // Where neighbours in memory are positions, lanes of channels only cost shuffles. Tables have the
  // same columns whatever the layout.
  const int64_t tile_bytes =
      32 * kWarps * cut.held_channels * cut.held_positions * cut.element_bytes;
  const bool roomy = 3 * 2 * kStages * tile_bytes <= 2 * limits.shared_memory_per_block;
  while (cut.access == Access::kPositions && !g.matrix && roomy && g.channel_lanes > 1 &&
         2 * g.channel_warps <= kWarps) {
    g.channel_lanes /= 2;
    g.channel_warps = channel_warps();
  }
  g.block_groups = std::clamp(kWarps / g.channel_warps, 1, g.groups);
  return true;
}

// Channels with a mixture each, for the lanes and warps of a block.
void cut_channels(Cut& cut, const DeviceLimits& limits) {
  Geometry& g = cut.geometry;
  const int64_t owners = ceil_div(g.channels, cut.held_channels);
  const int64_t element = cut.held_channels * cut.element_bytes;  // of a lane
  int64_t lanes = 1, warps = 1;
  if (g.channel_runs) {
    while (lanes < 32 && lanes < owners) lanes *= 2;
    // Narrower rows, though of whole sectors, where that makes blocks small enough to do alone.
    const bool small = g.positions * g.components * kSectorBytes <= kSmallWork * cut.element_bytes;
    while (small && lanes * element > kSectorBytes &&
           ceil_div(owners, lanes) < limits.multiprocessors) {
      lanes /= 2;
    }
  } else {
    const int64_t positions = ceil_div(g.positions, cut.held_positions);
    while (lanes < 32 && lanes < owners && 2 * lanes * positions <= 32) lanes *= 2;
  }
  // As many channels as leave enough blocks, and several of those to a multiprocessor.
  while (2 * warps <= kWarps && ceil_div(owners, 2 * warps * lanes) >= 2 * limits.multiprocessors &&
         2 * warps * lanes * element * g.positions <= limits.shared_memory_per_block / 8) {
    warps *= 2;
  }
  g.channel_lanes = int(lanes);
  g.channel_warps = int(warps);
  g.group_columns = 1;
  g.block_groups = int(lanes * warps * cut.held_channels);
}

}  // namespace

Cut cut(const Input& x, std::initializer_list<Tensor> others, int64_t components, int64_t groups,
        const DeviceLimits& limits, const CutOptions& options) {
  Cut cut{};
  if (components < 1 || components > (x.scalar == Scalar::kDouble ? 8 : device::kMaxComponents)) {
    cut.reason = "more components than are compiled";
    return cut;
  }
  Geometry& g = cut.geometry;
  g.positions = x.batch * x.length;
  g.channels = int(x.channels);
  g.groups = int(groups);
  g.group_channels = int(x.channels / groups);
  g.components = int(components);
  g.per_channel = groups == x.channels;

  if (x.length > std::numeric_limits<int>::max() / 2 && x.batch > 1) {
    cut.reason = "rows are longer than 2^30";
    return cut;
  }
  const auto joins = [&](const Strides& s) { return x.length == 1 || s.n == x.length * s.l; };
  const bool joined =
      x.batch <= 1 ||
      (joins(strides_of(x)) && std::all_of(others.begin(), others.end(),
                                           [&](const Tensor& t) { return joins(t.strides); }));
  g.length = std::max<int64_t>(1, joined ? g.positions : x.length);

  Walked walked{{flattened(g, x)}, 1, x.scalar};
  for (const Tensor& t : others) {
    walked.tensors[walked.count++] = flattened(g, {t.data, x.scalar, x.batch, x.channels, x.length,
                                                   t.strides.n, t.strides.c, t.strides.l});
  }
  const bool matrix = fits_matrices(g, x.scalar, options);
  cut.access = access_of(g, walked, matrix, options.vectors);
  g.matrix = matrix && cut.access != Access::kElements;
  cut.compiled = compiled_components(x.scalar, cut.access, components);
  cut.allocated = compiled_components(x.scalar, Access::kElements, components);
  const int matrix_most = matrix_threads(x.scalar, g.components, options);
  const Held hold = g.matrix        ? Held{kMatrixChannels, kMatrixPositions, matrix_most}
                    : g.per_channel ? held_of_own(x.scalar, cut.compiled, cut.access)
                                    : held(x.scalar, cut.compiled, cut.access);
  cut.held_channels = hold.channels;
  cut.held_positions = hold.positions;
  cut.element_bytes = size_of(x.scalar);
  const Strides& first = walked.tensors[0].strides;
  g.channel_runs = first.c == 1 && first.l != 1;
  if (g.per_channel) {
    cut_channels(cut, limits);
  } else if (!cut_groups(cut,
                         (options.max_threads > 0 ? options.max_threads : hold.max_threads) / 32,
                         limits)) {
    cut.reason = kTooWide;
    return cut;
  }
  g.exchanged = g.matrix ? options.tensors : 1;
  g.channel_blocks = int(ceil_div(g.groups, g.block_groups));
  size_tiles(cut, 1);
  const auto streams = [&](const Cut& some) {
    return slots_within(some, options.tensors, limits.shared_memory_per_block) >= kStages;
  };
  while (!g.matrix && !streams(cut) && narrow_blocks(cut)) {
  }
  cut.supported = streams(cut);
  if (!cut.supported) {
    if (cut.access != Access::kElements) {
      const CutOptions single{options.max_threads, false, options.tensors, false};
      return mixnorm::cuda::cut(x, others, components, groups, limits, single);
    }
    cut.reason = kTooLarge;
    return cut;
  }
  // Wider tiles where every multiprocessor still gets one.
  while (g.positions / (2 * g.tile_positions) * g.channel_blocks >= limits.multiprocessors) {
    Cut wider = cut;
    if (!widen_tiles(wider) || !streams(wider)) break;
    cut = wider;
  }

  const int64_t multiprocessors = limits.multiprocessors;
  const auto chunks = [&](int64_t channel_blocks) {
    const int64_t one_each = std::max<int64_t>(1, multiprocessors / channel_blocks);
    const int64_t most = std::max<int64_t>(1, kMaxBlocks * multiprocessors / channel_blocks);
    const int64_t worth = g.positions / (kChunkPositions * components);
    return int(std::min(most, std::max(one_each, worth)));
  };
  // The workspace is asked for before it is known how all tensors lie.
  const int64_t fewest_blocks = g.per_channel
                                    ? ceil_div(g.channels, 32 * kOwnChannels<Access::kChannels>)
                                    : ceil_div(g.groups, cut.most_groups);
  cut.max_chunks = chunks(g.per_channel ? fewest_blocks : g.channel_blocks);
  cut.workspace_chunks = std::max(chunks(fewest_blocks), kMaxCluster);
  return cut;
}

BackwardCuts cut_backward(const Input& x, std::initializer_list<Tensor> others, int64_t components,
                          int64_t groups, bool learned, const DeviceLimits& limits) {
  const auto both = [&](const CutOptions& first, const CutOptions& second) {
    BackwardCuts cuts{cut(x, others, components, groups, limits, first),
                      cut(x, others, components, groups, limits, second), false};
    const bool needs_second = learned && !cuts.backward.geometry.per_channel;
    cuts.supported = cuts.backward.supported && (!needs_second || cuts.fewer_threads.supported);
    share_workspace(cuts.backward, cuts.fewer_threads);
    return cuts;
  };
  const BackwardCuts cuts = both(kBackwardCut, kMixtureCut);
  // Where the tiles of only one are too large, vectors would leave the other a table it cannot
  // read.
  const bool one_table = cuts.backward.compiled == cuts.fewer_threads.compiled;
  if (!learned || one_table || !cuts.supported) return cuts;
  CutOptions first = kBackwardCut, second = kMixtureCut;
  first.matrix = first.vectors = second.vectors = false;
  return both(first, second);
}

void share_workspace(Cut& a, Cut& b) {
  const auto larger = [](int& first, int& second) { first = second = std::max(first, second); };
  larger(a.geometry.group_columns, b.geometry.group_columns);
  larger(a.workspace_chunks, b.workspace_chunks);
}

bool widen_tiles(Cut& cut) {
  if (!room_for_twice_the_warps(cut.geometry)) return false;
  size_tiles(cut, 2 * cut.geometry.position_warps);
  return true;
}

bool narrow_blocks(Cut& cut) {
  Geometry& g = cut.geometry;
  const int64_t row = int64_t(g.block_groups) * g.group_channels * cut.element_bytes;
  if (g.block_groups == 1 || (g.channel_runs && row < 2 * kSectorBytes)) return false;
  if (!g.per_channel) {
    g.block_groups /= 2;
  } else if (g.channel_warps > 1) {
    g.channel_warps /= 2;
  } else if (g.channel_runs && g.channel_lanes > 1) {
    g.channel_lanes /= 2;
  } else {
    return false;  // lanes along channels whose positions are few
  }
  if (g.per_channel) g.block_groups /= 2;
  g.channel_blocks = int(ceil_div(g.groups, g.block_groups));
  size_tiles(cut, g.position_warps);
  return true;
}

int64_t tile_bytes(const Cut& cut, int tensors) { return cut.slot_bytes * tensors + cut.nu_bytes; }

int64_t slots_within(const Cut& cut, int tensors, int64_t shared_memory) {
  return (shared_memory - cut.scratch_bytes) / tile_bytes(cut, tensors);
}

}  // namespace mixnorm::cuda
