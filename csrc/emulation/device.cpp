#include "emulation/device.h"

#include <algorithm>

namespace mixnorm::emulation {

Device& device() {
  static Device value;
  return value;
}

uint64_t& schedule_seed() {
  static uint64_t value = 0;
  return value;
}

int blocks_per_multiprocessor(int block_size, size_t dynamic_bytes) {
  const Device& d = device();
  if (block_size < 1 || block_size > d.threads_per_block ||
      dynamic_bytes > static_cast<size_t>(d.shared_memory_per_block_optin)) {
    return 0;
  }
  const int threads = (block_size + 31) / 32 * 32;
  const int bytes = static_cast<int>(dynamic_bytes) + d.reserved_shared_memory_per_block;
  return std::min({d.blocks_per_multiprocessor, d.threads_per_multiprocessor / threads,
                   d.registers_per_multiprocessor / (d.registers_per_thread * threads),
                   d.shared_memory_per_multiprocessor / bytes});
}

int clusters_at_once(int cluster, int block_size, size_t dynamic_bytes) {
  const Device& d = device();
  if (!d.cluster_launch || cluster < 1 || cluster > d.blocks_per_cluster) return 0;
  return blocks_per_multiprocessor(block_size, dynamic_bytes) * d.multiprocessors / cluster;
}

}  // namespace mixnorm::emulation
