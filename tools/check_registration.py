"""Whether the CUDA library loads and implements every operator for CUDA tensors. Needs no GPU.

Run in an environment whose PyTorch has CUDA, after FORCE_CUDA=1 has built the library.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> int:
    """Print what is registered; 1 if the library is missing or lacks an operator."""
    import torch

    from mixnorm_cuda.kernels.native import loader, registration

    reason = loader.missing("cuda")
    if reason is not None:
        print(f"check_registration: {reason}")
        return 1
    names = registration.OPERATORS
    registered = torch._C._dispatch_has_kernel_for_dispatch_key
    lacking = sorted(name for name in names if not registered(f"mixnorm::{name}", "CUDA"))
    for name in lacking:
        print(f"check_registration: mixnorm::{name} has no implementation for CUDA tensors")
    if not lacking:
        print(f"check_registration: {len(names)} operators for CUDA tensors")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
