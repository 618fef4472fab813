#include "cuda/general.h"

#include <algorithm>

#include "cuda/general_buffers.h"

namespace mixnorm::cuda {
namespace {

// Neighbouring threads that hold neighbouring channels, where those lie together.
constexpr int kChannelRun = 32;
// Otherwise they hold neighbouring positions.
constexpr int kPositionRun = 32;
// Blocks of a multiprocessor that a sweep over positions aims at.
constexpr int kBlocks = 4;
// Positions that a thread adds up in the accumulation type, at most.
constexpr int kChunkTiles = 1024;

}  // namespace

Geometry general_geometry(const Input& x, int64_t components, int64_t groups,
                          const DeviceLimits& limits) {
  Geometry g{};
  g.positions = x.batch * x.length;
  g.length = std::max<int64_t>(1, x.length);
  g.channels = int(x.channels);
  g.groups = int(groups);
  g.group_channels = int(x.channels / groups);
  g.components = int(components);
  g.channel_runs = x.stride_c == 1 && x.stride_l != 1;
  g.channel_lanes = g.channel_runs ? kChannelRun : kGeneralThreads / kPositionRun;
  g.tile_positions = kGeneralThreads / g.channel_lanes;
  g.tiles = ceil_div(g.positions, g.tile_positions);
  g.tile_step = row_step(g.tile_positions, g.length);
  const int held = std::max(kChannels<float, kGeneralK>, kChannels<double, kGeneralK>);
  g.group_columns = int(ceil_div(g.group_channels, held)) * held;
  g.channel_blocks = int(groups * ceil_div(g.group_channels, g.channel_lanes));
  const int64_t wanted = std::max(ceil_div(kBlocks * limits.multiprocessors, g.channel_blocks),
                                  ceil_div(g.tiles, kChunkTiles));
  g.chunks = int(std::max<int64_t>(1, std::min(wanted, g.tiles)));
  return g;
}

size_t general_shared_memory(const Geometry& g, Scalar scalar) {
  return size_t(kGeneralK) * (kGeneralThreads + g.tile_positions) *
         (scalar == Scalar::kDouble ? sizeof(double) : sizeof(float));
}

GeneralGrids general_grids(const Geometry& g, const DeviceLimits& limits) {
  const int64_t most = 8 * limits.multiprocessors;
  const auto blocks = [&](int64_t work) { return int(std::clamp<int64_t>(work, 1, most)); };
  return {blocks(g.tiles * g.groups), g.chunks * g.channel_blocks,
          blocks(ceil_div(columns(g), kGeneralThreads / 32))};
}

Description describe_general(const Input& x, int64_t components, int64_t groups,
                             const DeviceLimits& limits, const char* reason) {
  const Geometry g = general_geometry(x, components, groups, limits);
  const GeneralGrids grids = general_grids(g, limits);
  return {true,
          Family::kGeneral,
          Access::kElements,
          false,
          kGeneralThreads,
          grids.positions,
          1,
          g.tile_positions,
          ceil_div(g.tiles, g.chunks),
          0,
          general_shared_memory(g, x.scalar),
          reason};
}

size_t general_workspace(const Input& x, int64_t components, int64_t groups,
                         const DeviceLimits& limits, Direction direction) {
  const Geometry g = general_geometry(x, components, groups, limits);
  Workspace workspace(nullptr);
  if (x.scalar == Scalar::kDouble) {
    GeneralBuffers<double>(workspace, g, direction);
  } else {
    GeneralBuffers<float>(workspace, g, direction);
  }
  return workspace.used();
}

}  // namespace mixnorm::cuda
