#include "emulation/shared_memory.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "emulation/context.h"
#include "emulation/poison.h"

#ifdef MIXNORM_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

namespace mixnorm::emulation {
namespace {

constexpr size_t kAlignment = 1024;
constexpr size_t kRedZone = 1024;
constexpr unsigned char kUntouched = 0xA5;

}  // namespace

void SharedMemory::reset(size_t bytes) {
  if (!data_ || bytes > capacity_) {
    capacity_ = bytes;
    allocation_ = std::make_unique<unsigned char[]>(bytes + kRedZone + kAlignment);
    const auto address = reinterpret_cast<uintptr_t>(allocation_.get());
    data_ = allocation_.get() + (kAlignment - address % kAlignment) % kAlignment;
  }
  bytes_ = bytes;
#ifdef MIXNORM_ADDRESS_SANITIZER
  __asan_unpoison_memory_region(data_, capacity_ + kRedZone);
  std::memset(data_, kPoison, bytes);
  __asan_poison_memory_region(data_ + bytes, capacity_ - bytes + kRedZone);
#else
  std::memset(data_, kPoison, bytes);
  std::memset(data_ + bytes, kUntouched, kRedZone);
#endif
}

bool SharedMemory::contains(const void* address, size_t bytes) const {
  const auto begin = reinterpret_cast<uintptr_t>(data_);
  const auto at = reinterpret_cast<uintptr_t>(address);
  return at >= begin && at + bytes <= begin + bytes_;
}

bool SharedMemory::intact() const {
#ifdef MIXNORM_ADDRESS_SANITIZER
  return true;
#else
  return std::all_of(data_ + bytes_, data_ + bytes_ + kRedZone,
                     [](unsigned char byte) { return byte == kUntouched; });
#endif
}

}  // namespace mixnorm::emulation
