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
  return {&Kernels::responsibilities, &Kernels::accumulate,         &add_mass<T>,
          &Kernels::normalize,        &Kernels::posterior_gradient, &Kernels::input_gradient};
}

// Indexed by the component count; 0 takes any.
constexpr int kSpecialized = 8;
constexpr TileKernels<float> kPositions32[] = {
    table<float, PositionLanes<float, 0>>(), table<float, PositionLanes<float, 1>>(),
    table<float, PositionLanes<float, 2>>(), table<float, PositionLanes<float, 3>>(),
    table<float, PositionLanes<float, 4>>(), table<float, PositionLanes<float, 5>>(),
    table<float, PositionLanes<float, 6>>(), table<float, PositionLanes<float, 7>>(),
    table<float, PositionLanes<float, 8>>()};
constexpr TileKernels<float> kChannels32[] = {
    table<float, ChannelLanes<float, 0>>(), table<float, ChannelLanes<float, 1>>(),
    table<float, ChannelLanes<float, 2>>(), table<float, ChannelLanes<float, 3>>(),
    table<float, ChannelLanes<float, 4>>(), table<float, ChannelLanes<float, 5>>(),
    table<float, ChannelLanes<float, 6>>(), table<float, ChannelLanes<float, 7>>(),
    table<float, ChannelLanes<float, 8>>()};
constexpr TileKernels<double> kPositions64[] = {table<double, PositionLanes<double, 0>>(),
                                                table<double, PositionLanes<double, 1>>()};
constexpr TileKernels<double> kChannels64[] = {table<double, ChannelLanes<double, 0>>(),
                                               table<double, ChannelLanes<double, 1>>()};

const TileKernels<float>* kernels32(Lanes lanes, int components) {
  const int k = components <= kSpecialized ? components : 0;
  return (lanes == Lanes::kPositions ? kPositions32 : kChannels32) + k;
}

const TileKernels<double>* kernels64(Lanes lanes, int components) {
  return (lanes == Lanes::kPositions ? kPositions64 : kChannels64) + (components == 1 ? 1 : 0);
}

constexpr StagingKernels kStaging = {&widen_rows<BFloat16>, &narrow_rows<BFloat16>,
                                     &widen_rows<Float16>, &narrow_rows<Float16>};

}  // namespace
}  // namespace mixnorm::cpu
