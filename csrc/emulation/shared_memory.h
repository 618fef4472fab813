// The dynamic shared memory of one block.
#pragma once

#include <cstddef>
#include <memory>

namespace mixnorm::emulation {

class SharedMemory {
 public:
  // Poisoned memory of that size; what lies behind it is out of bounds.
  void reset(size_t bytes);
  unsigned char* data() const { return data_; }
  bool contains(const void* address, size_t bytes) const;
  // Whether nothing was written behind it, where AddressSanitizer does not watch that.
  bool intact() const;

 private:
  std::unique_ptr<unsigned char[]> allocation_;
  unsigned char* data_ = nullptr;
  size_t capacity_ = 0, bytes_ = 0;
};

}  // namespace mixnorm::emulation
