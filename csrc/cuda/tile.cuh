// A thread's part of a tile: from global memory to its own slots of shared memory, from there to
// registers, and results back. No two threads share a byte of a slot, so tiles need no barriers,
// and every access to shared memory is free of bank conflicts, whatever the layout.
#pragma once

#include "cuda/route.cuh"

namespace mixnorm::cuda {

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

  // Of one tensor: of the block, of a warp, whose slots of all tensors lie together, and of a part.
  __device__ static int slot_bytes() {
    return Place::kParts * kChunks * blockDim.x * sizeof(Chunk);
  }
  static constexpr int kPartBytes = kChunks * 32 * sizeof(Chunk);
  static constexpr int kWarpBytes = Place::kParts * kPartBytes;
  // The thread's first chunk in the block's slots of so many tensors.
  __device__ static int own_slot(const Place& place, int tensors) {
    return place.warp * tensors * kWarpBytes + Place::slot(place.lane) * sizeof(Chunk);
  }

  // `slot` is the thread's own from here on.
  __device__ static __forceinline__ Chunk* chunk_at(unsigned char* slot, int tensor, int chunk) {
    return reinterpret_cast<Chunk*>(slot + tensor * kWarpBytes) + chunk * 32;
  }

  template <int kTensors>
  using Route = cuda::Route<S, kAccess, Place, kTensors>;

  template <int kTensors>
  __device__ static __forceinline__ void copy(const Place& place, const Route<kTensors>& route,
                                              Spot<kTensors> here, int count, unsigned char* slot) {
#pragma unroll
    for (int part = 0; part < Place::kParts; ++part) {
      route.for_chunks(
          place, here, count, [&](int chunk, const int64_t (&bytes)[kTensors], bool exists) {
#pragma unroll
            for (int t = 0; t < kTensors; ++t) {
              copy_async(chunk_at(slot, t, chunk), reinterpret_cast<const void*>(bytes[t]), exists);
            }
          });
      slot += kPartBytes;
      count -= place.part_step();
    }
  }

  __device__ static __forceinline__ void read(unsigned char* slot, int tensor,
                                              T (&x)[kOwned][kHeld]) {
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      T values[kWidth];
      unpack<S, kWidth>(*chunk_at(slot, tensor, chunk), values);
#pragma unroll
      for (int w = 0; w < kWidth; ++w) x[channel_of(chunk, w)][position_of(chunk, w)] = values[w];
    }
  }

  // A thread's place in the tensor that a sweep writes, part by part.
  struct Output {
    const Place& place;
    const Route<1>& route;
    Spot<1> here;
    int count;

    __device__ __forceinline__ void write(const T (&y)[kOwned][kHeld]) {
      route.for_chunks(place, here, count, [&](int chunk, const int64_t (&bytes)[1], bool exists) {
        T values[kWidth];
#pragma unroll
        for (int w = 0; w < kWidth; ++w) values[w] = y[channel_of(chunk, w)][position_of(chunk, w)];
        // Read by another kernel if at all: keep the cache for x.
        if (exists) __stcs(reinterpret_cast<Chunk*>(bytes[0]), pack<S, kWidth>(values));
      });
    }
  };

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
