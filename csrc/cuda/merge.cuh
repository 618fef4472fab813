// Work on columns between the sweeps, shared out among all blocks, or among those of the same
// groups: sums over the chunks, in double and in fixed order.
#pragma once

#include <cuda_runtime.h>

#include "cuda/geometry.h"
#include "cuda/thread.cuh"

namespace mixnorm::cuda {

// A block's threads as `depth` lanes for each of `width` units of work.
class Lanes {
 public:
  // terms: what a unit adds up; units: that the block has at least, if known.
  __device__ Lanes(int64_t terms, double* buffer, int units = 1) : buffer_(buffer) {
    while (depth < 32 && depth < terms && 2 * depth * units <= static_cast<int>(blockDim.x)) {
      depth *= 2;
    }
    width = 1;
    while (width * 2 * depth <= static_cast<int>(blockDim.x)) width *= 2;
    unit = threadIdx.x % width;
    lane = threadIdx.x / width;
  }

  // Totals over the lanes, valid in lane 0. Every thread of the block must take part.
  template <int N>
  __device__ void sum(double (&values)[N]) const {
    if (depth == 1) return;
    const int stride = width * depth;
    if (lane < depth) {
#pragma unroll
      for (int i = 0; i < N; ++i) buffer_[i * stride + lane * width + unit] = values[i];
    }
    __syncthreads();
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        for (int j = 1; j < depth; ++j) values[i] += buffer_[i * stride + j * width + unit];
      }
    }
    __syncthreads();
  }

  int width, depth = 1;
  int unit, lane;  // the thread's; threads with lane >= depth are idle

 private:
  double* buffer_;  // [3][width * depth]
};

// A thread's column in one round, of those before `end`.
struct Column {
  int index, group, channel;
  bool inside;  // before the end
  bool exists;  // and not padding
  bool first_of_group;

  __device__ Column(const Geometry& g, int index, int end) : index(index) {
    group = index / g.group_columns;
    const int within = index - group * g.group_columns;
    channel = group * g.group_channels + within;
    inside = index < end;
    exists = inside && within < g.group_channels;
    first_of_group = within == 0;
  }
};

// Of the block's groups.
__device__ inline int own_columns(const Geometry& g) { return g.block_groups * g.group_columns; }

// Rounds of the block's units of work, from `first` to `end` in steps: a share of all `units` with
// all blocks, or of the `own` of its groups with the blocks of the same groups.
struct Share {
  int first, end, step;

  __device__ Share(const Geometry& g, const Lanes& lanes, int units, int own) {
    const bool grid = g.scope == Scope::kGrid;
    const int block = opaque(blockIdx.x), blocks = grid ? grid_blocks() : g.chunks;
    const int together = grid ? units : own;
    const int start = block / blocks * together;
    first = start + block % blocks * lanes.width;
    end = units < start + together ? units : start + together;
    step = blocks * lanes.width;
  }
};

// Calls f(column) in all threads of the block, round by round.
template <class F>
__device__ void for_columns(const Geometry& g, const Lanes& lanes, F&& f) {
  const Share share(g, lanes, columns(g), own_columns(g));
  for (int first = share.first; first < share.end; first += share.step) {
    f(Column(g, first + lanes.unit, share.end));
  }
}

// What the chunks left: sums [chunks][2 K][columns], masses [chunks][groups][K].
template <class T>
struct Partials {
  T* sums;
  T* masses;
};

// The thread's share of the sum over chunks of from[chunk * stride].
template <class T>
__device__ double chunk_share(const Geometry& g, const Lanes& lanes, const T* from,
                              int64_t stride) {
  double sum = 0;
  if (lanes.lane >= lanes.depth) return sum;
#pragma unroll 4
  for (int chunk = lanes.lane; chunk < g.chunks; chunk += lanes.depth) {
    sum += static_cast<double>(from[chunk * stride]);
  }
  return sum;
}

}  // namespace mixnorm::cuda
