// How a kernel gets its threads: the caller says, so that kernels know no thread pool.
#pragma once

#include <cstdint>

namespace mixnorm::cpu {

// Calls task(context, begin, end) on disjoint ranges that cover [0, count), on any threads and in
// any order, and returns when all are done.
using Task = void (*)(void* context, int64_t begin, int64_t end);
using Executor = void (*)(int64_t count, Task task, void* context);

template <class Body>
void parallel_for(Executor executor, int64_t count, Body&& body) {
  executor(
      count,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<Body*>(context))(begin, end); },
      &body);
}

}  // namespace mixnorm::cpu
