// Training forward, moments and eval of a joint mixture of many components: the steps of
// forward_kernel.cuh with sweeps by matrix products.
#pragma once

#include "cuda/forward_kernel.cuh"
#include "cuda/matrix_sums.cuh"

namespace mixnorm::cuda {

template <class S, int K, Access kAccess>
__device__ void sum_matrix_moments(const Geometry& g, const Tensor& x, const float* table,
                                   const Partials<float>& partials,
                                   const Scratch<float, K>& scratch, unsigned char* slots,
                                   int sweep) {
  using Tiles = MatrixTiles<S, kAccess>;
  const WalkOver<Tiles> walk(g, slots, sweep);
  const MatrixThread& place = walk.place;
  sum_odds_constants<K>(g, place, table, scratch);
  MatrixSums<K> sums;
  float mass[kMatrixBlocks<K>][2] = {};
  const Tensor tensors[] = {x};
  walk.sweep(g, tensors, Tensor{}, [&](unsigned char* slot, auto&, int count, TileSlot) {
    {
      float values[kMatrixChannels][kMatrixPositions];
      Tiles::read(slot, 0, values);
      centre(values, load_shift<K, kMatrixChannels>(table, opaque(place.column)));
      matrix_responsibilities<K>(g, place, values, table, count, scratch, mass);
    }
    float summed[2][2][4];
    Tiles::read_summed(slot, 0, place, summed);
    const auto shift = load_shift<K, 2>(table, place.summed_column());
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float squares[2][4];
#pragma unroll
      for (int v = 0; v < 8; ++v) {
        float& value = summed[c][v / 4][v % 4];
        value -= shift.value[c];
        squares[v / 4][v % 4] = value * value;
      }
      sums.add(g, place, c, scratch.nu, summed[c], squares);
    }
  });
  store_matrix_sums<K>(g, place, sums, scratch.exchange,
                       partials.sums + int64_t(walk.chunk) * 2 * K * columns(g));
  store_matrix_masses<K>(g, place, mass, scratch.masses,
                         partials.masses + int64_t(walk.chunk) * g.groups * K);
}

// y = x' sum nu scale + sum nu offset.
template <class S, int K, Access kAccess>
__device__ void normalize_by_products(const Geometry& g, const Tensor& x, const Tensor& y,
                                      const float* table, const Scratch<float, K>& scratch,
                                      unsigned char* slots, int sweep) {
  using Tiles = MatrixTiles<S, kAccess>;
  const WalkOver<Tiles> walk(g, slots, sweep);
  const MatrixThread& place = walk.place;
  sum_odds_constants<K>(g, place, table, scratch);
  const Tensor tensors[] = {x};
  walk.sweep(g, tensors, y, [&](unsigned char* slot, auto& output, int count, TileSlot) {
    float values[kMatrixChannels][kMatrixPositions];
    Tiles::read(slot, 0, values);
    centre(values, load_shift<K, kMatrixChannels>(table, opaque(place.column)));
    matrix_responsibilities<K>(g, place, values, table, count, scratch, nullptr);
    const MixedRows<K> scales(table, place, Row<K>::scale), offsets(table, place, Row<K>::offset);
    const MixedWeights<K> nu(g, place, scratch.nu);
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        MatrixSum scale, offset;
#pragma unroll
        for (int block = 0; block < kMatrixBlocks<K>; ++block) {
          const MatrixA operand = nu.operand(block, pair);
          scale.add(operand, scales.operand(block, half));
          offset.add(operand, offsets.operand(block, half));
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& value = values[2 * half + e % 2][2 * pair + e / 2];
          value = value * scale[e] + offset[e];
        }
      }
    }
    output.write(values);
  });
}

template <class S, int K, Access kAccess>
__global__ void __launch_bounds__(kMatrixThreads<K>, 1)
    matrix_forward_kernel(const __grid_constant__ ForwardProblem<float> p, int first_step,
                          int last_step) {
  MIXNORM_DYNAMIC_SHARED(shared);
  const Geometry& g = p.geometry;
#pragma unroll 1
  for (int step = first_step; step < last_step; ++step) {
    if (step > first_step) wait_between_steps(g.scope, p.barrier, step - first_step - 1);
    const Scratch<float, K> scratch(shared, g, MatrixTiles<S, kAccess>::slot_bytes());
    if (step == 0) {
      prepare<S, K>(g, p.x, p.start, p.table, scratch.doubles());
    } else if (is_output_step(p, step)) {
      normalize_by_products<S, K, kAccess>(g, p.x, p.y, p.table, scratch, shared, step / 2);
      return;  // the last step: it has no register for a next one
    } else if (step % 2 == 1) {
      sum_matrix_moments<S, K, kAccess>(g, p.x, p.table, p.partials, scratch, shared, step / 2);
    } else {
      merge_moments_of_step<float, K>(p, step, scratch.doubles());
    }
  }
}

template <class S>
struct FindMatrixForward {
  template <int K, Access kAccess>
  ForwardKernel<float> operator()(Instance<K, kAccess>) const {
    return matrix_forward_kernel<S, K, kAccess>;
  }
};

// As find_forward_kernel.
template <class S>
ForwardKernel<float> find_matrix_forward_kernel(Access access, int* components);

}  // namespace mixnorm::cuda
