// Execution contexts that are switched by hand, each on a stack of its own.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define MIXNORM_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MIXNORM_ADDRESS_SANITIZER 1
#endif
#endif

namespace mixnorm::emulation {

class Context {
 public:
  // The context of whoever switches from it.
  Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context();

  // From the next switch on it runs `entry`, which must not return, on its own stack.
  void start(void (*entry)());

  // Leaves `from` here, to be continued by a later switch to it, and continues `to`.
  static void change(Context& from, Context& to);

 private:
  static void begin();

  void* state_ = nullptr;  // the saved stack pointer, or a ucontext_t
  void (*entry_)() = nullptr;
  char* mapping_ = nullptr;
  // What AddressSanitizer must be told to follow a switch.
  const void* bottom_ = nullptr;
  size_t size_ = 0;
  void* fake_stack_ = nullptr;

  void arrive();
};

}  // namespace mixnorm::emulation
