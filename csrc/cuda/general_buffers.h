// What the general kernels keep between their launches.
#pragma once

#include "cuda/general.h"
#include "cuda/workspace.h"

namespace mixnorm::cuda {

template <class T>
struct GeneralBuffers {
  T *table, *sums, *masses;
  T* nu;      // [G, K, M]
  T* dlogit;  // likewise, for the backward alone

  GeneralBuffers(Workspace& workspace, const Geometry& g, Direction direction) {
    const int64_t weights = int64_t(g.groups) * g.components * g.positions;
    table = workspace.take<T>(int64_t(table_rows(kGeneralK)) * columns(g));
    sums = workspace.take<T>(int64_t(g.chunks) * 2 * kGeneralK * columns(g));
    masses = workspace.take<T>(int64_t(g.chunks) * g.groups * kGeneralK);
    nu = workspace.take<T>(weights);
    dlogit = direction == Direction::kBackward ? workspace.take<T>(weights) : nullptr;
  }
};

}  // namespace mixnorm::cuda
