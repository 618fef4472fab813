#include "cpu/gradients.h"

#include <algorithm>

#include "device/backward.h"

namespace mixnorm::cpu {

OutputSums output_sums(const Plan& plan, const ChunkSums& sums, const std::vector<double>& mean) {
  const int64_t size = plan.components * plan.channels;
  OutputSums result{std::vector<double>(size), std::vector<double>(size)};
  for (int64_t k = 0; k < plan.components; ++k) {
    for (int64_t c = 0; c < plan.channels; ++c) {
      const int64_t kc = k * plan.channels + c;
      result.h1[kc] = sums.first(k, c);
      result.h2[kc] = sums.second(k, c) - mean[kc] * sums.first(k, c);
    }
  }
  return result;
}

template <class T>
void store_affine_gradients(const Plan& plan, const Normalizer<T>& n, const OutputSums& sums,
                            T* dweight, T* dbias) {
  const std::vector<double> mixing = mixing_scales(n.mixture.mixing_weight, n.mixing_scale);
  for (int64_t k = 0; k < plan.components; ++k) {
    for (int64_t c = 0; c < plan.channels; ++c) {
      const int64_t kc = k * plan.channels + c;
      const double scale = device::inverse_deviation(n.var[kc], n.eps) *
                           mixing[c / plan.group_channels * plan.components + k];
      dweight[kc] = T(scale * sums.h2[kc]);
      dbias[kc] = T(sums.h1[kc]);
    }
  }
}

template <class T>
GradientTables<T>::GradientTables(const Plan& plan, const Normalizer<T>& n, const double* mass,
                                  const OutputSums* sums)
    : posterior(plan, posterior_coefficients(int(plan.components))),
      constants(plan.groups * plan.components),
      input(plan, input_coefficients(int(plan.components))) {
  const int64_t components = plan.components;
  const std::vector<double> mixing = mixing_scales(n.mixture.mixing_weight, n.mixing_scale);
  std::vector<double> constant(components);
  for (int64_t g = 0; g < plan.groups; ++g) {
    std::fill(constant.begin(), constant.end(), 0.0);
    for (int64_t c = g * plan.group_channels; c < (g + 1) * plan.group_channels; ++c) {
      posterior.at(c, 0) = input.at(c, 0) = n.shift[c];
      device::MomentGradient<double> origin{};
      double origin_precision = 0, origin_pull = 0;
      for (int64_t k = 0; k < components; ++k) {
        const int64_t kc = k * plan.channels + c, gk = g * components + k;
        const auto gradient =
            device::moment_gradient(mass ? mass[gk] : 1.0, n.mean[kc], n.var[kc],
                                    weight_at(n.affine, k, c), bias_at(n.affine, k, c), mixing[gk],
                                    n.eps, sums ? sums->h1[kc] : 0.0, sums ? sums->h2[kc] : 0.0);
        const double precision = 1 / (n.mixture.var[kc] + n.eps);
        const double pull = n.mixture.mean[kc] * precision;
        input.at(c, 3 * k + 1) = T(gradient.scale);
        input.at(c, 3 * k + 2) = T(gradient.linear);
        input.at(c, 3 * k + 3) = T(2 * gradient.quadratic);
        constant[k] += gradient.constant;
        if (k == 0) {
          origin = gradient;
          origin_precision = precision;
          origin_pull = pull;
          continue;
        }
        posterior.at(c, 4 * k - 3) = T(gradient.scale - origin.scale);
        posterior.at(c, 4 * k - 2) = T(gradient.offset - origin.offset);
        posterior.at(c, 4 * k - 1) = T(gradient.quadratic - origin.quadratic);
        posterior.at(c, 4 * k) = T(gradient.linear - origin.linear);
        // The logits' gradients sum to 0 over k, so here too only differences count.
        const int64_t pair = 3 * components - 1 + 2 * k;
        input.at(c, pair) = T(pull - origin_pull);
        input.at(c, pair + 1) = T(precision - origin_precision);
      }
    }
    for (int64_t k = 0; k < components; ++k) {
      constants[g * components + k] = T(constant[k] - constant[0]);
    }
  }
}

#define MIXNORM_INSTANTIATE(T)                                                                   \
  template void store_affine_gradients(const Plan&, const Normalizer<T>&, const OutputSums&, T*, \
                                       T*);                                                      \
  template struct GradientTables<T>;
MIXNORM_INSTANTIATE(float)
MIXNORM_INSTANTIATE(double)
#undef MIXNORM_INSTANTIATE

}  // namespace mixnorm::cpu
