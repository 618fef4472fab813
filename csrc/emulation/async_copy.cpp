#include "emulation/async_copy.h"

#include <cstring>

#include "emulation/poison.h"

namespace mixnorm::emulation {

void AsyncCopies::issue(void* destination, const void* source, size_t bytes, size_t zero_bytes) {
  // A wrong address is met here, where the kernel's line is, and not at the wait.
  if (zero_bytes < bytes) {
    static_cast<void>(*static_cast<const volatile char*>(source));
    static_cast<void>(static_cast<const volatile char*>(source)[bytes - zero_bytes - 1]);
  }
  std::memset(destination, kPoison, bytes);
  copies_.push_back(
      {destination, source, static_cast<uint32_t>(bytes), static_cast<uint32_t>(zero_bytes)});
}

void AsyncCopies::wait(size_t pending) {
  if (batches_.size() <= pending) return;
  const size_t done = batches_.size() - pending, arrived = batches_[done - 1];
  for (size_t i = 0; i < arrived; ++i) {
    const Copy& copy = copies_[i];
    char* destination = static_cast<char*>(copy.destination);
    const size_t read = copy.bytes - copy.zero_bytes;
    std::memcpy(destination, copy.source, read);
    std::memset(destination + read, 0, copy.zero_bytes);
  }
  copies_.erase(copies_.begin(), copies_.begin() + static_cast<ptrdiff_t>(arrived));
  batches_.erase(batches_.begin(), batches_.begin() + static_cast<ptrdiff_t>(done));
  for (size_t& end : batches_) end -= arrived;
}

}  // namespace mixnorm::emulation
