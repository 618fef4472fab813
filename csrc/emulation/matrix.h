// A tensor core's product of two small matrices.
#pragma once

#include <cstdint>
#include <source_location>

namespace mixnorm::emulation {

// sum += a b for the 32 lanes' parts of 16 x 8 and 8 x 8 matrices, as mma.m16n8k8 with .tf32 deals
// them out, by all lanes of the warp together. Like a tensor core's, operands are cut to 11
// significant bits, and a sum's terms and the sum are cut off: the terms at 25 bits of the largest,
// the sum at 24.
void multiply_matrices(float (&sum)[4], const float (&a)[4], const float (&b)[2],
                       std::source_location where = std::source_location::current());

// For all of them at once; values: what each brought to the collective.
void multiply(uint32_t lanes, const uint64_t (&values)[32]);

}  // namespace mixnorm::emulation
