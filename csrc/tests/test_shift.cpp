// The centre of a mixture: what it is near, and that nothing far away or not finite moves it.
#include <cmath>
#include <limits>
#include <vector>

#include "device/shift.h"
#include "tests/check.h"

namespace {

constexpr double kEps = 1e-5;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Component {
  double mass, mean, var;
};

double centre(const std::vector<Component>& mixture) {
  return mixnorm::device::mixture_centre(
      int(mixture.size()), kEps, [&](int k) { return mixture[k].mass; },
      [&](int k) { return mixture[k].mean; }, [&](int k) { return mixture[k].var; });
}

void check_means() {
  CHECK(centre({{7, 3.25, 2}}) == 3.25);
  CHECK(centre({{0, 3.25, 2}}) == 3.25);
  CHECK_NEAR(centre({{1, 0, 1}, {1, 2, 1}}), 1, 1e-12);
  CHECK_NEAR(centre({{1, 0, 1}, {3, 2, 1}}), 1.5, 1e-12);
  // Of 1 and 100 times the precision.
  CHECK_NEAR(centre({{1, 0, 1 - kEps}, {1, 2, 0.01 - kEps}, {2, 0, 1 - kEps}}), 200.0 / 103, 1e-9);
}

// The heaviest is at 0 with deviation 1: others count as at most 4 away.
void check_far_components() {
  const double near = centre({{2, 0, 1 - kEps}, {1, 4, 1 - kEps}});
  CHECK_NEAR(near, 4.0 / 3, 1e-12);
  for (const double far : {5.0, 1e3, 1e200}) {
    CHECK_NEAR(centre({{2, 0, 1 - kEps}, {1, far, 1 - kEps}}), near, 1e-12);
    CHECK_NEAR(centre({{1, -far, 1 - kEps}, {2, 0, 1 - kEps}}), -near, 1e-12);
  }
}

void check_what_is_not_finite() {
  CHECK(centre({{1, 5, 1}, {9, kNaN, 1}, {9, kInfinity, 1}}) == 5);
  CHECK(centre({{1, kNaN, 1}}) == 0);
  CHECK(std::isfinite(centre({{kNaN, 5, 1}, {1, 6, 1}})));
  CHECK(std::isfinite(centre({{1, 5, kNaN}, {1, 6, 1}})));
}

}  // namespace

int main() {
  check_means();
  check_far_components();
  check_what_is_not_finite();
  return mixnorm::tests::report("test_shift");
}
