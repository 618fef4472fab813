// The caller's workspace, handed out piece by piece; without memory, only counted.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/plan.h"

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

// What a kernel keeps between its steps.
template <class T>
struct Buffers {
  unsigned int* barrier;
  T *table, *sums, *masses;

  Buffers(Workspace& workspace, const Cut& cut) {
    const int64_t width = columns(cut.geometry), components = cut.allocated;
    barrier = workspace.take<unsigned int>(1);
    table = workspace.take<T>(table_rows(cut.allocated) * ((width + 3) / 4 * 4));
    sums = workspace.take<T>(cut.workspace_chunks * 2 * components * width);
    masses = workspace.take<T>(cut.workspace_chunks * cut.geometry.groups * components);
  }
};

// Of a problem that is supported; else 0.
inline size_t workspace_bytes(const Input& x, int64_t components, int64_t groups,
                              const DeviceLimits& limits) {
  Cut c = cut(x, {}, components, groups, limits);
  if (!c.supported) return 0;
  Cut matrix = cut(x, {}, components, groups, limits, {.matrix = true});
  share_workspace(c, matrix);
  Workspace workspace(nullptr);
  if (x.scalar == Scalar::kDouble) {
    Buffers<double>(workspace, c);
  } else {
    Buffers<float>(workspace, c);
  }
  return workspace.used();
}

}  // namespace mixnorm::cuda
