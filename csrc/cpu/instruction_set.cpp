#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "cpu/isa_tables.h"

namespace mixnorm::cpu {

const InstructionSet* find_instruction_set(const char* name) {
#if defined(MIXNORM_X86)
  if (std::strcmp(name, kAvx512.name) == 0) {
    const bool supported = __builtin_cpu_supports("avx512f") &&
                           __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return supported ? &kAvx512 : nullptr;
  }
  if (std::strcmp(name, kAvx2.name) == 0) {
    // Every processor with AVX2 has F16C.
    const bool supported = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return supported ? &kAvx2 : nullptr;
  }
#endif
  return std::strcmp(name, kPlain.name) == 0 ? &kPlain : nullptr;
}

namespace {

const InstructionSet* choose() {
  if (const char* wanted = std::getenv("MIXNORM_CPU_CAPABILITY")) {
    if (const InstructionSet* found = find_instruction_set(wanted)) return found;
  }
  for (const char* name : {"avx512", "avx2"}) {
    if (const InstructionSet* found = find_instruction_set(name)) return found;
  }
  return &kPlain;
}

}  // namespace

const InstructionSet& instruction_set() {
  static const InstructionSet* const chosen = choose();
  return *chosen;
}

}  // namespace mixnorm::cpu
