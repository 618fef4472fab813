#include "cpu/evaluate.h"

#include "cpu/gradients.h"
#include "cpu/normalize.h"

namespace mixnorm::cpu {

template <class T>
void evaluate(const Input& x, const EvaluateArguments<T>& a, Executor executor) {
  const Plan plan(x, a.groups, a.components, {strides_of(a.y)});
  const std::vector<T> shift =
      mixture_shift<T>(plan, {a.mixture.mixing_weight, a.mixture.mean, a.mixture.var}, a.eps);
  const CentredMixture mixture = centred<T>(plan, a.mixture, shift);
  const Posterior<T> posterior(plan, shift, mixture, a.eps);
  const Normalization<T> normalization(plan, shift, mixture.mean, mixture.var,
                                       mixture.mixing_weight, a.affine, a.eps, a.mixing_scale);
  normalize<T>(plan, executor, x, &posterior, nullptr, normalization, a.y);
}

// Constant statistics put no barrier between the sums and dx: one sweep does both.
template <class T>
void evaluate_backward(const Input& dy, const Input& x, const EvaluateBackwardArguments<T>& a,
                       Executor executor) {
  const Plan plan(x, a.groups, a.components, {strides_of(dy), strides_of(a.dx)});
  const TileKernels<T>& kernels = kernels_for<T>(plan);
  const std::vector<T> shift =
      mixture_shift<T>(plan, {a.mixture.mixing_weight, a.mixture.mean, a.mixture.var}, a.eps);
  const CentredMixture mixture = centred<T>(plan, a.mixture, shift);
  const Posterior<T> posterior(plan, shift, mixture, a.eps);
  const Normalizer<T> normalizer{shift,    mixture, mixture.mean,  mixture.var,
                                 a.affine, a.eps,   a.mixing_scale};
  const GradientTables<T> tables(plan, normalizer, nullptr, nullptr);
  ChunkSums sums(plan);
  const int components = int(plan.components);
  const bool through_posterior = components > 1 && a.responsibility_grad;
  struct State {
    TileReader<T> dy, x;
    TileWriter<T> dx;
    TileWeights<T> nu, dlogit;
  };
  for_tiles(
      plan, executor, Order::kUp, &sums,
      [&] {
        return State{{plan, dy},
                     {plan, x},
                     {plan, a.dx, x.scalar},
                     TileWeights<T>(plan),
                     TileWeights<T>(plan)};
      },
      [&](State& state, int64_t chunk, int64_t index) {
        const TileRef ref = plan.tile(index);
        const Tile<const T> dy_tile = state.dy.read(ref), x_tile = state.x.read(ref);
        const Tile<T> dx_tile = state.dx.target(ref);
        const TileShape shape = group_shape(plan, ref);
        const Destination to = destination(x_tile, dx_tile, state.dx.stores(), through_posterior);
        for (int64_t g = 0; g < plan.groups; ++g) {
          const Tile<const T> dyg = group_of(plan, dy_tile, g), xg = group_of(plan, x_tile, g);
          const Weights<T> nu = state.nu.get(), dlogit = state.dlogit.get();
          if (components > 1) {
            kernels.responsibilities(shape, xg, posterior.coefficients.group(g),
                                     posterior.constant(g), nu, components, 0);
          }
          if (through_posterior) {
            kernels.posterior_gradient(shape, dyg, xg, tables.posterior.group(g),
                                       tables.constants.data() + g * components, constant(nu),
                                       dlogit, components, to.ahead);
          }
          kernels.accumulate(shape, dyg, xg, posterior.coefficients.group(g), constant(nu),
                             components, sums.group(chunk, g), 0);
          kernels.input_gradient[to.stores](shape, dyg, xg, tables.input.group(g), constant(nu),
                                            constant(dlogit), group_of(plan, dx_tile, g),
                                            components, state.x.ahead(index, Order::kUp));
        }
        state.dx.finish(ref);
      });
  sums.merge(executor);
  store_affine_gradients(plan, normalizer, output_sums(plan, sums, mixture.mean), a.dweight,
                         a.dbias);
}

#define MIXNORM_INSTANTIATE(T)                                                                     \
  template void evaluate(const Input&, const EvaluateArguments<T>&, Executor);                     \
  template void evaluate_backward(const Input&, const Input&, const EvaluateBackwardArguments<T>&, \
                                  Executor);
MIXNORM_INSTANTIATE(float)
MIXNORM_INSTANTIATE(double)
#undef MIXNORM_INSTANTIATE

}  // namespace mixnorm::cpu
