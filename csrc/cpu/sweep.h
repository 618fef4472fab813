// The loops that every operator shares: tiles of a chunk, and what one thread holds while it walks
// them.
#pragma once

#include <type_traits>
#include <vector>

#include "cpu/executor.h"
#include "cpu/statistics.h"
#include "cpu/tile_io.h"

namespace mixnorm::cpu {

template <class T>
const TileKernels<T>& kernels_for(const Plan& plan) {
  if constexpr (std::is_same_v<T, double>) {
    return *instruction_set().float64(plan.lanes, int(plan.components));
  } else {
    return *instruction_set().float32(plan.lanes, int(plan.components));
  }
}

// body(thread's state, chunk, tile index) over all tiles; make_state() once per range of chunks.
// `sums`, if any, are cleared chunk by chunk on the thread that will add to them.
template <class MakeState, class Body>
void for_tiles(const Plan& plan, Executor executor, Order order, ChunkSums* sums,
               MakeState&& make_state, Body&& body) {
  parallel_for(executor, plan.chunks, [&](int64_t begin, int64_t end) {
    auto state = make_state();
    for (int64_t i = begin; i < end; ++i) {
      const int64_t chunk = order == Order::kUp ? i : end - 1 - (i - begin);
      const int64_t first = plan.first_tile(chunk), last = plan.first_tile(chunk + 1);
      if (sums != nullptr) sums->clear(chunk);
      for (int64_t t = first; t < last; ++t) {
        body(state, chunk, order == Order::kUp ? t : last - 1 - (t - first));
      }
    }
  });
}

// Responsibilities (or the gradients of the logits) of one tile.
template <class T>
class TileWeights {
 public:
  explicit TileWeights(const Plan& plan)
      : pitch_(whole_lines<T>(plan.max_tile_positions)),
        data_(plan.components > 1 ? plan.components * pitch_ : 0) {}
  Weights<T> get() { return {data_.data(), pitch_}; }

 private:
  int64_t pitch_;
  AlignedVector<T> data_;
};

// Those of all positions, [K, positions], at a tile.
template <class T>
Weights<T> stored_weights(const Plan& plan, T* data, const TileRef& ref) {
  return {data + ref.position, plan.positions};
}

template <class T>
Weights<const T> constant(Weights<T> weights) {
  return {weights.data, weights.pitch};
}

// One sweep over x: responsibilities (into `stored` unless null) and the sums of nu x', nu x'^2.
template <class T>
void accumulate_moments(const Plan& plan, Executor executor, const Input& x,
                        const Posterior<T>& posterior, T* stored, ChunkSums& sums);

}  // namespace mixnorm::cpu
