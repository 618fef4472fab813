"""One training step and one eval of layers, for a profiler to look at their kernels.

    ncu --kernel-name-base mangled --kernel-name regex:mixnorm python tools/cuda_steps.py

Prints each layer's plan, so that kernels can be told apart by their order.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mixnorm_cuda import MixtureNorm2d
from mixnorm_cuda.kernels.native.backend import NativeCudaBackend

LAYERS = (
    # shape, K, G, dtype: on chip, beyond it, many channels, per channel, many components, small
    ((64, 64, 32, 32), 3, 1, "float32"),
    ((256, 64, 56, 56), 3, 1, "float32"),
    ((256, 64, 56, 56), 3, 1, "bfloat16"),
    ((64, 1024, 14, 14), 3, 1, "float32"),
    ((64, 64, 56, 56), 3, 64, "float32"),
    ((64, 64, 56, 56), 8, 1, "float32"),
    ((4, 16, 4, 4), 3, 1, "float32"),
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emulated", action="store_true", help="on the CPU, for a trial")
    parser.add_argument("--divide", type=int, default=1, help="the batches by this, for a trial")
    arguments = parser.parse_args(argv)
    backend = NativeCudaBackend(emulated=arguments.emulated)
    device = "cpu" if arguments.emulated else "cuda"
    for (batch, *rest), components, groups, dtype in LAYERS:
        shape = (max(1, batch // arguments.divide), *rest)
        x = torch.randn(shape, device=device).to(getattr(torch, dtype))
        print(f"{shape} {dtype} K={components} G={groups}")
        plans = backend.plans(x, components, groups)
        for name, plan in plans.items():
            print(f"  {name}: {plan}")
        layer = MixtureNorm2d(
            shape[1], num_components=components, groups=groups, backend=backend.name,
            device=device,
        )  # fmt: skip
        layer(x)  # seeds
        for channels_last in (False, True):
            memory = torch.channels_last if channels_last else torch.contiguous_format
            x = x.detach().to(memory_format=memory).requires_grad_()
            layer.train()(x).sum().backward()
            with torch.no_grad():
                y = layer.eval()(x)
            if not y.isfinite().all():
                print("  the output is not finite")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
