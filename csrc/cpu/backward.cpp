#include "cpu/backward.h"

#include <algorithm>

#include "cpu/forward.h"
#include "cpu/gradients.h"
#include "device/mixture.h"
#include "device/normalize.h"

namespace mixnorm::cpu {
namespace {

template <class T>
class Backward {
 public:
  Backward(const Input& dy, const Input& x, const BackwardArguments<T>& a, Executor executor)
      : dy_(dy),
        x_(x),
        a_(a),
        executor_(executor),
        plan_(x, a.groups, a.components, {strides_of(dy), strides_of(a.dx)}),
        kernels_(kernels_for<T>(plan_)),
        stored_(keeps_responsibilities(a.components, a.groups) ? a.responsibilities : nullptr),
        shift_(mixture_shift<T>(plan_, {a.moments.mass, a.moments.mean, a.moments.var}, a.eps)),
        mixture_(centred<T>(plan_, a.mixture, shift_)),
        moments_(centred<T>(plan_, {a.moments.mass, a.moments.mean, a.moments.var}, shift_)),
        posterior_(stored_ ? Posterior<T>(plan_, shift_)
                           : Posterior<T>(plan_, shift_, mixture_, a.eps)),
        normalizer_{shift_,   mixture_, moments_.mean, moments_.var,
                    a.affine, a.eps,    a.mixing_scale} {}

  OutputSums accumulate_output() {
    ChunkSums sums(plan_);
    struct State {
      TileReader<T> dy, x;
      TileWeights<T> nu;
    };
    for_tiles(
        plan_, executor_, Order::kUp, &sums,
        [&] { return State{{plan_, dy_}, {plan_, x_}, TileWeights<T>(plan_)}; },
        [&](State& state, int64_t chunk, int64_t index) {
          const TileRef ref = plan_.tile(index);
          const Tile<const T> dy = state.dy.read(ref), x = state.x.read(ref);
          const TileShape shape = group_shape(plan_, ref);
          for (int64_t g = 0; g < plan_.groups; ++g) {
            const Tile<const T> xg = group_of(plan_, x, g);
            kernels_.accumulate(shape, group_of(plan_, dy, g), xg, posterior_.coefficients.group(g),
                                responsibilities(shape, xg, ref, g, state.nu.get()),
                                int(plan_.components), sums.group(chunk, g),
                                state.x.ahead(index, Order::kUp));
          }
        });
    sums.merge(executor_);
    return output_sums(plan_, sums, moments_.mean);
  }

  void differentiate(const OutputSums& sums) {
    store_affine_gradients(plan_, normalizer_, sums, a_.dweight, a_.dbias);
    differentiate_input(sums);
    if (a_.dmixture.mean != nullptr && a_.mixing_scale) add_scale_gradient(sums);
  }

 private:
  // As forward left them, or computed again into `scratch`.
  Weights<const T> responsibilities(const TileShape& shape, Tile<const T> xg, const TileRef& ref,
                                    int64_t g, Weights<T> scratch) const {
    if (plan_.components == 1) return constant(scratch);
    if (stored_) return stored_weights(plan_, stored_, ref);
    kernels_.responsibilities(shape, xg, posterior_.coefficients.group(g), posterior_.constant(g),
                              scratch, int(plan_.components), 0);
    return constant(scratch);
  }

  void differentiate_input(const OutputSums& output) {
    const std::vector<double> mass(a_.moments.mass,
                                   a_.moments.mass + plan_.groups * plan_.components);
    const GradientTables<T> tables(plan_, normalizer_, mass.data(), &output);
    const bool through_posterior = a_.responsibility_grad && plan_.components > 1;
    const bool mixture_sums = a_.dmixture.mean != nullptr && through_posterior;
    ChunkSums sums(plan_);
    const int components = int(plan_.components);
    struct State {
      TileReader<T> dy, x;
      TileWriter<T> dx;
      TileWeights<T> nu, dlogit;
    };
    for_tiles(
        plan_, executor_, Order::kDown, a_.dmixture.mean != nullptr ? &sums : nullptr,
        [&] {
          return State{{plan_, dy_},
                       {plan_, x_},
                       {plan_, a_.dx, x_.scalar},
                       TileWeights<T>(plan_),
                       TileWeights<T>(plan_)};
        },
        [&](State& state, int64_t chunk, int64_t index) {
          const TileRef ref = plan_.tile(index);
          const Tile<const T> dy = state.dy.read(ref), x = state.x.read(ref);
          const Tile<T> dx = state.dx.target(ref);
          const TileShape shape = group_shape(plan_, ref);
          const Destination to = destination(x, dx, state.dx.stores(), through_posterior);
          for (int64_t g = 0; g < plan_.groups; ++g) {
            const Tile<const T> dyg = group_of(plan_, dy, g), xg = group_of(plan_, x, g);
            const Weights<const T> nu = responsibilities(shape, xg, ref, g, state.nu.get());
            const Weights<T> dlogit = state.dlogit.get();  // zeros unless filled here
            if (through_posterior) {
              kernels_.posterior_gradient(shape, dyg, xg, tables.posterior.group(g),
                                          tables.constants.data() + g * components, nu, dlogit,
                                          components, to.ahead);
            }
            if (mixture_sums) {
              kernels_.add_mass(constant(dlogit), shape.positions(), components,
                                sums.mass(chunk, g));
              kernels_.accumulate(shape, {}, xg, posterior_.coefficients.group(g), constant(dlogit),
                                  components, sums.group(chunk, g), 0);
            }
            kernels_.input_gradient[to.stores](shape, dyg, xg, tables.input.group(g), nu,
                                               constant(dlogit), group_of(plan_, dx, g), components,
                                               state.x.ahead(index, Order::kDown));
          }
          state.dx.finish(ref);
        });
    if (a_.dmixture.mean == nullptr) return;
    sums.merge(executor_);
    store_mixture_gradients(sums);
  }

  // From L0 = sum dl, L1 = sum dl (x - mu), L2 = sum dl (x - mu)^2.
  void store_mixture_gradients(const ChunkSums& sums) {
    for (int64_t k = 0; k < plan_.components; ++k) {
      for (int64_t c = 0; c < plan_.channels; ++c) {
        const int64_t g = c / plan_.group_channels, kc = k * plan_.channels + c;
        const double mean = mixture_.mean[kc], l0 = sums.mass_of(g, k), first = sums.first(k, c);
        const double l1 = first - mean * l0;
        const double l2 = sums.second(k, c) - mean * (2 * first - mean * l0);
        const double precision = 1 / (mixture_.var[kc] + a_.eps);
        a_.dmixture.mean[kc] = T(l1 * precision);
        a_.dmixture.var[kc] = T(0.5 * (l2 * precision - l0) * precision);
        const int64_t gk = g * plan_.components + k;
        a_.dmixture.mixing_weight[gk] =
            T(l0 / double(device::clamped_mixing_weight(a_.mixture.mixing_weight[gk])));
      }
    }
  }

  // The output's own factor 1 / sqrt(mixing weight), constant below its floor.
  void add_scale_gradient(const OutputSums& sums) {
    for (int64_t gk = 0; gk < plan_.groups * plan_.components; ++gk) {
      const double weight = a_.mixture.mixing_weight[gk];
      if (weight < device::kMixingFloor) continue;
      const int64_t g = gk / plan_.components, k = gk % plan_.components;
      double total = 0;
      for (int64_t c = g * plan_.group_channels; c < (g + 1) * plan_.group_channels; ++c) {
        const int64_t kc = k * plan_.channels + c;
        total += weight_at(a_.affine, k, c) * device::inverse_deviation(moments_.var[kc], a_.eps) *
                 sums.h2[kc];
      }
      total *= device::mixing_scale(weight, true);
      a_.dmixture.mixing_weight[gk] += T(-0.5 * total / weight);
    }
  }

  const Input& dy_;
  const Input& x_;
  const BackwardArguments<T>& a_;
  Executor executor_;
  Plan plan_;
  const TileKernels<T>& kernels_;
  const T* stored_;
  std::vector<T> shift_;
  CentredMixture mixture_, moments_;
  Posterior<T> posterior_;
  Normalizer<T> normalizer_;
};

}  // namespace

template <class T>
void backward(const Input& dy, const Input& x, const BackwardArguments<T>& arguments,
              Executor executor) {
  Backward<T> passes(dy, x, arguments, executor);
  passes.differentiate(passes.accumulate_output());
}

template <class T>
void backward_sums(const Input& dy, const Input& x, const BackwardSumsArguments<T>& a,
                   Executor executor) {
  BackwardArguments<T> arguments{};
  arguments.components = a.components;
  arguments.groups = a.groups;
  arguments.moments = a.moments;
  arguments.mixture = a.mixture;
  arguments.eps = a.eps;
  arguments.dx = {nullptr, x.stride_n, x.stride_c, x.stride_l};  // not written here
  const OutputSums sums = Backward<T>(dy, x, arguments, executor).accumulate_output();
  std::copy(sums.h1.begin(), sums.h1.end(), a.h1);
  std::copy(sums.h2.begin(), sums.h2.end(), a.h2);
}

template <class T>
void backward_apply(const Input& dy, const Input& x, const T* h1, const T* h2,
                    const BackwardArguments<T>& arguments, Executor executor) {
  const int64_t size = arguments.components * x.channels;
  Backward<T>(dy, x, arguments, executor).differentiate({{h1, h1 + size}, {h2, h2 + size}});
}

#define MIXNORM_INSTANTIATE(T)                                                               \
  template void backward(const Input&, const Input&, const BackwardArguments<T>&, Executor); \
  template void backward_sums(const Input&, const Input&, const BackwardSumsArguments<T>&,   \
                              Executor);                                                     \
  template void backward_apply(const Input&, const Input&, const T*, const T*,               \
                               const BackwardArguments<T>&, Executor);
MIXNORM_INSTANTIATE(float)
MIXNORM_INSTANTIATE(double)
#undef MIXNORM_INSTANTIATE

}  // namespace mixnorm::cpu
