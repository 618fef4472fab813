// From a tensor to tiles of the accumulation type and back: in place where strides and type allow,
// else through a buffer of one tile. One reader or writer serves one thread.
#pragma once

#include <cstdint>

#include "cpu/aligned.h"
#include "cpu/plan.h"
#include "cpu/tile.h"

namespace mixnorm::cpu {

template <class T>
class TileReader {
 public:
  TileReader(const Plan& plan, const Input& input);

  Tile<const T> read(const TileRef& ref);

  // Elements from the tile at `index` to the one that `order` reaches next, for prefetching; 0 if
  // there is none.
  int64_t ahead(int64_t index, Order order) const;

 private:
  const Plan& plan_;
  Input input_;
  Strides strides_;
  AlignedVector<T> buffer_;
};

template <class T>
class TileWriter {
 public:
  TileWriter(const Plan& plan, const Output& output, Scalar scalar);

  // Where to compute the tile, and with what kind of stores; finish() brings it to the tensor.
  Tile<T> target(const TileRef& ref);
  Stores stores() const { return stores_; }
  void finish(const TileRef& ref);

 private:
  const Plan& plan_;
  Output output_;
  Scalar scalar_;
  Strides strides_;
  Stores stores_;
  AlignedVector<T> buffer_;
};

// How the last kernel of a tile stores its output, and how far ahead of x that output is for an
// earlier kernel to fetch: spread over both, the fetching hides behind more arithmetic.
struct Destination {
  Stores stores;
  int64_t ahead;
};
template <class T>
Destination destination(Tile<const T> x, Tile<T> y, Stores stores, bool earlier_kernel) {
  const bool alike = x.row == y.row && x.segment == y.segment;
  if (!earlier_kernel || !alike || stores != kCached) return {stores, 0};
  const auto bytes = reinterpret_cast<intptr_t>(y.data) - reinterpret_cast<intptr_t>(x.data);
  return {kFetched, bytes / int64_t{sizeof(T)}};
}

// Group g of a tile.
template <class T>
Tile<T> group_of(const Plan& plan, Tile<T> tile, int64_t g) {
  tile.data += g * plan.group_channels * (plan.lanes == Lanes::kPositions ? tile.row : 1);
  return tile;
}

inline TileShape group_shape(const Plan& plan, const TileRef& ref) {
  if (plan.staging != Plan::Staging::kNone) return {plan.group_channels, 1, ref.positions()};
  return {plan.group_channels, ref.segments, ref.length};
}

}  // namespace mixnorm::cpu
