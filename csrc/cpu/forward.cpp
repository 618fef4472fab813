#include "cpu/forward.h"

#include <algorithm>

#include "cpu/normalize.h"
#include "cpu/sweep.h"

namespace mixnorm::cpu {

template <class T>
void forward(const Input& x, const ForwardArguments<T>& a, Executor executor) {
  const Plan plan(x, a.groups, a.components, {strides_of(a.y)});
  const std::vector<T> shift = sample_shift<T>(x);
  CentredMixture mixture =
      centred<T>(plan, {a.mixture.mixing_weight, a.mixture.mean, a.mixture.var}, shift);
  for (int64_t i = 0; i < a.em_iters; ++i) {
    ChunkSums sums(plan);
    accumulate_moments<T>(plan, executor, x, Posterior<T>(plan, shift, mixture, a.eps), nullptr,
                          sums);
    mixture = em_step(plan, finish_moments(plan, sums, mixture));
  }

  T* const stored = keeps_responsibilities(a.components, a.groups) ? a.responsibilities : nullptr;
  const Posterior<T> posterior(plan, shift, mixture, a.eps);
  ChunkSums sums(plan);
  accumulate_moments<T>(plan, executor, x, posterior, stored, sums);
  const CentredMoments moments = finish_moments(plan, sums, mixture);
  const Normalization<T> normalization(plan, shift, moments.mean, moments.var,
                                       mixture.mixing_weight, a.affine, a.eps, a.mixing_scale);
  normalize<T>(plan, executor, x, stored ? nullptr : &posterior, stored, normalization, a.y);

  store_moments(plan, moments, shift, a.moments);
  const int64_t size = a.components * x.channels;
  if (a.em_iters == 0) {
    std::copy_n(a.mixture.mixing_weight, a.groups * a.components, a.final_mixture.mixing_weight);
    std::copy_n(a.mixture.mean, size, a.final_mixture.mean);
    std::copy_n(a.mixture.var, size, a.final_mixture.var);
  } else {
    store_moments(
        plan, CentredMoments{mixture.mixing_weight, mixture.mean, mixture.var}, shift,
        BatchMoments<T>{a.final_mixture.mixing_weight, a.final_mixture.mean, a.final_mixture.var});
  }
}

template void forward(const Input&, const ForwardArguments<float>&, Executor);
template void forward(const Input&, const ForwardArguments<double>&, Executor);

}  // namespace mixnorm::cpu
