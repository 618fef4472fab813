#include "cpu/tile_io.h"

#include <algorithm>

#include "cpu/scalar.h"

namespace mixnorm::cpu {
namespace {

// Rows of positions in a buffer start a cache line apart from a multiple of the line: tiles often
// have a power of two of positions, and then all their rows would fall on the same few cache sets.
int64_t row_pitch(int64_t positions) { return (positions + 15) / 16 * 16 + 16; }

int64_t buffer_size(const Plan& plan) {
  if (plan.staging == Plan::Staging::kNone) return 0;
  const int64_t positions = plan.max_tile_positions;
  return plan.channels * (plan.lanes == Lanes::kPositions ? row_pitch(positions) : positions);
}

// An output from this size on is streamed. A streamed store saves fetching the line that it
// overwrites, half of a copy's time once the output has to go to memory, but then whoever reads the
// output next fetches it from there: below some 16 MiB that loses more than it saves.
constexpr int64_t kStreamedBytes = int64_t{16} << 20;

// Rows of positions that do not end with a line share it with the next row, and such lines are not
// streamed. From this length on they are few.
constexpr int64_t kStreamedRowBytes = 8 * kLineBytes;

template <class T>
Stores stores_for(const Plan& plan, const Output& output, Strides strides) {
  const auto fills_lines = [](int64_t elements) { return elements == whole_lines<T>(elements); };
  const bool starts_line = reinterpret_cast<uintptr_t>(output.data) % kLineBytes == 0;
  const bool aligned =
      plan.lanes == Lanes::kPositions
          ? (starts_line && fills_lines(strides.n) && fills_lines(strides.c)) ||
                strides.c * int64_t{sizeof(T)} >= kStreamedRowBytes
          : starts_line && fills_lines(strides.l) && fills_lines(plan.group_channels);
  const bool large = plan.positions * plan.channels * int64_t{sizeof(T)} >= kStreamedBytes;
  return plan.staging == Plan::Staging::kNone && large && aligned ? kStreamed : kCached;
}

template <class T>
Tile<T> in_place(const Plan& plan, T* data, Strides strides) {
  return {data, plan.lanes == Lanes::kPositions ? strides.c : strides.l, strides.n};
}

template <class T>
Tile<T> in_buffer(const Plan& plan, T* buffer, const TileRef& ref) {
  return {buffer, plan.lanes == Lanes::kPositions ? row_pitch(ref.positions()) : plan.channels, 0};
}

// f(offset in the tensor, offset in the buffer, rows, length, rows' strides) for each block of
// contiguous rows of a tile.
template <class F>
void for_row_blocks(const Plan& plan, const TileRef& ref, Strides strides, F&& f) {
  if (plan.lanes == Lanes::kChannels) {
    f(int64_t{0}, int64_t{0}, ref.length, plan.channels, strides.l, plan.channels);
    return;
  }
  for (int64_t s = 0; s < ref.segments; ++s) {
    f(s * strides.n, s * ref.length, plan.channels, ref.length, strides.c,
      row_pitch(ref.positions()));
  }
}

// f(offset in the tensor, offset in the rows-of-positions buffer). Square blocks, because one side
// is walked against its layout: a block's cache lines stay in level 1 until all of each is used.
template <class F>
void for_elements(const Plan& plan, const TileRef& ref, Strides strides, F&& f) {
  constexpr int64_t kBlock = 16;
  const int64_t row = row_pitch(ref.positions());
  for (int64_t s = 0; s < ref.segments; ++s) {
    const int64_t from = s * strides.n, to = s * ref.length;
    for (int64_t l0 = 0; l0 < ref.length; l0 += kBlock) {
      const int64_t l1 = std::min(l0 + kBlock, ref.length);
      for (int64_t c0 = 0; c0 < plan.channels; c0 += kBlock) {
        const int64_t c1 = std::min(c0 + kBlock, plan.channels);
        for (int64_t c = c0; c < c1; ++c) {
          for (int64_t l = l0; l < l1; ++l) {
            f(from + l * strides.l + c * strides.c, to + c * row + l);
          }
        }
      }
    }
  }
}

}  // namespace

template <class T>
TileReader<T>::TileReader(const Plan& plan, const Input& input)
    : plan_(plan),
      input_(input),
      strides_(plan.flattened(strides_of(input))),
      buffer_(buffer_size(plan)) {}

template <class T>
Tile<const T> TileReader<T>::read(const TileRef& ref) {
  const int64_t offset = Plan::offset(ref, strides_);
  if (plan_.staging == Plan::Staging::kNone) {
    return in_place(plan_, static_cast<const T*>(input_.data) + offset, strides_);
  }
  T* buffer = buffer_.data();
  StoredTypes<T>::visit(input_.scalar, [&](auto stored) {
    using Stored = decltype(stored);
    const Stored* data = static_cast<const Stored*>(input_.data) + offset;
    if (plan_.staging == Plan::Staging::kGather) {
      for_elements(plan_, ref, strides_,
                   [&](int64_t from, int64_t to) { buffer[to] = widen(data[from]); });
    } else if constexpr (sizeof(Stored) == 2) {
      const StagingKernels& staging = instruction_set().staging;
      const auto rows =
          input_.scalar == Scalar::kHalf ? staging.widen_float16 : staging.widen_bfloat16;
      for_row_blocks(plan_, ref, strides_,
                     [&](int64_t from, int64_t to, int64_t count, int64_t length, int64_t from_row,
                         int64_t to_row) {
                       rows(&data[from].bits, from_row, buffer + to, to_row, count, length);
                     });
    }
  });
  return in_buffer<const T>(plan_, buffer, ref);
}

template <class T>
int64_t TileReader<T>::ahead(int64_t index, Order order) const {
  const int64_t next = order == Order::kUp ? index + 1 : index - 1;
  if (plan_.staging != Plan::Staging::kNone || next < 0 || next >= plan_.tiles) return 0;
  return Plan::offset(plan_.tile(next), strides_) - Plan::offset(plan_.tile(index), strides_);
}

template <class T>
TileWriter<T>::TileWriter(const Plan& plan, const Output& output, Scalar scalar)
    : plan_(plan),
      output_(output),
      scalar_(scalar),
      strides_(plan.flattened(strides_of(output))),
      stores_(stores_for<T>(plan, output, strides_)),
      buffer_(buffer_size(plan)) {}

template <class T>
Tile<T> TileWriter<T>::target(const TileRef& ref) {
  if (plan_.staging == Plan::Staging::kNone) {
    return in_place(plan_, static_cast<T*>(output_.data) + Plan::offset(ref, strides_), strides_);
  }
  return in_buffer(plan_, buffer_.data(), ref);
}

template <class T>
void TileWriter<T>::finish(const TileRef& ref) {
  if (plan_.staging == Plan::Staging::kNone) return;
  const T* buffer = buffer_.data();
  StoredTypes<T>::visit(scalar_, [&](auto stored) {
    using Stored = decltype(stored);
    Stored* data = static_cast<Stored*>(output_.data) + Plan::offset(ref, strides_);
    if (plan_.staging == Plan::Staging::kGather) {
      for_elements(plan_, ref, strides_,
                   [&](int64_t to, int64_t from) { narrow(buffer[from], data[to]); });
    } else if constexpr (sizeof(Stored) == 2) {
      const StagingKernels& staging = instruction_set().staging;
      const auto rows = scalar_ == Scalar::kHalf ? staging.narrow_float16 : staging.narrow_bfloat16;
      for_row_blocks(plan_, ref, strides_,
                     [&](int64_t to, int64_t from, int64_t count, int64_t length, int64_t to_row,
                         int64_t from_row) {
                       rows(buffer + from, from_row, &data[to].bits, to_row, count, length);
                     });
    }
  });
}

template class TileReader<float>;
template class TileReader<double>;
template class TileWriter<float>;
template class TileWriter<double>;

}  // namespace mixnorm::cpu
