#include "cpu/moments.h"

#include "cpu/sweep.h"

namespace mixnorm::cpu {

template <class T>
void accumulate_moments(const Plan& plan, Executor executor, const Input& x,
                        const Posterior<T>& posterior, T* stored, ChunkSums& sums) {
  const TileKernels<T>& kernels = kernels_for<T>(plan);
  const int components = int(plan.components);
  struct State {
    TileReader<T> x;
    TileWeights<T> nu;
  };
  for_tiles(
      plan, executor, Order::kUp, &sums, [&] { return State{{plan, x}, TileWeights<T>(plan)}; },
      [&](State& state, int64_t chunk, int64_t index) {
        const TileRef ref = plan.tile(index);
        const Tile<const T> tile = state.x.read(ref);
        const TileShape shape = group_shape(plan, ref);
        for (int64_t g = 0; g < plan.groups; ++g) {
          const Tile<const T> xg = group_of(plan, tile, g);
          const Coefficients<T> coefficients = posterior.coefficients.group(g);
          const Weights<T> nu = stored ? stored_weights(plan, stored, ref) : state.nu.get();
          if (components > 1) {
            kernels.responsibilities(shape, xg, coefficients, posterior.constant(g), nu, components,
                                     0);
            kernels.add_mass(constant(nu), shape.positions(), components, sums.mass(chunk, g));
          }
          kernels.accumulate(shape, {}, xg, coefficients, constant(nu), components,
                             sums.group(chunk, g), state.x.ahead(index, Order::kUp));
        }
      });
  sums.merge(executor);
}

template <class T>
void moments(const Input& x, const MomentsArguments<T>& arguments, Executor executor) {
  const Plan plan(x, arguments.groups, arguments.components, {});
  const std::vector<T> shift = sample_shift<T>(x);
  const CentredMixture mixture =
      centred<T>(plan, {arguments.mixing_weight, arguments.mean, arguments.var}, shift);
  ChunkSums sums(plan);
  accumulate_moments<T>(plan, executor, x, Posterior<T>(plan, shift, mixture, arguments.eps),
                        nullptr, sums);
  store_moments(plan, finish_moments(plan, sums, mixture), shift,
                BatchMoments<T>{arguments.mass, arguments.batch_mean, arguments.batch_var});
}

#define MIXNORM_INSTANTIATE(T)                                                                   \
  template void accumulate_moments(const Plan&, Executor, const Input&, const Posterior<T>&, T*, \
                                   ChunkSums&);                                                  \
  template void moments(const Input&, const MomentsArguments<T>&, Executor);
MIXNORM_INSTANTIATE(float)
MIXNORM_INSTANTIATE(double)
#undef MIXNORM_INSTANTIATE

}  // namespace mixnorm::cpu
