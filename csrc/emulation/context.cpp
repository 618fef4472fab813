#include "emulation/context.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#ifdef MIXNORM_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// MIXNORM_UCONTEXT may be asked for, to test on x86-64 what other processors run.
#if !defined(__ELF__) || !defined(__x86_64__)
#define MIXNORM_UCONTEXT 1
#endif
#ifdef MIXNORM_UCONTEXT
#include <ucontext.h>
#else
// Saves the callee-saved registers on the stack and the stack pointer to *saved, then takes both
// from `resumed`: some ten nanoseconds less than ucontext, which also changes the signal mask.
extern "C" void mixnorm_change_stack(void** saved, void* resumed);
asm(R"(
  .text
  .p2align 4
  .globl mixnorm_change_stack
  .hidden mixnorm_change_stack
  .type mixnorm_change_stack, @function
mixnorm_change_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size mixnorm_change_stack, . - mixnorm_change_stack
)");
#endif

namespace mixnorm::emulation {
namespace {

#ifdef MIXNORM_ADDRESS_SANITIZER
constexpr size_t kStackBytes = size_t{256} << 10;  // red zones between local variables
#else
constexpr size_t kStackBytes = size_t{64} << 10;
#endif

const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

// Below each stack lies a page that faults.
char* map_stack() {
  void* mapping = mmap(nullptr, kPage + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  if (mprotect(mapping, kPage, PROT_NONE) != 0) {
    munmap(mapping, kPage + kStackBytes);
    throw std::bad_alloc();
  }
  return static_cast<char*>(mapping);
}

// Stacks that began at the same offset in their pages would compete for the same cache lines.
size_t stagger() {
  static size_t count = 0;
  return ++count % 32 * 128;
}

Context* arriving = nullptr;
#ifdef MIXNORM_ADDRESS_SANITIZER
Context* previous = nullptr;
#endif

}  // namespace

Context::~Context() {
  if (mapping_) munmap(mapping_, kPage + kStackBytes);
#ifdef MIXNORM_UCONTEXT
  delete static_cast<ucontext_t*>(state_);
#endif
}

void Context::start(void (*entry)()) {
  if (!mapping_) {
    mapping_ = map_stack();
    bottom_ = mapping_ + kPage;
    size_ = kStackBytes - stagger();
  }
  entry_ = entry;
  fake_stack_ = nullptr;
#ifdef MIXNORM_ADDRESS_SANITIZER
  __asan_unpoison_memory_region(bottom_, size_);  // of what an abandoned run left
#endif
#ifdef MIXNORM_UCONTEXT
  auto* state = state_ ? static_cast<ucontext_t*>(state_) : new ucontext_t;
  state_ = state;
  getcontext(state);
  state->uc_stack.ss_sp = const_cast<void*>(bottom_);
  state->uc_stack.ss_size = size_;
  state->uc_link = nullptr;
  makecontext(state, &Context::begin, 0);
#else
  char* top = mapping_ + kPage + size_;
  // Six registers, the address that ret jumps to, and the return address a function expects above.
  constexpr size_t kFrame = 8 * sizeof(void*);
  constexpr size_t kReturn = 6;
  auto* frame = reinterpret_cast<void**>(top - kFrame);
  std::memset(frame, 0, kFrame);
  frame[kReturn] = reinterpret_cast<void*>(&Context::begin);
  state_ = frame;
#endif
}

void Context::begin() {
  Context* self = std::exchange(arriving, nullptr);
  self->arrive();
  self->entry_();
  __builtin_trap();
}

void Context::change(Context& from, Context& to) {
  arriving = &to;
#ifdef MIXNORM_ADDRESS_SANITIZER
  previous = &from;
  __sanitizer_start_switch_fiber(&from.fake_stack_, to.bottom_, to.size_);
#endif
#ifdef MIXNORM_UCONTEXT
  if (!from.state_) from.state_ = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(from.state_), static_cast<ucontext_t*>(to.state_));
#else
  mixnorm_change_stack(&from.state_, to.state_);
#endif
  from.arrive();
}

void Context::arrive() {
#ifdef MIXNORM_ADDRESS_SANITIZER
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &size);
  previous->bottom_ = bottom;
  previous->size_ = size;
#endif
}

}  // namespace mixnorm::emulation
