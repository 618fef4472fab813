// Argument checks whose messages name the argument, its value and what was expected.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

// A failed check is the caller's mistake: it becomes Python's ValueError.
#define MIXNORM_CHECK(condition, ...)                                                 \
  do {                                                                                \
    if (!(condition)) throw std::invalid_argument(message("mixnorm::", __VA_ARGS__)); \
  } while (false)

namespace mixnorm::ops {

template <class... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

inline std::string shape_of(const torch::stable::Tensor& tensor) {
  std::ostringstream out;
  out << '[';
  for (int64_t d = 0; d < tensor.dim(); ++d) out << (d ? ", " : "") << tensor.size(d);
  out << ']';
  return out.str();
}

}  // namespace mixnorm::ops
