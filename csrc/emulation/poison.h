// What memory holds before a kernel has written it.
#pragma once

namespace mixnorm::emulation {

constexpr int kPoison = 0xFF;  // every float of such bytes is NaN, every index far out of range

}  // namespace mixnorm::emulation
