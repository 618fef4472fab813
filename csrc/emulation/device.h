// The device that is emulated: the limits of a Hopper GPU, with few multiprocessors by default so
// that a cooperative grid, all of whose threads are alive at once, stays small.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mixnorm::emulation {

struct Device {
  int multiprocessors = 4;
  int threads_per_block = 1024;
  int threads_per_multiprocessor = 2048;
  int blocks_per_multiprocessor = 32;
  int registers_per_multiprocessor = 65536;
  int shared_memory_per_block = 48 << 10;  // without opting in
  int shared_memory_per_block_optin = 227 << 10;
  int shared_memory_per_multiprocessor = 228 << 10;
  int reserved_shared_memory_per_block = 1 << 10;
  int l2_bytes = 50 << 20;
  int compute_capability_major = 9;
  int compute_capability_minor = 0;
  int cooperative_launch = 1;
  int cluster_launch = 1;
  int blocks_per_cluster = 8;  // the portable limit
  // Of any kernel: a CPU's compiler does not know.
  int registers_per_thread = 64;
};

// The one device there is, and the seed of the next launch's schedule. To be changed only while no
// kernel runs.
Device& device();
uint64_t& schedule_seed();

// How many blocks are on one multiprocessor at a time; 0 if not even one fits.
int blocks_per_multiprocessor(int block_size, size_t dynamic_bytes);

// How many clusters of so many blocks are on the device at a time, were all its multiprocessors one
// group that a cluster may lie on.
int clusters_at_once(int cluster, int block_size, size_t dynamic_bytes);

}  // namespace mixnorm::emulation
