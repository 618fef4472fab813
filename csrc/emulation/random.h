// The schedule's random numbers: the same seed gives the same schedule on every machine.
#pragma once

#include <bit>
#include <cstdint>

namespace mixnorm::emulation {

class Random {
 public:
  explicit Random(uint64_t seed = 0) : state_(seed) {}

  // SplitMix64.
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  uint64_t below(uint64_t bound) { return next() % bound; }

  // True once in 2^bits calls.
  bool rarely(int bits) { return next() >> (64 - bits) == 0; }

  // One set bit of a mask that has some: the first one from a random place on.
  unsigned bit_of(uint32_t mask) {
    const int start = static_cast<int>(next() >> 59);
    return (std::countr_zero(std::rotr(mask, start)) + start) % 32;
  }

 private:
  uint64_t state_;
};

}  // namespace mixnorm::emulation
