// Arrays that start on a cache line: a vector load that crosses a line costs two.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#include "cpu/tile.h"

namespace mixnorm::cpu {

template <class T>
struct LineAllocator {
  using value_type = T;

  LineAllocator() = default;
  template <class U>
  LineAllocator(const LineAllocator<U>&) {}

  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{kLineBytes}));
  }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t{kLineBytes}); }
  bool operator==(const LineAllocator&) const { return true; }
};

template <class T>
using AlignedVector = std::vector<T, LineAllocator<T>>;

// The elements that fill the lines of `count` elements.
template <class T>
int64_t whole_lines(int64_t count) {
  constexpr int64_t kLine = kLineBytes / sizeof(T);
  return (count + kLine - 1) / kLine * kLine;
}

}  // namespace mixnorm::cpu
