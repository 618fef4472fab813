// The instruction sets that were compiled in.
#pragma once

#include "cpu/tile.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define MIXNORM_X86 1
#endif

namespace mixnorm::cpu {

extern const InstructionSet kPlain;
#if defined(MIXNORM_X86)
extern const InstructionSet kAvx2;
extern const InstructionSet kAvx512;
#endif

}  // namespace mixnorm::cpu
