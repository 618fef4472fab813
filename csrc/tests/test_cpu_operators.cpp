// The fused CPU operators against the formulas of docs/method.md, sections 1 and 2, written out in
// double, over every instruction set of this processor. Outputs start as NaN: all of them must be
// written.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu/backward.h"
#include "cpu/evaluate.h"
#include "cpu/forward.h"
#include "cpu/normalize.h"
#include "cpu/tile.h"
#include "tests/check.h"
#include "tests/executors.h"

namespace {

using namespace mixnorm::cpu;

constexpr double kEps = 1e-5;

struct Shape {
  int64_t batch, channels, length, components, groups;
  bool channels_last;
};

struct Results {
  std::vector<double> y, mass, mean, var, dx, dweight, dbias, dmean, eval_y, eval_dx;
  std::vector<double> parts_y, parts_dx;  // of the passes in parts
};

struct Problem {
  Shape s;
  std::vector<double> x, dy;  // [N, C, L]
  std::vector<double> mixing_weight, mean, var, weight, bias;

  Problem(const Shape& shape, unsigned seed) : s(shape) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    // Rounded to float, so that float kernels and the double formulas see the same numbers.
    const auto draw = [&](int64_t count, double scale, double offset) {
      std::vector<double> values(count);
      for (double& value : values) value = float(offset + scale * normal(generator));
      return values;
    };
    const int64_t kc = s.components * s.channels;
    x = draw(s.batch * s.channels * s.length, 2, 0);
    dy = draw(s.batch * s.channels * s.length, 1, 0);
    mixing_weight.assign(s.groups * s.components, float(1.0 / s.components));
    mean = draw(kc, 1, 0);
    var = draw(kc, 1, 0);
    for (double& value : var) value = float(2 + value * value);
    weight = draw(kc, 1, 0);
    bias = draw(kc, 1, 0);
  }

  int64_t at(int64_t n, int64_t c, int64_t l) const { return (n * s.channels + c) * s.length + l; }
};

// Position i = (n, l); nu[k] of group g.
std::vector<double> posterior(const Problem& p, int64_t g, int64_t n, int64_t l) {
  const auto& s = p.s;
  const int64_t depth = s.channels / s.groups;
  std::vector<double> nu(s.components);
  double top = -std::numeric_limits<double>::infinity(), total = 0;
  for (int64_t k = 0; k < s.components; ++k) {
    double logit = std::log(p.mixing_weight[g * s.components + k]);
    for (int64_t c = g * depth; c < (g + 1) * depth; ++c) {
      const double variance = p.var[k * s.channels + c] + kEps;
      const double u = p.x[p.at(n, c, l)] - p.mean[k * s.channels + c];
      logit -= 0.5 * (u * u / variance + std::log(variance));
    }
    nu[k] = logit;
    top = std::fmax(top, logit);
  }
  for (double& value : nu) total += value = std::exp(value - top);
  for (double& value : nu) value /= total;
  return nu;
}

// y and dx with the statistics m, q given; `mass` null where they are constants.
void normalize(const Problem& p, const std::vector<double>& m, const std::vector<double>& q,
               const std::vector<double>* mass, std::vector<double>& y, std::vector<double>& dx,
               Results* sums) {
  const auto& s = p.s;
  const int64_t depth = s.channels / s.groups, kc = s.components * s.channels;
  y.assign(p.x.size(), 0);
  dx.assign(p.x.size(), 0);
  std::vector<double> h1(kc), h2(kc), alpha(kc), r(kc), il(kc), l1(kc);
  const auto positions = [&](auto&& body) {
    for (int64_t g = 0; g < s.groups; ++g) {
      for (int64_t n = 0; n < s.batch; ++n) {
        for (int64_t l = 0; l < s.length; ++l) body(g, n, l, posterior(p, g, n, l));
      }
    }
  };
  for (int64_t i = 0; i < kc; ++i) {
    const int64_t k = i / s.channels, g = i % s.channels / depth;
    r[i] = 1 / std::sqrt(q[i] + kEps);
    il[i] = 1 / std::sqrt(p.mixing_weight[g * s.components + k]);
    alpha[i] = p.weight[i] * r[i] * il[i];
  }
  positions([&](int64_t g, int64_t n, int64_t l, const std::vector<double>& nu) {
    for (int64_t k = 0; k < s.components; ++k) {
      for (int64_t c = g * depth; c < (g + 1) * depth; ++c) {
        const int64_t i = k * s.channels + c, at = p.at(n, c, l);
        const double u = p.x[at] - m[i];
        y[at] += nu[k] * (alpha[i] * u + p.bias[i]);
        h1[i] += nu[k] * p.dy[at];
        h2[i] += nu[k] * p.dy[at] * u;
      }
    }
  });
  positions([&](int64_t g, int64_t n, int64_t l, const std::vector<double>& nu) {
    std::vector<double> dnu(s.components);
    double average = 0;
    for (int64_t k = 0; k < s.components; ++k) {
      for (int64_t c = g * depth; c < (g + 1) * depth; ++c) {
        const int64_t i = k * s.channels + c, at = p.at(n, c, l);
        const double u = p.x[at] - m[i];
        double slope = alpha[i] * p.dy[at];
        dnu[k] += p.dy[at] * (alpha[i] * u + p.bias[i]);
        if (mass) {
          const double inverse = 1 / (*mass)[g * s.components + k];
          const double b = -0.5 * alpha[i] * r[i] * r[i] * h2[i] * inverse;
          slope += 2 * b * u - alpha[i] * h1[i] * inverse;
          dnu[k] += b * (u * u - q[i]) - alpha[i] * h1[i] * inverse * u;
        }
        dx[at] += nu[k] * slope;
      }
      average += nu[k] * dnu[k];
    }
    for (int64_t k = 0; k < s.components; ++k) {
      for (int64_t c = g * depth; c < (g + 1) * depth; ++c) {
        const int64_t i = k * s.channels + c, at = p.at(n, c, l);
        const double pull = nu[k] * (dnu[k] - average) * (p.x[at] - p.mean[i]) / (p.var[i] + kEps);
        dx[at] -= pull;
        l1[i] += pull;
      }
    }
  });
  if (!sums) return;
  sums->dbias = h1;
  sums->dmean = l1;
  sums->dweight.resize(kc);
  for (int64_t i = 0; i < kc; ++i) sums->dweight[i] = il[i] * r[i] * h2[i];
}

Results expected(const Problem& p) {
  const auto& s = p.s;
  const int64_t depth = s.channels / s.groups, kc = s.components * s.channels;
  Results e;
  e.mass.assign(s.groups * s.components, 0);
  e.mean.assign(kc, 0);
  e.var.assign(kc, 0);
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t n = 0; n < s.batch; ++n) {
      for (int64_t l = 0; l < s.length; ++l) {
        for (int64_t g = 0; g < s.groups; ++g) {
          const std::vector<double> nu = posterior(p, g, n, l);
          for (int64_t k = 0; k < s.components; ++k) {
            if (pass == 0) e.mass[g * s.components + k] += nu[k];
            for (int64_t c = g * depth; c < (g + 1) * depth; ++c) {
              const int64_t i = k * s.channels + c;
              const double v = p.x[p.at(n, c, l)], u = v - e.mean[i];
              (pass == 0 ? e.mean : e.var)[i] += nu[k] * (pass == 0 ? v : u * u);
            }
          }
        }
      }
    }
    for (int64_t i = 0; i < kc; ++i) {
      const int64_t k = i / s.channels, g = i % s.channels / depth;
      (pass == 0 ? e.mean : e.var)[i] /= e.mass[g * s.components + k];
    }
  }
  normalize(p, e.mean, e.var, &e.mass, e.y, e.dx, &e);
  normalize(p, p.mean, p.var, nullptr, e.eval_y, e.eval_dx, nullptr);
  return e;
}

// Every buffer is exactly as long as it must be, so that a sanitizer sees one step too far.
template <class T>
Results computed(const Problem& p, Executor executor) {
  const auto& s = p.s;
  const auto narrow = [](const std::vector<double>& v) {
    return std::vector<T>(v.begin(), v.end());
  };
  const auto poisoned = [](int64_t count) {
    return std::vector<T>(count, std::numeric_limits<T>::quiet_NaN());
  };
  const auto place = [&](int64_t i) {
    const int64_t l = i % s.length, c = i / s.length % s.channels, n = i / s.length / s.channels;
    return s.channels_last ? (n * s.length + l) * s.channels + c : i;
  };
  const auto laid_out = [&](const std::vector<double>& v) {
    std::vector<T> out(v.size());
    for (size_t i = 0; i < v.size(); ++i) out[place(i)] = T(v[i]);
    return out;
  };
  const auto restored = [&](const std::vector<T>& v) {
    std::vector<double> out(v.size());
    for (size_t i = 0; i < v.size(); ++i) out[i] = v[place(i)];
    return out;
  };
  const auto wide = [](const std::vector<T>& v) { return std::vector<double>(v.begin(), v.end()); };

  const int64_t kc = s.components * s.channels, gk = s.groups * s.components;
  const std::vector<T> x = laid_out(p.x), dy = laid_out(p.dy);
  const std::vector<T> lambda = narrow(p.mixing_weight), mu = narrow(p.mean), var = narrow(p.var);
  const std::vector<T> weight = narrow(p.weight), bias = narrow(p.bias);
  const int64_t stride_c = s.channels_last ? 1 : s.length,
                stride_l = s.channels_last ? s.channels : 1;
  const Scalar scalar = sizeof(T) == 8 ? Scalar::kDouble : Scalar::kFloat;
  const auto input = [&](const std::vector<T>& v) {
    return Input{v.data(), scalar,  s.batch, s.channels, s.length, s.channels * s.length,
                 stride_c, stride_l};
  };
  const auto output = [&](std::vector<T>& v) {
    return Output{v.data(), s.channels * s.length, stride_c, stride_l};
  };
  const Mixture<const T> mixture{lambda.data(), mu.data(), var.data()};
  const Affine<T> affine{weight.data(), s.channels, bias.data(), s.channels};

  std::vector<T> y = poisoned(x.size()), mass = poisoned(gk), mean = poisoned(kc), q = poisoned(kc);
  std::vector<T> final_lambda = poisoned(gk), final_mu = poisoned(kc), final_var = poisoned(kc);
  std::vector<T> nu = poisoned(
      keeps_responsibilities(s.components, s.groups) ? s.components * s.batch * s.length : 0);
  forward(input(x),
          ForwardArguments<T>{s.components,
                              s.groups,
                              mixture,
                              affine,
                              kEps,
                              0,
                              true,
                              output(y),
                              {mass.data(), mean.data(), q.data()},
                              nu.data(),
                              {final_lambda.data(), final_mu.data(), final_var.data()}},
          executor);
  CHECK(final_lambda == lambda && final_mu == mu && final_var == var);

  std::vector<T> dx = poisoned(x.size()), dweight = poisoned(kc), dbias = poisoned(kc);
  std::vector<T> dlambda = poisoned(gk), dmu = poisoned(kc), dvar = poisoned(kc);
  backward(input(dy), input(x),
           BackwardArguments<T>{s.components,
                                s.groups,
                                nu.data(),
                                {mass.data(), mean.data(), q.data()},
                                mixture,
                                affine,
                                kEps,
                                true,
                                true,
                                output(dx),
                                dweight.data(),
                                dbias.data(),
                                {dlambda.data(), dmu.data(), dvar.data()}},
           executor);
  for (T value : dlambda) CHECK(std::isfinite(value));
  for (T value : dvar) CHECK(std::isfinite(value));

  std::vector<T> parts_y = poisoned(x.size()), parts_dx = poisoned(x.size());
  std::vector<T> h1 = poisoned(kc), h2 = poisoned(kc);
  std::vector<T> parts_dweight = poisoned(kc), parts_dbias = poisoned(kc);
  const BatchMoments<const T> moments{mass.data(), mean.data(), q.data()};
  normalize(input(x),
            NormalizeArguments<T>{s.components, s.groups, mixture, moments, affine, kEps, true,
                                  output(parts_y)},
            executor);
  backward_sums(input(dy), input(x),
                BackwardSumsArguments<T>{s.components, s.groups, moments, mixture, kEps, h1.data(),
                                         h2.data()},
                executor);
  backward_apply(input(dy), input(x), h1.data(), h2.data(),
                 BackwardArguments<T>{s.components,
                                      s.groups,
                                      nullptr,
                                      moments,
                                      mixture,
                                      affine,
                                      kEps,
                                      true,
                                      true,
                                      output(parts_dx),
                                      parts_dweight.data(),
                                      parts_dbias.data(),
                                      {}},
                 executor);
  for (T value : parts_dweight) CHECK(std::isfinite(value));
  for (T value : parts_dbias) CHECK(std::isfinite(value));

  std::vector<T> eval_y = poisoned(x.size()), eval_dx = poisoned(x.size());
  std::vector<T> eval_dweight = poisoned(kc), eval_dbias = poisoned(kc);
  evaluate(
      input(x),
      EvaluateArguments<T>{s.components, s.groups, mixture, affine, kEps, true, output(eval_y)},
      executor);
  evaluate_backward(
      input(dy), input(x),
      EvaluateBackwardArguments<T>{s.components, s.groups, mixture, affine, kEps, true, true,
                                   output(eval_dx), eval_dweight.data(), eval_dbias.data()},
      executor);
  for (T value : eval_dweight) CHECK(std::isfinite(value));
  return {restored(y),      wide(mass),        wide(mean),        wide(q),
          restored(dx),     wide(dweight),     wide(dbias),       wide(dmu),
          restored(eval_y), restored(eval_dx), restored(parts_y), restored(parts_dx)};
}

void check_close(const char* name, const std::vector<double>& found,
                 const std::vector<double>& wanted, double tolerance) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    error += (found[i] - wanted[i]) * (found[i] - wanted[i]);
    norm += wanted[i] * wanted[i];
  }
  if (!(std::sqrt(error) <= tolerance * std::sqrt(norm) + 1e-12)) {
    std::fprintf(stderr, "%s: relative error %.2e, allowed %.2e\n", name, std::sqrt(error / norm),
                 tolerance);
    ++mixnorm::tests::failures;
  }
}

template <class T>
void check(const Shape& shape) {
  const Problem problem(shape, 7);
  const Results wanted = expected(problem);
  const Results found = computed<T>(problem, mixnorm::tests::serial);
  const int before = mixnorm::tests::failures;
  // Twice the promises: some of these shapes have a few dozen positions.
  const double output = sizeof(T) == 8 ? 1e-11 : 2e-6, gradient = sizeof(T) == 8 ? 1e-9 : 2e-5;
  check_close("y", found.y, wanted.y, output);
  check_close("mass", found.mass, wanted.mass, output);
  check_close("mean", found.mean, wanted.mean, 2 * output);
  check_close("var", found.var, wanted.var, 2 * output);
  check_close("dx", found.dx, wanted.dx, gradient);
  check_close("dweight", found.dweight, wanted.dweight, gradient);
  check_close("dbias", found.dbias, wanted.dbias, gradient);
  check_close("dmean", found.dmean, wanted.dmean, gradient);
  check_close("eval y", found.eval_y, wanted.eval_y, output);
  check_close("eval dx", found.eval_dx, wanted.eval_dx, gradient);

  check_close("y in parts", found.parts_y, wanted.y, output);
  check_close("dx in parts", found.parts_dx, wanted.dx, gradient);

  const Results threads = computed<T>(problem, mixnorm::tests::threaded<3>);
  CHECK(threads.y == found.y && threads.dx == found.dx && threads.mean == found.mean);
  CHECK(threads.var == found.var && threads.dweight == found.dweight);
  CHECK(threads.eval_y == found.eval_y && threads.eval_dx == found.eval_dx);
  CHECK(threads.parts_y == found.parts_y && threads.parts_dx == found.parts_dx);
  if (mixnorm::tests::failures != before) {
    std::fprintf(stderr, "^ N %d, C %d, L %d, K %d, G %d, channels %s, %s\n", int(shape.batch),
                 int(shape.channels), int(shape.length), int(shape.components), int(shape.groups),
                 shape.channels_last ? "last" : "first", sizeof(T) == 8 ? "double" : "float");
  }
}

int run() {
  for (bool channels_last : {false, true}) {
    for (int64_t components : {1, 2, 3, 5, 8, 11, 16}) {
      check<float>({3, 17, 81, components, 1, channels_last});
      check<float>({70, 24, 3, components, 1, channels_last});
    }
    for (int64_t groups : {2, 6, 24}) check<float>({5, 24, 49, 3, groups, channels_last});
    check<float>({63, 16, 1, 3, 1, channels_last});
    check<float>({1, 3, 4097, 3, 1, channels_last});
    check<float>({2, 1, 63, 2, 1, channels_last});
    check<float>({9, 40, 200, 3, 1, channels_last});
    for (int64_t components : {1, 3}) check<double>({3, 17, 81, components, 1, channels_last});
    check<double>({5, 24, 49, 3, 24, channels_last});
  }
  return mixnorm::tests::report(instruction_set().name);
}

}  // namespace

// The instruction set is chosen once a process, so each gets its own.
int main(int, char** argv) {
  if (std::getenv("MIXNORM_CPU_CAPABILITY")) return run();
  int status = 0;
  for (const char* name : {"plain", "avx2", "avx512"}) {
    if (!find_instruction_set(name)) {
      std::printf("%s: skipped, not supported by this processor or build\n", name);
      continue;
    }
    std::fflush(stdout);
    status |= std::system(("MIXNORM_CPU_CAPABILITY=" + std::string(name) + " " + argv[0]).c_str());
  }
  return status == 0 ? 0 : 1;
}
