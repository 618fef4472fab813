// Asynchronous copies into shared memory; how late they arrive is in emulation/async_copy.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>

#include "emulation/omission.h"
#include "emulation/scheduler.h"

inline void __pipeline_memcpy_async(void* shared, const void* global, size_t bytes,
                                    size_t zero_bytes = 0) {
  using namespace mixnorm::emulation;
  if (bytes != 4 && bytes != 8 && bytes != 16) {
    fault("an asynchronous copy of " + std::to_string(bytes) + " bytes, not of 4, 8 or 16");
  }
  if (zero_bytes > bytes) fault("an asynchronous copy with more zeros than bytes");
  if (reinterpret_cast<uintptr_t>(shared) % bytes || reinterpret_cast<uintptr_t>(global) % bytes) {
    fault("an asynchronous copy that is not aligned to its " + std::to_string(bytes) + " bytes");
  }
  if (!current->block->shared_memory.contains(shared, bytes)) {
    fault("an asynchronous copy to outside the block's shared memory");
  }
  current->copies.issue(shared, global, bytes, zero_bytes);
}

inline void __pipeline_commit() { mixnorm::emulation::current->copies.commit(); }

inline void __pipeline_wait_prior(size_t pending,
                                  std::source_location where = std::source_location::current()) {
  if (!mixnorm::emulation::omitted(where)) mixnorm::emulation::current->copies.wait(pending);
}
