// cp.async on a CPU: bytes that arrive as late as the kernel allows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mixnorm::emulation {

// The copies of one thread. What a copy will overwrite is poisoned when it is issued, and filled
// only by the wait that covers it; what is never waited for never arrives.
class AsyncCopies {
 public:
  void issue(void* destination, const void* source, size_t bytes, size_t zero_bytes);
  void commit() { batches_.push_back(copies_.size()); }
  // Completes all committed batches but the latest `pending`.
  void wait(size_t pending);
  void clear() {
    copies_.clear();
    batches_.clear();
  }

 private:
  struct Copy {
    void* destination;
    const void* source;
    uint32_t bytes;
    uint32_t zero_bytes;
  };
  std::vector<Copy> copies_;     // in flight, in the order of issue
  std::vector<size_t> batches_;  // where in copies_ each committed batch ends
};

}  // namespace mixnorm::emulation
