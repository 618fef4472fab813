// The formulas of docs/method.md, sections 1 and 2, written out in double over [positions,
// channels]: what the CUDA kernels' tests hold them to.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace mixnorm::tests {

using Vector = std::vector<double>;

struct Model {
  int64_t positions, channels, components, groups;
  double eps;
  bool mixing_scale, responsibility_grad;
  Vector x;                  // [M, C]
  Vector lambda, mu, sigma;  // [G, K], [K, C], [K, C]: the mixture
  Vector gamma, beta;        // [K, C]
};

struct Moments {
  Vector mass, mean, var;
};

inline Vector posterior(const Model& m) {  // [G, M, K]
  const int64_t M = m.positions, C = m.channels, K = m.components, D = C / m.groups;
  Vector nu(m.groups * M * K);
  for (int64_t g = 0; g < m.groups; ++g) {
    for (int64_t i = 0; i < M; ++i) {
      double* row = &nu[(g * M + i) * K];
      for (int64_t k = 0; k < K; ++k) {
        row[k] = std::log(std::max(m.lambda[g * K + k], 1e-300));
        for (int64_t c = g * D; c < (g + 1) * D; ++c) {
          const double variance = m.sigma[k * C + c] + m.eps, u = m.x[i * C + c] - m.mu[k * C + c];
          row[k] -= 0.5 * (u * u / variance + std::log(variance));
        }
      }
      const double top = *std::max_element(row, row + K);
      double sum = 0;
      for (int64_t k = 0; k < K; ++k) sum += row[k] = std::exp(row[k] - top);
      for (int64_t k = 0; k < K; ++k) row[k] /= sum;
    }
  }
  return nu;
}

inline Moments moments(const Model& m, const Vector& nu) {
  const int64_t M = m.positions, C = m.channels, K = m.components, D = C / m.groups;
  Moments r{Vector(m.groups * K), Vector(K * C), Vector(K * C)};
  for (int64_t k = 0; k < K; ++k) {
    for (int64_t c = 0; c < C; ++c) {
      const double* w = &nu[c / D * M * K + k];
      double mass = 0, first = 0, second = 0;
      for (int64_t i = 0; i < M; ++i) mass += w[i * K];
      for (int64_t i = 0; i < M; ++i) first += w[i * K] * (m.x[i * C + c] - m.mu[k * C + c]);
      const double safe = std::max(mass, 1e-6), mean = m.mu[k * C + c] + first / safe;
      for (int64_t i = 0; i < M; ++i) second += w[i * K] * std::pow(m.x[i * C + c] - mean, 2);
      r.mass[c / D * K + k] = mass;
      r.mean[k * C + c] = mean;
      r.var[k * C + c] = second / safe;
    }
  }
  return r;
}

inline void em_step(Model& m) {
  const Moments r = moments(m, posterior(m));
  for (size_t i = 0; i < r.mass.size(); ++i) m.lambda[i] = r.mass[i] / double(m.positions);
  m.mu = r.mean;
  m.sigma = r.var;
}

inline double mixing_scale(const Model& m, int64_t gk) {
  return m.mixing_scale ? 1 / std::sqrt(std::max(m.lambda[gk], 1e-3)) : 1.0;
}

inline Vector normalize(const Model& m, const Vector& nu, const Vector& mean, const Vector& var) {
  const int64_t M = m.positions, C = m.channels, K = m.components, D = C / m.groups;
  Vector y(M * C);
  for (int64_t i = 0; i < M; ++i) {
    for (int64_t c = 0; c < C; ++c) {
      for (int64_t k = 0; k < K; ++k) {
        const int64_t kc = k * C + c;
        y[i * C + c] += nu[(c / D * M + i) * K + k] *
                        (m.gamma[kc] * (m.x[i * C + c] - mean[kc]) / std::sqrt(var[kc] + m.eps) *
                             mixing_scale(m, c / D * K + k) +
                         m.beta[kc]);
      }
    }
  }
  return y;
}

struct Gradients {
  Vector dx, dgamma, dbeta, dlambda, dmu, dsigma;
};

// constant: mean and var are constants (eval), else the batch's under nu.
inline Gradients gradients(const Model& m, const Vector& nu, const Moments& batch, bool constant,
                           const Vector& dy) {
  const int64_t M = m.positions, C = m.channels, K = m.components, G = m.groups, D = C / G;
  Gradients r{Vector(M * C), Vector(K * C), Vector(K * C),
              Vector(G * K), Vector(K * C), Vector(K * C)};
  Vector alpha(K * C), tau(K * C), a(K * C), b(K * C), h(G * K), through_scale(G * K);
  const auto nu_at = [&](int64_t g, int64_t i, int64_t k) { return nu[(g * M + i) * K + k]; };
  for (int64_t k = 0; k < K; ++k) {
    for (int64_t c = 0; c < C; ++c) {
      const int64_t g = c / D, kc = k * C + c, gk = g * K + k;
      const double deviation = 1 / std::sqrt(batch.var[kc] + m.eps), mean = batch.mean[kc];
      double h1 = 0, h2 = 0;
      for (int64_t i = 0; i < M; ++i) {
        h1 += nu_at(g, i, k) * dy[i * C + c];
        h2 += nu_at(g, i, k) * dy[i * C + c] * (m.x[i * C + c] - mean);
      }
      alpha[kc] = m.gamma[kc] * deviation * mixing_scale(m, gk);
      tau[kc] = m.beta[kc] - alpha[kc] * mean;
      r.dbeta[kc] = h1;
      r.dgamma[kc] = mixing_scale(m, gk) * deviation * h2;
      through_scale[gk] += alpha[kc] * h2;
      if (constant) continue;
      const double mass = std::max(batch.mass[gk], 1e-6);
      b[kc] = -0.5 * alpha[kc] * deviation * deviation * h2 / mass;
      a[kc] = -alpha[kc] * h1 / mass - 2 * b[kc] * mean;
      h[gk] += alpha[kc] * mean * h1 / mass + b[kc] * (mean * mean - batch.var[kc]);
    }
  }
  Vector dnu(K), dl(K);
  for (int64_t g = 0; g < G; ++g) {
    for (int64_t i = 0; i < M; ++i) {
      double average = 0;
      for (int64_t k = 0; k < K; ++k) {
        dnu[k] = h[g * K + k];
        for (int64_t c = g * D; c < (g + 1) * D; ++c) {
          const int64_t kc = k * C + c;
          const double x = m.x[i * C + c];
          dnu[k] += dy[i * C + c] * (alpha[kc] * x + tau[kc]) + x * (b[kc] * x + a[kc]);
        }
        average += nu_at(g, i, k) * dnu[k];
      }
      for (int64_t k = 0; k < K; ++k) {
        dl[k] = m.responsibility_grad ? nu_at(g, i, k) * (dnu[k] - average) : 0.0;
        r.dlambda[g * K + k] += dl[k] / m.lambda[g * K + k];
        for (int64_t c = g * D; c < (g + 1) * D; ++c) {
          const int64_t kc = k * C + c;
          const double x = m.x[i * C + c], precision = 1 / (m.sigma[kc] + m.eps);
          const double pull = (x - m.mu[kc]) * precision;
          r.dx[i * C + c] +=
              nu_at(g, i, k) * (alpha[kc] * dy[i * C + c] + a[kc] + 2 * b[kc] * x) - dl[k] * pull;
          r.dmu[kc] += dl[k] * pull;
          r.dsigma[kc] += 0.5 * dl[k] * (pull * pull - precision);
        }
      }
    }
  }
  for (int64_t gk = 0; gk < G * K; ++gk) {
    if (m.mixing_scale && m.lambda[gk] >= 1e-3) {
      r.dlambda[gk] -= 0.5 * through_scale[gk] / m.lambda[gk];
    }
  }
  return r;
}

// Relative Frobenius norm of the difference; NaN where an element was not written.
template <class Actual>
double distance(const Actual& actual, const Vector& expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(double(actual[i]) - expected[i], 2);
    size += expected[i] * expected[i];
  }
  return std::sqrt(difference / std::max(size, 1e-300));
}

}  // namespace mixnorm::tests
