// Tile kernels whose lanes are channels (NHWC): sums over channels are folded for kLanes positions
// at once, sums over positions run down the registers. Blocks of positions share each load of the
// coefficients.
#pragma once

#include "cpu/simd.h"
#include "cpu/tile.h"

namespace mixnorm::cpu {
namespace {

// Positions handled at once; a power of two, so that blocks tile a vector of positions.
template <int K>
constexpr int position_block(int registers_per_position) {
  constexpr int kBudget = MIXNORM_VECTOR_BYTES == 64 ? 20 : 8;
  const int fit = K == 0 ? 1 : kBudget / registers_per_position;
  return fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
}

// f(first position, Block<N>) over [begin, end), the rest one by one.
template <int N, class F>
MIXNORM_INLINE void for_position_blocks(int64_t begin, int64_t end, F&& f) {
  int64_t t = begin;
  for (; t + N <= end; t += N) f(t, Block<N>{});
  if constexpr (N > 1) {
    for (; t < end; ++t) f(t, Block<1>{});
  }
}

// Vectors of channels whose sums stay in registers together: enough independent additions to hide
// their latency.
template <int K>
constexpr int accumulator_vectors() {
  constexpr int kBudget = MIXNORM_VECTOR_BYTES == 64 ? 24 : 12;
  const int fit = K == 0 ? 1 : kBudget / (2 * K);
  return fit < 1 ? 1 : fit > 4 ? 4 : fit;
}

// f(first channel, Block<N> of vectors, Full) over whole blocks, then vector by vector.
template <class T, int N, class F>
MIXNORM_INLINE void for_vector_blocks(int64_t channels, F&& f) {
  constexpr int64_t kChannels = N * kLanes<T>;
  const int64_t whole = channels / kChannels * kChannels;
  for (int64_t c = 0; c < whole; c += kChannels) f(c, Block<N>{}, Full{});
  for_vectors<T>(channels - whole, [&](int64_t c, auto part)
                                       MIXNORM_INLINE_LAMBDA { f(whole + c, Block<1>{}, part); });
}

template <class T, int K>
struct ChannelLanes {
  using V = Vec<T>;
  static constexpr int kMax = Components<K>::kMax;
  static constexpr int kWidth = kLanes<T>;

  static void responsibilities(TileShape shape, Tile<const T> x, Coefficients<T> coef,
                               const T* constant, Weights<T> nu, int k_runtime, int64_t ahead) {
    const Components<K> components(k_runtime);
    for_vectors<T>(shape.length, [&](int64_t t0, auto positions) MIXNORM_INLINE_LAMBDA {
      V term[kMax][kWidth];
      const int64_t end = t0 + lanes_of<T>(positions);
      for_position_blocks<position_block<K>(K)>(
          t0, end, [&](int64_t t, auto block) MIXNORM_INLINE_LAMBDA {
            constexpr int kBlock = decltype(block)::kSize;
            V sum[kBlock][kMax] = {};
            for_vectors<T>(shape.channels, [&](int64_t c, auto part) MIXNORM_INLINE_LAMBDA {
              const T* p = coef.data + c;
              const V shift = load(p, part);
              V v[kBlock];
              repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
                const T* row = x.data + (t + i) * x.row + c;
                prefetch(row, ahead);
                v[i] = load(row, part) - shift;
              });
              components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
                const V quadratic = load(p + (2 * k - 1) * coef.pitch, part);
                const V linear = load(p + 2 * k * coef.pitch, part);
                repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
                  sum[i][k] += v[i] * (v[i] * quadratic + linear);
                });
              });
            });
            components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
              repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA { term[k][t - t0 + i] = sum[i][k]; });
            });
          });
      V v[kMax];
      v[0] = V{};
      components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
        for (int64_t i = end - t0; i < kWidth; ++i) term[k][i] = V{};
        v[k] = sum_lanes<T>(term[k]) + constant[k];
      });
      softmax<T>(components, v);
      components.each([&](int k) MIXNORM_INLINE_LAMBDA {
        store(nu.data + k * nu.pitch + t0, v[k], positions);
      });
    });
  }

  template <bool kOwn>  // u is x'
  static MIXNORM_INLINE void accumulate_as(TileShape shape, Tile<const T> u, Tile<const T> x,
                                           Coefficients<T> coef, Weights<const T> w, int k_runtime,
                                           Sums sums, int64_t ahead) {
    const Components<K> components(k_runtime);
    for_vector_blocks<T, accumulator_vectors<K>()>(
        shape.channels, [&](int64_t c, auto block, auto part) MIXNORM_INLINE_LAMBDA {
          constexpr int kBlock = decltype(block)::kSize;
          V shift[kBlock], total[kBlock][2 * kMax] = {};
          repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
            shift[i] = load(coef.data + c + i * kWidth, part);
          });
          for (int64_t t = 0; t < shape.length; ++t) {
            V first[kBlock], second[kBlock];
            repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
              const T* x_row = x.data + t * x.row + c + i * kWidth;
              prefetch(x_row, ahead);
              const V v = load(x_row, part) - shift[i];
              if constexpr (kOwn) {
                first[i] = v;
              } else {
                const T* u_row = u.data + t * u.row + c + i * kWidth;
                prefetch(u_row, ahead);
                first[i] = load(u_row, part);
              }
              second[i] = first[i] * v;
            });
            components.each([&](int k) MIXNORM_INLINE_LAMBDA {
              if constexpr (K == 1) {
                repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
                  total[i][0] += first[i];
                  total[i][1] += second[i];
                });
              } else {
                const V weight = broadcast(w.data[k * w.pitch + t]);
                repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
                  total[i][2 * k] += weight * first[i];
                  total[i][2 * k + 1] += weight * second[i];
                });
              }
            });
          }
          components.each([&](int k) MIXNORM_INLINE_LAMBDA {
            repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
              double* out = sums.data + 2 * k * sums.pitch + c + i * kWidth;
              add_to<T>(out, total[i][2 * k], part);
              add_to<T>(out + sums.pitch, total[i][2 * k + 1], part);
            });
          });
        });
  }

  static void accumulate(TileShape shape, Tile<const T> u, Tile<const T> x, Coefficients<T> coef,
                         Weights<const T> w, int k_runtime, Sums sums, int64_t ahead) {
    if (u.data == nullptr) {
      accumulate_as<true>(shape, u, x, coef, w, k_runtime, sums, ahead);
    } else {
      accumulate_as<false>(shape, u, x, coef, w, k_runtime, sums, ahead);
    }
  }

  template <class Store>
  static void normalize(TileShape shape, Tile<const T> x, Coefficients<T> coef, Weights<const T> nu,
                        Tile<T> y, int k_runtime, int64_t ahead) {
    const Components<K> components(k_runtime);
    for_position_blocks<position_block<K>(K + 2)>(
        0, shape.length, [&](int64_t t, auto block) MIXNORM_INLINE_LAMBDA {
          constexpr int kBlock = decltype(block)::kSize;
          V weight[kBlock][kMax];
          if constexpr (K != 1) {
            repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
              components.each([&](int k) MIXNORM_INLINE_LAMBDA {
                weight[i][k] = broadcast(nu.data[k * nu.pitch + t + i]);
              });
            });
          }
          for_vectors<T>(shape.channels, [&](int64_t c, auto part) MIXNORM_INLINE_LAMBDA {
            const T* p = coef.data + c;
            const V shift = load(p, part);
            V v[kBlock], sum[kBlock] = {};
            repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
              const T* row = x.data + (t + i) * x.row + c;
              prefetch(row, ahead);
              Store::prepare(y.data + (t + i) * y.row + c, ahead);
              v[i] = load(row, part) - shift;
            });
            components.each([&](int k) MIXNORM_INLINE_LAMBDA {
              const V scale = load(p + (2 * k + 1) * coef.pitch, part);
              const V offset = load(p + (2 * k + 2) * coef.pitch, part);
              repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
                const V one = v[i] * scale + offset;
                if constexpr (K == 1) {
                  sum[i] = one;
                } else {
                  sum[i] += weight[i][k] * one;
                }
              });
            });
            repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
              Store::write(y.data + (t + i) * y.row + c, sum[i], part);
            });
          });
        });
    Store::finish();
  }

  static void posterior_gradient(TileShape shape, Tile<const T> dy, Tile<const T> x,
                                 Coefficients<T> coef, const T* constant, Weights<const T> nu,
                                 Weights<T> dlogit, int k_runtime, int64_t ahead) {
    const Components<K> components(k_runtime);
    for_vectors<T>(shape.length, [&](int64_t t0, auto positions) MIXNORM_INLINE_LAMBDA {
      V term[kMax][kWidth];
      const int64_t end = t0 + lanes_of<T>(positions);
      for_position_blocks<position_block<K>(K + 1)>(
          t0, end, [&](int64_t t, auto block) MIXNORM_INLINE_LAMBDA {
            constexpr int kBlock = decltype(block)::kSize;
            V sum[kBlock][kMax] = {};
            for_vectors<T>(shape.channels, [&](int64_t c, auto part) MIXNORM_INLINE_LAMBDA {
              const T* p = coef.data + c;
              const V shift = load(p, part);
              V v[kBlock], g[kBlock];
              repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
                prefetch_for_write(x.data + (t + i) * x.row + c, ahead);
                v[i] = load(x.data + (t + i) * x.row + c, part) - shift;
                g[i] = load(dy.data + (t + i) * dy.row + c, part);
              });
              components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
                const V scale = load(p + (4 * k - 3) * coef.pitch, part);
                const V offset = load(p + (4 * k - 2) * coef.pitch, part);
                const V quadratic = load(p + (4 * k - 1) * coef.pitch, part);
                const V linear = load(p + 4 * k * coef.pitch, part);
                repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
                  sum[i][k] += g[i] * (v[i] * scale + offset);
                  sum[i][k] += v[i] * (v[i] * quadratic + linear);
                });
              });
            });
            components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
              repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA { term[k][t - t0 + i] = sum[i][k]; });
            });
          });
      V gradient[kMax], weight[kMax], mean{};
      gradient[0] = V{};
      weight[0] = load(nu.data + t0, positions);
      components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
        for (int64_t i = end - t0; i < kWidth; ++i) term[k][i] = V{};
        gradient[k] = sum_lanes<T>(term[k]) + constant[k];
        weight[k] = load(nu.data + k * nu.pitch + t0, positions);
        mean += weight[k] * gradient[k];
      });
      components.each([&](int k) MIXNORM_INLINE_LAMBDA {
        store(dlogit.data + k * dlogit.pitch + t0, weight[k] * (gradient[k] - mean), positions);
      });
    });
  }

  template <class Store>
  static void input_gradient(TileShape shape, Tile<const T> dy, Tile<const T> x,
                             Coefficients<T> coef, Weights<const T> nu, Weights<const T> dlogit,
                             Tile<T> dx, int k_runtime, int64_t ahead) {
    const Components<K> components(k_runtime);
    const int64_t pairs =
        3 * components.count() - 1;  // pull_k at pairs + 2 k, precision_k after it
    for_position_blocks<position_block<K>(2 * K + 3)>(
        0, shape.length, [&](int64_t t, auto block) MIXNORM_INLINE_LAMBDA {
          constexpr int kBlock = decltype(block)::kSize;
          V weight[kBlock][kMax], logit[kBlock][kMax];
          repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
            components.each([&](int k) MIXNORM_INLINE_LAMBDA {
              if constexpr (K != 1) {
                weight[i][k] = broadcast(nu.data[k * nu.pitch + t + i]);
                logit[i][k] = broadcast(dlogit.data[k * dlogit.pitch + t + i]);
              } else {
                weight[i][k] = broadcast(T(1));
              }
            });
          });
          for_vectors<T>(shape.channels, [&](int64_t c, auto part) MIXNORM_INLINE_LAMBDA {
            const T* p = coef.data + c;
            V on_dy[kBlock] = {}, on_one[kBlock] = {}, on_x[kBlock] = {};
            components.each([&](int k) MIXNORM_INLINE_LAMBDA {
              const V scale = load(p + (3 * k + 1) * coef.pitch, part);
              const V linear = load(p + (3 * k + 2) * coef.pitch, part);
              const V curvature = load(p + (3 * k + 3) * coef.pitch, part);
              repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
                on_dy[i] += weight[i][k] * scale;
                on_one[i] += weight[i][k] * linear;
                on_x[i] += weight[i][k] * curvature;
              });
            });
            components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
              const V pull = load(p + (pairs + 2 * k) * coef.pitch, part);
              const V precision = load(p + (pairs + 2 * k + 1) * coef.pitch, part);
              repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
                on_one[i] += logit[i][k] * pull;
                on_x[i] -= logit[i][k] * precision;
              });
            });
            const V shift = load(p, part);
            repeat<kBlock>([&](int i) MIXNORM_INLINE_LAMBDA {
              const T* x_row = x.data + (t + i) * x.row + c;
              const T* dy_row = dy.data + (t + i) * dy.row + c;
              prefetch(x_row, ahead);
              prefetch(dy_row, ahead);
              Store::prepare(dx.data + (t + i) * dx.row + c, ahead);
              const V v = load(x_row, part) - shift;
              Store::write(dx.data + (t + i) * dx.row + c,
                           load(dy_row, part) * on_dy[i] + (v * on_x[i] + on_one[i]), part);
            });
          });
        });
    Store::finish();
  }
};

}  // namespace
}  // namespace mixnorm::cpu
