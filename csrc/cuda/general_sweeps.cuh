// The sweeps of the general kernels. A tile is position_lanes positions; a block walks either over
// the channels of a tile's positions, which leaves sums for each position, or over the positions of
// a chunk for a block of channels, which leaves sums for each channel. No thread keeps more than
// one channel or position, so nothing bounds the number of either.
#pragma once

#include "cuda/general.h"
#include "cuda/sums.cuh"

namespace mixnorm::cuda {

// Thread = one channel of channel_lanes, one position of tile_positions.
struct GeneralPlace {
  int channel_lane, position_lane;

  __device__ explicit GeneralPlace(const Geometry& g) {
    const int thread = threadIdx.x;
    channel_lane = g.channel_runs ? thread % g.channel_lanes : thread / g.tile_positions;
    position_lane = g.channel_runs ? thread / g.channel_lanes : thread % g.tile_positions;
  }
};

// A channel's rows of the table.
template <class T>
__device__ __forceinline__ T coefficient(const T* column, int row) {
  return column[row * kChannels<T, kGeneralK>];
}

// nu or dlogit, [G][K][M].
template <class T>
struct Weights {
  T* data;

  __device__ __forceinline__ T& at(const Geometry& g, int group, int k, int64_t position) const {
    return data[(int64_t(group) * g.components + k) * g.positions + position];
  }
};

// For every group and position: calls term(sums, channel, column of the table, cursor) for each of
// the group's channels, and finish(group, position, totals) in one thread.
// shared: [kGeneralK][kGeneralThreads + tile_positions].
template <class T, class Term, class Finish>
__device__ void sum_over_channels(const Geometry& g, T* shared, Term&& term, Finish&& finish) {
  const GeneralPlace place(g);
  T* const totals = shared + kGeneralK * kGeneralThreads;
  const int width = g.tile_positions;
  for (int64_t item = blockIdx.x; item < g.tiles * g.groups; item += gridDim.x) {
    const int group = static_cast<int>(item % g.groups);
    const int64_t first = item / g.groups * width, position = first + place.position_lane;
    T sums[kGeneralK] = {};
    if (position < g.positions) {
      const Cursor at(position, g.length);
      for (int c = place.channel_lane; c < g.group_channels; c += g.channel_lanes) {
        term(sums, group * g.group_channels + c, group * g.group_columns + c, at);
      }
    }
    T* const mine = shared + place.channel_lane * width + place.position_lane;
#pragma unroll
    for (int k = 0; k < kGeneralK; ++k) {
      if (k == g.components) break;
      mine[k * kGeneralThreads] = sums[k];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < g.components * width; i += kGeneralThreads) {
      const T* const from = shared + i / width * kGeneralThreads + i % width;
      T total = from[0];
      for (int lane = 1; lane < g.channel_lanes; ++lane) total += from[lane * width];
      totals[i] = total;
    }
    __syncthreads();
    const int64_t last = first + static_cast<int>(threadIdx.x);
    if (static_cast<int>(threadIdx.x) < width && last < g.positions) {
#pragma unroll
      for (int k = 0; k < kGeneralK; ++k) {
        sums[k] = k < g.components ? totals[k * width + threadIdx.x] : T(0);
      }
      finish(group, last, sums);
    }
  }
}

// Where a block works in a sweep over positions: chunk by chunk of every block of channels.
struct GeneralBlock {
  int group, channel, column;  // of the thread; the channel may lie past the group's last
  bool exists;
  int chunk;
  int64_t first, last;  // positions of the thread, tile_positions apart

  __device__ GeneralBlock(const Geometry& g, const GeneralPlace& place) {
    const int channel_block = blockIdx.x % g.channel_blocks;
    const int group_blocks = g.channel_blocks / g.groups;
    group = channel_block / group_blocks;
    const int within = channel_block % group_blocks * g.channel_lanes + place.channel_lane;
    exists = within < g.group_channels;
    channel = group * g.group_channels + within;
    column = group * g.group_columns + within;
    chunk = blockIdx.x / g.channel_blocks;
    first = g.tiles * chunk / g.chunks * g.tile_positions + place.position_lane;
    last = g.tiles * (chunk + 1) / g.chunks * g.tile_positions;
    if (last > g.positions) last = g.positions;
  }

  // body(cursor, position)
  template <class Body>
  __device__ __forceinline__ void for_positions(const Geometry& g, Body&& body) const {
    if (!exists) return;
    Cursor at(first, g.length);
    for (int64_t position = first; position < last; position += g.tile_positions) {
      body(at, position);
      at.move(g.tile_step, g.length);
    }
  }
};

// The totals of value over the threads of a channel, in the one with the first position.
// parts: [kGeneralThreads]. Every thread must take part.
template <class T>
__device__ __forceinline__ T sum_over_lanes(const Geometry& g, const GeneralPlace& place, T value,
                                            T* parts) {
  parts[place.position_lane * g.channel_lanes + place.channel_lane] = value;
  __syncthreads();
  if (place.position_lane == 0) {
    for (int lane = 1; lane < g.tile_positions; ++lane) {
      value += parts[lane * g.channel_lanes + place.channel_lane];
    }
  }
  return value;
}

// Sums of w, w a and w b over the positions of each chunk, to `partials`, with the weights w and
// values(block, cursor, a, b).
template <class T, class Values>
__device__ void sum_over_positions(const Geometry& g, const Weights<T>& weights,
                                   const Partials<T>& partials, T* shared, Values&& values) {
  const GeneralPlace place(g);
  const GeneralBlock block(g, place);
  T mass[kGeneralK] = {}, first[kGeneralK] = {}, second[kGeneralK] = {};
  block.for_positions(g, [&](const Cursor& at, int64_t position) {
    T a, b;
    values(block, at, a, b);
#pragma unroll
    for (int k = 0; k < kGeneralK; ++k) {
      if (k == g.components) break;
      const T weight = weights.at(g, block.group, k, position);
      mass[k] += weight;
      first[k] += weight * a;
      second[k] += weight * b;
    }
  });
  const bool keeps = block.exists && place.position_lane == 0;
  const bool first_of_group = block.channel == block.group * g.group_channels;
  T* const row = partials.sums + int64_t(block.chunk) * 2 * kGeneralK * columns(g) + block.column;
  T* const masses = partials.masses + (int64_t(block.chunk) * g.groups + block.group) * kGeneralK;
#pragma unroll
  for (int k = 0; k < kGeneralK; ++k) {
    if (k == g.components) break;
    // Three buffers in turn: nobody overwrites what another thread still reads.
    const T total = sum_over_lanes(g, place, mass[k], shared);
    const T one = sum_over_lanes(g, place, first[k], shared + kGeneralThreads);
    const T two = sum_over_lanes(g, place, second[k], shared + 2 * kGeneralThreads);
    if (!keeps) continue;
    if (first_of_group) masses[k] = total;
    row[int64_t(2 * k) * columns(g)] = one;
    row[int64_t(2 * k + 1) * columns(g)] = two;
  }
}

// nu of every position, from the table's log-odds.
template <class S, class T = accumulation_t<S>>
__device__ void find_responsibilities(const Geometry& g, const Tensor& x, const T* table,
                                      const Weights<T>& nu, T* shared) {
  const S* const data = static_cast<const S*>(x.data);
  sum_over_channels(
      g, shared,
      [&](T(&sums)[kGeneralK], int channel, int column, const Cursor& at) {
        using R = Row<kGeneralK>;
        const T* const rows = column_start<kGeneralK>(table, column);
        const T value = T(widen(data[channel * x.strides.c + at.offset(x.strides)])) -
                        coefficient(rows, R::kShift);
#pragma unroll
        for (int k = 1; k < kGeneralK; ++k) {
          if (k >= g.components) break;
          sums[k] += value * (coefficient(rows, R::quadratic(k)) * value +
                              coefficient(rows, R::linear(k))) +
                     coefficient(rows, R::odds(k));
        }
      },
      [&](int group, int64_t position, T(&odds)[kGeneralK]) {
#pragma unroll
        for (int k = 1; k < kGeneralK; ++k) {
          if (k >= g.components) odds[k] = -HUGE_VAL;
        }
        softmax<kGeneralK>(odds);
#pragma unroll
        for (int k = 0; k < kGeneralK; ++k) {
          if (k == g.components) break;
          // A single component's is 1, also where x is not finite.
          nu.at(g, group, k, position) = g.components == 1 ? T(1) : odds[k];
        }
      });
}

}  // namespace mixnorm::cuda
