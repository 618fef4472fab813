// What the other kernels do not hold in their threads' registers: groups of any number of channels,
// and any number of components in any element type. Sweeps over channels and over positions take
// turns, a launch each, and the responsibilities pass through the workspace. Torch-free.
#pragma once

#include "cuda/plan.h"

namespace mixnorm::cuda {

template <class T>
struct ForwardProblem;
template <class T>
struct GradientArguments;

constexpr int kGeneralThreads = 256;
constexpr int kGeneralK = device::kMaxComponents;  // that registers and tables have room for

// The cut: a tile is as many positions as threads are left of a block beside channel_lanes.
Geometry general_geometry(const Input& x, int64_t components, int64_t groups,
                          const DeviceLimits& limits);

// Shared memory of a block.
size_t general_shared_memory(const Geometry& geometry, Scalar scalar);

// Blocks of the sweeps over channels, of those over positions, and of what merges columns.
struct GeneralGrids {
  int channels, positions, columns;
};
GeneralGrids general_grids(const Geometry& geometry, const DeviceLimits& limits);

// Description of a problem that no other kernel serves for `reason`.
Description describe_general(const Input& x, int64_t components, int64_t groups,
                             const DeviceLimits& limits, const char* reason);

// Bytes of workspace.
size_t general_workspace(const Input& x, int64_t components, int64_t groups,
                         const DeviceLimits& limits, Direction direction);

// Everything of `problem` but what the geometry and the workspace give; y: null where only moments
// are wanted.
template <class T>
cudaError_t launch_general_forward(const Input& x, const Output* y, int64_t components,
                                   int64_t groups, ForwardProblem<T> problem, const Launch& launch);

template <class T>
cudaError_t launch_general_backward(const Input& dy, const Input& x, const Output& dx,
                                    int64_t components, int64_t groups,
                                    const GradientArguments<T>& arguments, const Launch& launch);

}  // namespace mixnorm::cuda
