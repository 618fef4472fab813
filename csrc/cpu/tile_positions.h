// Tile kernels whose lanes are positions (NCHW): sums over channels run down the registers, sums
// over positions are folded at the end of a row. Blocks of channels share each load of the weights.
#pragma once

#include "cpu/simd.h"
#include "cpu/tile.h"

namespace mixnorm::cpu {
namespace {

// Channels handled at once, so that their broadcast coefficients or accumulators stay in registers.
template <int K>
constexpr int channel_block(int registers_per_channel) {
  constexpr int kBudget = MIXNORM_VECTOR_BYTES == 64 ? 22 : 10;
  const int fit = K == 0 ? 1 : kBudget / registers_per_channel;
  return fit < 1 ? 1 : fit > 4 ? 4 : fit;
}

// The same for accumulators, which are folded kLanes at a time.
template <class T, int K>
constexpr int accumulator_block() {
  const int fit = K == 0 ? 1 : kLanes<T> / (2 * K);
  return fit < 1 ? 1 : fit > 4 ? 4 : fit;
}

// f(first channel, block of Block channels) then f(.., block of 1) for the rest.
template <int N, class F>
MIXNORM_INLINE void for_channel_blocks(int64_t channels, F&& f) {
  int64_t c = 0;
  for (; c + N <= channels; c += N) f(c, Block<N>{});
  if constexpr (N > 1) {
    for (; c < channels; ++c) f(c, Block<1>{});
  }
}

// f(Block<N>) where all rows of `out` are aligned to the vector. Else rows are handled one by one,
// f(Block<1>): each has vectors of its own that are (for_output_vectors).
template <int N, class T, class F>
MIXNORM_INLINE void with_aligned_rows(TileShape shape, Tile<T> out, F&& f) {
  const int64_t elements = out.row | (shape.segments > 1 ? out.segment : 0);
  const bool aligned =
      (reinterpret_cast<uintptr_t>(out.data) | elements * sizeof(T)) % MIXNORM_VECTOR_BYTES == 0;
  if (N > 1 && aligned) {
    f(Block<N>{});
  } else {
    f(Block<1>{});
  }
}

template <class T, int N, class F>
MIXNORM_INLINE void for_output_vectors(Block<N>, const T* out, int64_t length, F&& f) {
  if constexpr (N > 1) {
    for_vectors<T>(length, f);
  } else {
    for_aligned_vectors<T>(out, length, f);
  }
}

template <class T, int K>
struct PositionLanes {
  using V = Vec<T>;
  static constexpr int kMax = Components<K>::kMax;

  static void responsibilities(TileShape shape, Tile<const T> x, Coefficients<T> coef,
                               const T* constant, Weights<T> nu, int k_runtime, int64_t ahead) {
    const Components<K> components(k_runtime);
    for_channel_blocks<channel_block<K>(2 * K - 1)>(
        shape.channels, [&](int64_t c0, auto block) MIXNORM_INLINE_LAMBDA {
          constexpr int kBlock = decltype(block)::kSize;
          V shift[kBlock], quadratic[kBlock][kMax], linear[kBlock][kMax];
          repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
            const T* p = coef.data + (c0 + c) * coef.pitch;
            shift[c] = broadcast(p[0]);
            components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
              quadratic[c][k] = broadcast(p[2 * k - 1]);
              linear[c][k] = broadcast(p[2 * k]);
            });
          });
          for (int64_t s = 0; s < shape.segments; ++s) {
            const T* row = x.data + c0 * x.row + s * x.segment;
            T* out = nu.data + s * shape.length;
            for_vectors<T>(shape.length, [&](int64_t t, auto part) MIXNORM_INLINE_LAMBDA {
              // A block's channels are summed before they meet the others: fewer roundings of a
              // sum that grows with the channels.
              V sum[kMax] = {};
              repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
                const T* p = row + c * x.row + t;
                prefetch(p, ahead);
                const V v = load(p, part) - shift[c];
                components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
                  sum[k] += v * (v * quadratic[c][k] + linear[c][k]);
                });
              });
              components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
                T* p = out + k * nu.pitch + t;
                const V before = c0 == 0 ? broadcast(constant[k]) : load(p, part);
                store(p, before + sum[k], part);
              });
            });
          }
        });
    for_vectors<T>(shape.positions(), [&](int64_t t, auto part) MIXNORM_INLINE_LAMBDA {
      V v[kMax];
      v[0] = V{};
      components.each_but_first(
          [&](int k) MIXNORM_INLINE_LAMBDA { v[k] = load(nu.data + k * nu.pitch + t, part); });
      softmax<T>(components, v);
      components.each([&](int k)
                          MIXNORM_INLINE_LAMBDA { store(nu.data + k * nu.pitch + t, v[k], part); });
    });
  }

  template <bool kOwn>  // u is x'
  static MIXNORM_INLINE void accumulate_as(TileShape shape, Tile<const T> u, Tile<const T> x,
                                           Coefficients<T> coef, Weights<const T> w, int k_runtime,
                                           Sums sums, int64_t ahead) {
    const Components<K> components(k_runtime);
    constexpr int kLane = kLanes<T>;
    for_channel_blocks<accumulator_block<T, K>()>(
        shape.channels, [&](int64_t c0, auto block) MIXNORM_INLINE_LAMBDA {
          constexpr int kBlock = decltype(block)::kSize;
          constexpr int kGroups = (kBlock * 2 * kMax + kLane - 1) / kLane;
          V total[kGroups * kLane] = {};
          V shift[kBlock];
          repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
            shift[c] = broadcast(coef.data[(c0 + c) * coef.pitch]);
          });
          for (int64_t s = 0; s < shape.segments; ++s) {
            const T* x_row = x.data + c0 * x.row + s * x.segment;
            const T* u_row = u.data + c0 * u.row + s * u.segment;
            const T* weight = w.data + s * shape.length;
            for_vectors<T>(shape.length, [&](int64_t t, auto part) MIXNORM_INLINE_LAMBDA {
              V first[kBlock], second[kBlock];
              repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
                const T* p = x_row + c * x.row + t;
                prefetch(p, ahead);
                const V v = load(p, part) - shift[c];
                if constexpr (kOwn) {
                  first[c] = v;
                } else {
                  prefetch(u_row + c * u.row + t, ahead);
                  first[c] = load(u_row + c * u.row + t, part);
                }
                second[c] = first[c] * v;
              });
              if constexpr (K == 1) {
                // Lanes past the end hold -shift, which weights of 0 would have removed.
                repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
                  total[2 * c] += keep<T>(first[c], part);
                  total[2 * c + 1] += keep<T>(second[c], part);
                });
              } else {
                components.each([&](int k) MIXNORM_INLINE_LAMBDA {
                  const V weight_k = load(weight + k * w.pitch + t, part);
                  repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
                    V* out = total + c * 2 * components.count() + 2 * k;
                    out[0] += weight_k * first[c];
                    out[1] += weight_k * second[c];
                  });
                });
              }
            });
          }
          // Lanes past the block's last sum add 0 to whatever follows (Sums has room for that).
          double* out = sums.data + c0 * sums.pitch;
          repeat<kGroups>([&](int g) MIXNORM_INLINE_LAMBDA {
            add_to<T>(out + g * kLane, sum_lanes<T>(total + g * kLane), Full{});
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
    with_aligned_rows<channel_block<K>(2 * K + 1)>(shape, y, [&](auto rows) MIXNORM_INLINE_LAMBDA {
      for_channel_blocks<decltype(rows)::kSize>(
          shape.channels, [&](int64_t c0, auto block) MIXNORM_INLINE_LAMBDA {
            constexpr int kBlock = decltype(block)::kSize;
            V shift[kBlock], scale[kBlock][kMax], offset[kBlock][kMax];
            repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
              const T* p = coef.data + (c0 + c) * coef.pitch;
              shift[c] = broadcast(p[0]);
              components.each([&](int k) MIXNORM_INLINE_LAMBDA {
                scale[c][k] = broadcast(p[2 * k + 1]);
                offset[c][k] = broadcast(p[2 * k + 2]);
              });
            });
            for (int64_t s = 0; s < shape.segments; ++s) {
              const T* row = x.data + c0 * x.row + s * x.segment;
              T* out = y.data + c0 * y.row + s * y.segment;
              const T* weight = nu.data + s * shape.length;
              for_output_vectors<T>(rows, out, shape.length,
                                    [&](int64_t t, auto part) MIXNORM_INLINE_LAMBDA {
                                      V v[kBlock], sum[kBlock] = {};
                                      repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
                                        prefetch(row + c * x.row + t, ahead);
                                        Store::prepare(out + c * y.row + t, ahead);
                                        v[c] = load(row + c * x.row + t, part) - shift[c];
                                      });
                                      components.each([&](int k) MIXNORM_INLINE_LAMBDA {
                                        V weight_k{};
                                        if constexpr (K != 1)
                                          weight_k = load(weight + k * nu.pitch + t, part);
                                        repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
                                          const V one = v[c] * scale[c][k] + offset[c][k];
                                          sum[c] = K == 1 ? one : sum[c] + weight_k * one;
                                        });
                                      });
                                      repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
                                        Store::write(out + c * y.row + t, sum[c], part);
                                      });
                                    });
            }
          });
    });
    Store::finish();
  }

  static void posterior_gradient(TileShape shape, Tile<const T> dy, Tile<const T> x,
                                 Coefficients<T> coef, const T* constant, Weights<const T> nu,
                                 Weights<T> dlogit, int k_runtime, int64_t ahead) {
    const Components<K> components(k_runtime);
    for_channel_blocks<channel_block<K>(4 * K - 3)>(
        shape.channels, [&](int64_t c0, auto block) MIXNORM_INLINE_LAMBDA {
          constexpr int kBlock = decltype(block)::kSize;
          V shift[kBlock], scale[kBlock][kMax], offset[kBlock][kMax], quadratic[kBlock][kMax],
              linear[kBlock][kMax];
          repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
            const T* p = coef.data + (c0 + c) * coef.pitch;
            shift[c] = broadcast(p[0]);
            components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
              scale[c][k] = broadcast(p[4 * k - 3]);
              offset[c][k] = broadcast(p[4 * k - 2]);
              quadratic[c][k] = broadcast(p[4 * k - 1]);
              linear[c][k] = broadcast(p[4 * k]);
            });
          });
          for (int64_t s = 0; s < shape.segments; ++s) {
            const T* x_row = x.data + c0 * x.row + s * x.segment;
            const T* dy_row = dy.data + c0 * dy.row + s * dy.segment;
            T* out = dlogit.data + s * shape.length;
            for_vectors<T>(shape.length, [&](int64_t t, auto part) MIXNORM_INLINE_LAMBDA {
              V sum[kMax];
              components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
                sum[k] = c0 == 0 ? broadcast(constant[k]) : load(out + k * dlogit.pitch + t, part);
              });
              repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
                prefetch_for_write(x_row + c * x.row + t, ahead);
                const V v = load(x_row + c * x.row + t, part) - shift[c];
                const V g = load(dy_row + c * dy.row + t, part);
                components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
                  sum[k] += g * (v * scale[c][k] + offset[c][k]);
                  sum[k] += v * (v * quadratic[c][k] + linear[c][k]);
                });
              });
              components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
                store(out + k * dlogit.pitch + t, sum[k], part);
              });
            });
          }
        });
    for_vectors<T>(shape.positions(), [&](int64_t t, auto part) MIXNORM_INLINE_LAMBDA {
      V gradient[kMax], weight[kMax], mean{};
      gradient[0] = V{};
      weight[0] = load(nu.data + t, part);
      components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
        gradient[k] = load(dlogit.data + k * dlogit.pitch + t, part);
        weight[k] = load(nu.data + k * nu.pitch + t, part);
        mean += weight[k] * gradient[k];
      });
      components.each([&](int k) MIXNORM_INLINE_LAMBDA {
        store(dlogit.data + k * dlogit.pitch + t, weight[k] * (gradient[k] - mean), part);
      });
    });
  }

  template <class Store>
  static void input_gradient(TileShape shape, Tile<const T> dy, Tile<const T> x,
                             Coefficients<T> coef, Weights<const T> nu, Weights<const T> dlogit,
                             Tile<T> dx, int k_runtime, int64_t ahead) {
    const Components<K> components(k_runtime);
    const int pairs = 3 * components.count() - 1;  // pull_k at pairs + 2 k, precision_k after it
    with_aligned_rows<channel_block<K>(5 * K - 1)>(shape, dx, [&](auto rows) MIXNORM_INLINE_LAMBDA {
      for_channel_blocks<decltype(rows)::kSize>(
          shape.channels, [&](int64_t c0, auto block) MIXNORM_INLINE_LAMBDA {
            constexpr int kBlock = decltype(block)::kSize;
            V shift[kBlock], scale[kBlock][kMax], linear[kBlock][kMax], curvature[kBlock][kMax],
                pull[kBlock][kMax], precision[kBlock][kMax];
            repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
              const T* p = coef.data + (c0 + c) * coef.pitch;
              shift[c] = broadcast(p[0]);
              components.each([&](int k) MIXNORM_INLINE_LAMBDA {
                scale[c][k] = broadcast(p[3 * k + 1]);
                linear[c][k] = broadcast(p[3 * k + 2]);
                curvature[c][k] = broadcast(p[3 * k + 3]);
              });
              components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
                pull[c][k] = broadcast(p[pairs + 2 * k]);
                precision[c][k] = broadcast(p[pairs + 2 * k + 1]);
              });
            });
            for (int64_t s = 0; s < shape.segments; ++s) {
              const T* x_row = x.data + c0 * x.row + s * x.segment;
              const T* dy_row = dy.data + c0 * dy.row + s * dy.segment;
              T* out = dx.data + c0 * dx.row + s * dx.segment;
              const T* weight = nu.data + s * shape.length;
              const T* logit = dlogit.data + s * shape.length;
              for_output_vectors<T>(
                  rows, out, shape.length, [&](int64_t t, auto part) MIXNORM_INLINE_LAMBDA {
                    V on_dy[kBlock] = {}, on_one[kBlock] = {}, on_x[kBlock] = {};
                    components.each([&](int k) MIXNORM_INLINE_LAMBDA {
                      V weight_k = broadcast(T(1));
                      if constexpr (K != 1) weight_k = load(weight + k * nu.pitch + t, part);
                      repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
                        on_dy[c] += weight_k * scale[c][k];
                        on_one[c] += weight_k * linear[c][k];
                        on_x[c] += weight_k * curvature[c][k];
                      });
                    });
                    components.each_but_first([&](int k) MIXNORM_INLINE_LAMBDA {
                      const V logit_k = load(logit + k * dlogit.pitch + t, part);
                      repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
                        on_one[c] += logit_k * pull[c][k];
                        on_x[c] -= logit_k * precision[c][k];
                      });
                    });
                    repeat<kBlock>([&](int c) MIXNORM_INLINE_LAMBDA {
                      prefetch(x_row + c * x.row + t, ahead);
                      prefetch(dy_row + c * dy.row + t, ahead);
                      Store::prepare(out + c * dx.row + t, ahead);
                      const V v = load(x_row + c * x.row + t, part) - shift[c];
                      const V g = load(dy_row + c * dy.row + t, part);
                      Store::write(out + c * dx.row + t, g * on_dy[c] + (v * on_x[c] + on_one[c]),
                                   part);
                    });
                  });
            }
          });
    });
    Store::finish();
  }
};

}  // namespace
}  // namespace mixnorm::cpu
