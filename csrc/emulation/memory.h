// Loads and stores with cache hints, and atomics, by their CUDA names.
#pragma once

#include <cstdint>
#include <type_traits>

#include "emulation/scheduler.h"

namespace mixnorm::emulation {

// A GPU faults on any access that is not aligned to its size.
template <class T>
T* aligned(T* address) {
  if (reinterpret_cast<uintptr_t>(address) % alignof(T) != 0) {
    fault("misaligned access of " + std::to_string(sizeof(T)) + " bytes");
  }
  return address;
}

// Vectors of up to 16 bytes are read and written as a whole.
template <class T>
T load(const T* address) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  return *aligned(address);
}
template <class T>
void store(T* address, T value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  *aligned(address) = value;
}

// One thread runs at a time, so any read-modify-write is atomic; others may come between two.
template <class T, class Update>
T atomic(T* address, Update update) {
  maybe_preempt();
  const T old = *static_cast<volatile T*>(aligned(address));
  *static_cast<volatile T*>(address) = update(old);
  return old;
}

}  // namespace mixnorm::emulation

#define MIXNORM_LOAD(name)                    \
  template <class T>                          \
  inline T name(const T* address) {           \
    return mixnorm::emulation::load(address); \
  }
MIXNORM_LOAD(__ldg)
MIXNORM_LOAD(__ldca)
MIXNORM_LOAD(__ldcg)
MIXNORM_LOAD(__ldcs)
MIXNORM_LOAD(__ldlu)
MIXNORM_LOAD(__ldcv)
#undef MIXNORM_LOAD

#define MIXNORM_STORE(name)                                     \
  template <class T>                                            \
  inline void name(T* address, std::type_identity_t<T> value) { \
    mixnorm::emulation::store(address, value);                  \
  }
MIXNORM_STORE(__stwb)
MIXNORM_STORE(__stcg)
MIXNORM_STORE(__stcs)
MIXNORM_STORE(__stwt)
#undef MIXNORM_STORE

// Of integers alone: a sum of floats in no fixed order has no place in these kernels.
#define MIXNORM_ATOMIC(name, T, result)                                           \
  inline T name(T* address, T value) {                                            \
    return mixnorm::emulation::atomic(                                            \
        address, [=]([[maybe_unused]] T old) { return static_cast<T>(result); }); \
  }
#define MIXNORM_ATOMICS(T)                                                                   \
  MIXNORM_ATOMIC(atomicAdd, T, old + value)                                                  \
  MIXNORM_ATOMIC(atomicMax, T, old > value ? old : value)                                    \
  MIXNORM_ATOMIC(atomicMin, T, old < value ? old : value)                                    \
  MIXNORM_ATOMIC(atomicOr, T, old | value)                                                   \
  MIXNORM_ATOMIC(atomicAnd, T, old& value)                                                   \
  MIXNORM_ATOMIC(atomicExch, T, value)                                                       \
  inline T atomicCAS(T* address, T expected, T value) {                                      \
    return mixnorm::emulation::atomic(address,                                               \
                                      [=](T old) { return old == expected ? value : old; }); \
  }
MIXNORM_ATOMICS(int)
MIXNORM_ATOMICS(unsigned)
MIXNORM_ATOMICS(long long)
MIXNORM_ATOMICS(unsigned long long)
#undef MIXNORM_ATOMICS
#undef MIXNORM_ATOMIC

// Wraps to 0 past `limit`.
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return mixnorm::emulation::atomic(address,
                                    [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}
