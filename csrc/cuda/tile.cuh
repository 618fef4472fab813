// A thread's part of a tile: from global memory to its own slots of shared memory, from there to
// registers, and results back. No two threads share a byte of a slot, so tiles need no barriers,
// and every access to shared memory is free of bank conflicts, whatever the layout.
#pragma once

#include "cuda/chunk.cuh"
#include "cuda/thread.cuh"

namespace mixnorm::cuda {

// A position as (sample, place in its row), moved by constant steps without divisions.
struct Cursor {
  int64_t n, l;

  __device__ Cursor(int64_t position, int64_t length) {
    const RowStep from_start = row_step(position, length);
    n = from_start.n;
    l = from_start.l;
  }
  __device__ __forceinline__ void move(const RowStep& step, int64_t length) {
    n += step.n;
    l += step.l;
    if (l >= length) {
      l -= length;
      ++n;
    }
  }
  __device__ __forceinline__ void move_back(const RowStep& step, int64_t length) {
    n -= step.n;
    l -= step.l;
    if (l < 0) {
      l += length;
      --n;
    }
  }
  __device__ __forceinline__ int64_t offset(const Strides& s) const { return n * s.n + l * s.l; }
};

// kOwned channels and kHeld positions of a thread, which Place says.
template <class S, Access kAccess, class Place_>
struct Tiles {
  using T = accumulation_t<S>;
  using Place = Place_;
  static constexpr int kOwned = Place::kOwned;
  static constexpr int kHeld = Place::kHeld;
  // A chunk is 4 positions of a channel, a position's channels, or one element.
  static constexpr int kWidth = kAccess == Access::kPositions  ? 4
                                : kAccess == Access::kChannels ? kOwned
                                                               : 1;
  static constexpr int kChunkPositions = kAccess == Access::kChannels ? 1 : kWidth;
  static constexpr int kChunks = kOwned * kHeld / kWidth;
  using Chunk = raw_t<S, kWidth>;

  __device__ static int slot_bytes() { return kChunks * blockDim.x * sizeof(Chunk); }

  // Calls f(chunk, element offset, exists) for every chunk of the thread. `position`: of the tile.
  template <class F>
  __device__ static __forceinline__ void for_chunks(const Geometry& g, const Place& place,
                                                    const Strides& s, Cursor cursor,
                                                    int64_t position, F&& f) {
    const int64_t channels = place.channel * s.c;
    if constexpr (kAccess == Access::kPositions) {
#pragma unroll
      for (int r = 0; r < kHeld; r += kWidth) {
        const int64_t offset = channels + cursor.offset(s);
        const bool inside = position + place.position(r) < g.positions;
#pragma unroll
        for (int c = 0; c < kOwned; ++c) {
          f(c * kHeld / kWidth + r / kWidth, offset + c * s.c, inside && c < place.owned);
        }
        if constexpr (kHeld > kWidth) cursor.move(g.lane_step, g.length);
      }
    } else if constexpr (kAccess == Access::kChannels) {
      // Samples are joined: a position is its place in the one row.
      const int64_t offset = channels + (position + place.position(0)) * s.l;
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
        const bool inside = position + place.position(r) < g.positions;
        f(r, offset + r * s.l, inside && place.owned == kOwned);
      }
    } else {
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
        const int64_t offset = channels + cursor.offset(s);
        const bool inside = position + place.position(r) < g.positions;
#pragma unroll
        for (int c = 0; c < kOwned; ++c) {
          f(c * kHeld + r, offset + c * s.c, inside && c < place.owned);
        }
        cursor.move(g.lane_step, g.length);
      }
    }
  }

  __device__ static __forceinline__ Chunk* chunk_at(unsigned char* slot, int chunk) {
    return reinterpret_cast<Chunk*>(slot) + chunk * blockDim.x + Place::slot(threadIdx.x);
  }

  __device__ static __forceinline__ void copy(const Geometry& g, const Place& place,
                                              const Tensor& tensor, const Cursor& cursor,
                                              int64_t position, unsigned char* slot) {
    const S* const data = static_cast<const S*>(tensor.data);
    for_chunks(g, place, tensor.strides, cursor, position,
               [&](int chunk, int64_t offset, bool exists) {
                 copy_async(chunk_at(slot, chunk), data + offset, exists);
               });
  }

  __device__ static __forceinline__ void read(unsigned char* slot, T (&x)[kOwned][kHeld]) {
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      T values[kWidth];
      unpack<S, kWidth>(*chunk_at(slot, chunk), values);
#pragma unroll
      for (int w = 0; w < kWidth; ++w) x[channel_of(chunk, w)][position_of(chunk, w)] = values[w];
    }
  }

  __device__ static __forceinline__ void write(const Geometry& g, const Place& place,
                                               const Tensor& tensor, const Cursor& cursor,
                                               int64_t position, const T (&y)[kOwned][kHeld]) {
    S* const data = static_cast<S*>(const_cast<void*>(tensor.data));
    for_chunks(g, place, tensor.strides, cursor, position,
               [&](int chunk, int64_t offset, bool exists) {
                 T values[kWidth];
#pragma unroll
                 for (int w = 0; w < kWidth; ++w) {
                   values[w] = y[channel_of(chunk, w)][position_of(chunk, w)];
                 }
                 // Read by another kernel if at all: keep the cache for x.
                 if (exists) {
                   __stcs(reinterpret_cast<Chunk*>(data + offset), pack<S, kWidth>(values));
                 }
               });
  }

 private:
  __device__ static constexpr int channel_of(int chunk, int w) {
    return kAccess == Access::kChannels ? w : chunk * kChunkPositions / kHeld;
  }
  __device__ static constexpr int position_of(int chunk, int w) {
    return kAccess == Access::kChannels ? chunk : chunk * kChunkPositions % kHeld + w;
  }
};

template <class S, int K, Access kAccess, class T = accumulation_t<S>>
using TileAccess = Tiles<S, kAccess, Thread<kAccess, kChannels<T, K>, kPositions<T, K, kAccess>>>;

}  // namespace mixnorm::cuda
