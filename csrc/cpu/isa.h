// The tables of one instruction set. Included once by each isa_*.cpp after its target is switched
// on.
#pragma once

#include "cpu/staging.h"
#include "cpu/tile_channels.h"
#include "cpu/tile_positions.h"

namespace mixnorm::cpu {
namespace {

template <class T>
void add_mass(Weights<const T> w, int64_t positions, int components, double* mass) {
  for (int k = 0; k < components; ++k) {
    Vec<T> lanes[kLanes<T>] = {};
    for_vectors<T>(positions, [&](int64_t t, auto part) MIXNORM_INLINE_LAMBDA {
      lanes[0] += load(w.data + k * w.pitch + t, part);
    });
    double sums[kLanes<T>] = {};
    add_to<T>(sums, lanes[0], Full{});
    for (double sum : sums) mass[k] += sum;
  }
}

template <class T, class Kernels>
constexpr TileKernels<T> table() {
  return {&Kernels::responsibilities,
          &Kernels::accumulate,
          &add_mass<T>,
          {&Kernels::template normalize<CachedStores>, &Kernels::template normalize<FetchedStores>,
           &Kernels::template normalize<StreamedStores>},
          &Kernels::posterior_gradient,
          {&Kernels::template input_gradient<CachedStores>,
           &Kernels::template input_gradient<FetchedStores>,
           &Kernels::template input_gradient<StreamedStores>}};
}

// Components up to here have kernels of their own; index 0 is the kernel that takes any number.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kSpecialized = 3;  // instrumenting inlined vector code takes a compiler minutes
#else
constexpr int kSpecialized = 8;
#endif

template <class T, template <class, int> class Kernels, int N>
struct Tables {
  TileKernels<T> by_components[N];

  template <int... K>
  static constexpr Tables make(Indices<K...>) {
    return {{table<T, Kernels<T, K>>()...}};
  }
  static constexpr Tables make() { return make(typename MakeIndices<N>::type{}); }
  const TileKernels<T>* find(int components) const {
    return by_components + (components < N ? components : 0);
  }
};

constexpr auto kPositions32 = Tables<float, PositionLanes, kSpecialized + 1>::make();
constexpr auto kChannels32 = Tables<float, ChannelLanes, kSpecialized + 1>::make();
constexpr auto kPositions64 = Tables<double, PositionLanes, 2>::make();
constexpr auto kChannels64 = Tables<double, ChannelLanes, 2>::make();

const TileKernels<float>* kernels32(Lanes lanes, int components) {
  return lanes == Lanes::kPositions ? kPositions32.find(components) : kChannels32.find(components);
}

const TileKernels<double>* kernels64(Lanes lanes, int components) {
  return lanes == Lanes::kPositions ? kPositions64.find(components) : kChannels64.find(components);
}

constexpr StagingKernels kStaging = {&widen_rows<BFloat16>, &narrow_rows<BFloat16>,
                                     &widen_rows<Float16>, &narrow_rows<Float16>};

}  // namespace
}  // namespace mixnorm::cpu
