// Checks that survive NDEBUG: a failed one is printed and makes the program's exit status 1.
#pragma once

#include <cstdio>

namespace mixnorm::tests {

inline int failures = 0;

inline int report(const char* name) {
  std::printf("%s: %s\n", name, failures == 0 ? "passed" : "FAILED");
  return failures == 0 ? 0 : 1;
}

}  // namespace mixnorm::tests

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      ++mixnorm::tests::failures;                                                  \
    }                                                                              \
  } while (false)

// |actual - expected| <= tolerance, and neither is NaN.
#define CHECK_NEAR(actual, expected, tolerance)                                                    \
  do {                                                                                             \
    const double actual_ = (actual), expected_ = (expected), tolerance_ = (tolerance);             \
    const double error_ = actual_ > expected_ ? actual_ - expected_ : expected_ - actual_;         \
    if (!(error_ <= tolerance_)) {                                                                 \
      std::fprintf(stderr, "%s:%d: %s is %.17g, expected %.17g within %.3g\n", __FILE__, __LINE__, \
                   #actual, actual_, expected_, tolerance_);                                       \
      ++mixnorm::tests::failures;                                                                  \
    }                                                                                              \
  } while (false)
