#include "cpu/normalize.h"

#include "device/normalize.h"

namespace mixnorm::cpu {

template <class T>
Normalization<T>::Normalization(const Plan& plan, const std::vector<T>& shift,
                                const std::vector<double>& mean, const std::vector<double>& var,
                                const std::vector<double>& mixing_weight, const Affine<T>& affine,
                                double eps, bool mixing_scale)
    : coefficients(plan, normalize_coefficients(int(plan.components))) {
  const std::vector<double> mixing = mixing_scales(mixing_weight, mixing_scale);
  for (int64_t c = 0; c < plan.channels; ++c) {
    const double* scales = &mixing[c / plan.group_channels * plan.components];
    // A single component's own mean leaves nothing to subtract afterwards.
    const T origin = plan.components == 1 ? T(double(shift[c]) + mean[c]) : shift[c];
    coefficients.at(c, 0) = origin;
    for (int64_t k = 0; k < plan.components; ++k) {
      const int64_t kc = k * plan.channels + c;
      const double centred_mean = mean[kc] + (double(shift[c]) - double(origin));
      const double scale =
          weight_at(affine, k, c) * device::inverse_deviation(var[kc], eps) * scales[k];
      coefficients.at(c, 2 * k + 1) = T(scale);
      coefficients.at(c, 2 * k + 2) = T(bias_at(affine, k, c) - scale * centred_mean);
    }
  }
}

template <class T>
void normalize(const Plan& plan, Executor executor, const Input& x, const Posterior<T>* posterior,
               const T* stored, const Normalization<T>& normalization, const Output& y) {
  const TileKernels<T>& kernels = kernels_for<T>(plan);
  const int components = int(plan.components);
  const bool anew = components > 1 && !stored;  // a sweep over each tile before the output's own
  struct State {
    TileReader<T> x;
    TileWriter<T> y;
    TileWeights<T> nu;
  };
  for_tiles(
      plan, executor, Order::kDown, nullptr,
      [&] { return State{{plan, x}, {plan, y, x.scalar}, TileWeights<T>(plan)}; },
      [&](State& state, int64_t, int64_t index) {
        const TileRef ref = plan.tile(index);
        const Tile<const T> x_tile = state.x.read(ref);
        const Tile<T> y_tile = state.y.target(ref);
        const TileShape shape = group_shape(plan, ref);
        const Destination to = destination(x_tile, y_tile, state.y.stores(), anew);
        for (int64_t g = 0; g < plan.groups; ++g) {
          const Tile<const T> xg = group_of(plan, x_tile, g);
          Weights<const T> nu = constant(state.nu.get());
          if (stored) {
            nu = stored_weights(plan, stored, ref);
          } else if (anew) {
            kernels.responsibilities(shape, xg, posterior->coefficients.group(g),
                                     posterior->constant(g), state.nu.get(), components, to.ahead);
          }
          kernels.normalize[to.stores](shape, xg, normalization.coefficients.group(g), nu,
                                       group_of(plan, y_tile, g), components,
                                       state.x.ahead(index, Order::kDown));
        }
        state.y.finish(ref);
      });
}

template <class T>
void normalize(const Input& x, const NormalizeArguments<T>& a, Executor executor) {
  const Plan plan(x, a.groups, a.components, {strides_of(a.y)});
  const std::vector<T> shift =
      mixture_shift<T>(plan, {a.moments.mass, a.moments.mean, a.moments.var}, a.eps);
  const CentredMixture mixture = centred<T>(plan, a.mixture, shift);
  const CentredMixture moments =
      centred<T>(plan, {a.moments.mass, a.moments.mean, a.moments.var}, shift);
  const Posterior<T> posterior(plan, shift, mixture, a.eps);
  const Normalization<T> normalization(plan, shift, moments.mean, moments.var,
                                       mixture.mixing_weight, a.affine, a.eps, a.mixing_scale);
  normalize<T>(plan, executor, x, &posterior, nullptr, normalization, a.y);
}

#define MIXNORM_INSTANTIATE(T)                                                                \
  template struct Normalization<T>;                                                           \
  template void normalize(const Plan&, Executor, const Input&, const Posterior<T>*, const T*, \
                          const Normalization<T>&, const Output&);                            \
  template void normalize(const Input&, const NormalizeArguments<T>&, Executor);
MIXNORM_INSTANTIATE(float)
MIXNORM_INSTANTIATE(double)
#undef MIXNORM_INSTANTIATE

}  // namespace mixnorm::cpu
