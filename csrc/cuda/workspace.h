// The caller's workspace, handed out piece by piece; without memory, only counted.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mixnorm::cuda {

class Workspace {
 public:
  explicit Workspace(void* start) : start_(static_cast<unsigned char*>(start)) {}

  template <class T>
  T* take(int64_t count) {
    T* const piece = start_ == nullptr ? nullptr : reinterpret_cast<T*>(start_ + used_);
    used_ += (count * sizeof(T) + 255) / 256 * 256;
    return piece;
  }

  size_t used() const { return used_; }

 private:
  unsigned char* start_;
  size_t used_ = 0;
};

// What every kernel of `components` compiled components keeps between its steps.
template <class T>
struct Buffers {
  unsigned int* barrier;
  T *table, *sums, *masses;

  Buffers(Workspace& workspace, int64_t rows, int64_t columns, int64_t chunks, int64_t groups,
          int64_t components)
      : barrier(workspace.take<unsigned int>(1)),
        table(workspace.take<T>(rows * columns)),
        sums(workspace.take<T>(chunks * 2 * components * columns)),
        masses(workspace.take<T>(chunks * groups * components)) {}
};

}  // namespace mixnorm::cuda
