"""Compiles what representative layers launch for each architecture; a register spill is an error."""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

CAPABILITIES = (80, 90, 100)


class Layer(NamedTuple):
    """A layer whose kernels are compiled."""

    shape: tuple[int, ...]
    components: int = 3
    groups: int = 1
    dtype: str = "float32"
    channels_last: bool = False

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{size} K={self.components} G={self.groups} {self.dtype} {layout}"


def layers() -> list[Layer]:
    found = []
    for channels_last in (False, True):
        for dtype in ("float32", "bfloat16"):
            for shape in ((64, 64, 56, 56), (64, 256, 56, 56), (64, 1024, 14, 14), (64, 2048, 7, 7)):
                found.append(Layer(shape, 3, 1, dtype, channels_last))
        found += [
            Layer((64, 64, 56, 56), k, g, "float32", channels_last)
            for k in (1, 8, 16)
            for g in (1, 64)
        ]
        found.append(Layer((64, 64, 56, 56), 3, 8, "bfloat16", channels_last))
        found.append(Layer((64, 64, 56, 56), 3, 1, "float64", channels_last))
    return found


def compile_layer(layer: Layer, capability: int) -> list:
    import torch
    import triton_aot

    from mixnorm_cuda.kernels.triton import launch_backward, launch_forward
    from mixnorm_cuda.types import Mixture

    x = torch.empty(layer.shape, dtype=getattr(torch, layer.dtype), device="meta")
    if layer.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    statistics = torch.float64 if layer.dtype == "float64" else torch.float32

    def empty(*size: int) -> torch.Tensor:
        return torch.empty(size, dtype=statistics, device="meta")

    k, c = layer.components, layer.shape[1]
    mixture = Mixture(empty(layer.groups, k), empty(k, c), empty(k, c))
    affine = (empty(c).expand(k, c), empty(c).expand(k, c))
    options = {"eps": 1e-5, "mixing_scale": True}
    with triton_aot.compiling(capability) as found:
        out = launch_forward.forward(x, mixture, *affine, em_iters=1, **options)
        launch_backward.backward(
            x, x, out.responsibilities, out.moments, out.mixture, *affine,
            responsibility_grad=True, mixture_grad=False, **options,
        )
        launch_forward.evaluate(x, mixture, *affine, **options)
        launch_backward.evaluate_backward(
            x, x, mixture, *affine, responsibility_grad=True, **options
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capability", type=int, nargs="*", default=CAPABILITIES)
    parser.add_argument("--match", default="")
    a = parser.parse_args()
    bad = 0
    jobs = [(layer, cap) for layer in layers() for cap in a.capability if a.match in str(layer)]
    started = time.time()
    with ProcessPoolExecutor(2) as pool:
        for (layer, cap), found in zip(jobs, pool.map(compile_layer, *zip(*jobs, strict=True)), strict=True):
            print(f"sm_{cap} {layer}")
            seen = set()
            for k in found:
                key = (k.name, k.tile)
                if key in seen:
                    continue
                seen.add(key)
                flag = "  SPILL" if k.stack else ""
                bad += bool(k.stack)
                print(
                    f"    {k.name:22} {k.tile:28} grid {'x'.join(map(str, k.grid)):9} warps {k.warps:2} registers {k.registers:3} stack {k.stack:3} shared {k.shared}{flag}"
                )
    print(f"check_triton: {len(jobs)} layers, {bad} spills, {time.time() - started:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
