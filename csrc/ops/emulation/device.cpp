#include "emulation/device.h"

#include <torch/csrc/stable/library.h>

#include <string>

#include "emulation/launch.h"
#include "emulation/omission.h"
#include "ops/check.h"

namespace mixnorm::ops {
namespace {

void omit_synchronization(const std::string& place) { emulation::omit_synchronization(place); }

std::string synchronization_places() { return emulation::synchronization_places(); }

// How many launches and fills of memory there have been.
int64_t enqueued() { return emulation::enqueued(); }

// Returns the seed of before.
int64_t schedule(int64_t seed) {
  const auto before = static_cast<int64_t>(emulation::schedule_seed());
  emulation::schedule_seed() = static_cast<uint64_t>(seed);
  return before;
}

// A device like the default one but for these limits; 0 leaves one as it is by default. The plan is
// a large device's, too; a launch that fills one takes minutes and gigabytes.
void emulate(int64_t multiprocessors, int64_t shared_memory_per_block, bool cooperative_launch,
             bool cluster_launch) {
  emulation::Device device;
  MIXNORM_CHECK(multiprocessors >= 0 && multiprocessors <= 256, "emulate: multiprocessors is ",
                multiprocessors, ", expected 0 to 256");
  MIXNORM_CHECK(shared_memory_per_block >= 0 &&
                    shared_memory_per_block <= device.shared_memory_per_block_optin,
                "emulate: shared_memory_per_block is ", shared_memory_per_block, ", expected 0 to ",
                device.shared_memory_per_block_optin);
  if (multiprocessors > 0) device.multiprocessors = static_cast<int>(multiprocessors);
  if (shared_memory_per_block > 0) {
    device.shared_memory_per_block_optin = static_cast<int>(shared_memory_per_block);
    device.shared_memory_per_multiprocessor =
        device.shared_memory_per_block_optin + device.reserved_shared_memory_per_block;
  }
  device.cooperative_launch = cooperative_launch;
  device.cluster_launch = cluster_launch;
  emulation::device() = device;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixnorm_emulated, CompositeExplicitAutograd, m) {
  m.impl("schedule", TORCH_BOX(&schedule));
  m.impl("omit_synchronization", TORCH_BOX(&omit_synchronization));
  m.impl("synchronization_places", TORCH_BOX(&synchronization_places));
  m.impl("enqueued", TORCH_BOX(&enqueued));
  m.impl("emulate", TORCH_BOX(&emulate));
}

}  // namespace mixnorm::ops
