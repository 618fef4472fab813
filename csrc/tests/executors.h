// Executors for tests: one thread, and several that finish in no particular order.
#pragma once

#include <algorithm>
#include <thread>
#include <vector>

#include "cpu/executor.h"

namespace mixnorm::tests {

inline void serial(int64_t count, cpu::Task task, void* context) {
  if (count > 0) task(context, 0, count);
}

template <int kThreads>
void threaded(int64_t count, cpu::Task task, void* context) {
  const int64_t share = (count + kThreads - 1) / kThreads;
  std::vector<std::thread> threads;
  for (int64_t begin = 0; begin < count; begin += share) {
    threads.emplace_back(task, context, begin, std::min(begin + share, count));
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace mixnorm::tests
