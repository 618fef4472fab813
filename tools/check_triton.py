"""Compiles what representative layers launch for each architecture; a register spill is an error.

``--all`` compiles more layers. ``--counts FILE`` writes what an element costs in the machine code
of sm_90, for `python -m bench.readme`. Where there is no Triton, says so and exits 0.
"""

import argparse
import importlib.util
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triton_aot import Compiled, Layer

CAPABILITIES = (80, 90, 100)
COUNTED = ("moments", "normalize", "output_sums", "input_gradient", "evaluate")


def representative(everything: bool) -> "list[Layer]":
    """Both layouts, precisions, mixtures for all and for each channel, few and many components."""
    from triton_aot import Layer

    layers = [
        Layer((64, 64, 56, 56)),
        Layer((64, 64, 56, 56), channels_last=True),
        Layer((64, 256, 56, 56), dtype="bfloat16"),
        Layer((64, 1024, 14, 14), dtype="bfloat16", channels_last=True),
        Layer((64, 2048, 7, 7)),
        Layer((64, 64, 56, 56), 16),
        Layer((64, 64, 56, 56), 8, channels_last=True),
        Layer((64, 64, 56, 56), 8, 64),
        Layer((64, 64, 56, 56), 16, 64, channels_last=True),
        Layer((64, 64, 56, 56), 3, 8, "bfloat16"),
        # Small enough for one launch.
        Layer((4, 64, 8, 8)),
        Layer((64, 256)),
        Layer((8, 256, 14, 14), 3, 256, "bfloat16"),
        Layer((8, 64, 8, 8), 4, 8, channels_last=True),
    ]
    if everything:
        for channels_last in (False, True):
            layers += [
                Layer((64, 256, 56, 56), channels_last=channels_last),
                Layer((64, 1024, 14, 14), channels_last=channels_last),
                Layer((64, 64, 56, 56), dtype="bfloat16", channels_last=channels_last),
                Layer((64, 2048, 7, 7), dtype="bfloat16", channels_last=channels_last),
                Layer((64, 64, 56, 56), 1, channels_last=channels_last),
                Layer((64, 64, 56, 56), 3, 64, channels_last=channels_last),
                Layer((64, 64, 56, 56), 3, 1, "float64", channels_last),
                Layer((8, 128, 4, 4), 4, channels_last=channels_last),
                Layer((8, 256, 7, 7), 4, 256, channels_last=channels_last),
                Layer((16, 256, 7, 7), 1, channels_last=channels_last),
                Layer((2, 64, 8, 8), 4, 1, "float64", channels_last),
            ]
        layers += [Layer((64, 64, 56, 56), 16, channels_last=True), Layer((64, 64, 56, 56), 16, 64)]
    return layers


def compile_job(layer: "Layer", capability: int) -> "list[Compiled]":
    import triton_aot

    return triton_aot.compile_layer(layer, capability)


def report(layer: "Layer", capability: int, kernels: "list[Compiled]") -> int:
    """Print the layer's kernels; returns how many spill."""
    print(f"\nsm_{capability} {layer}\n  {'kernel':20} {'tile':26} {'grid':>9} warps registers "
          "stack spills shared")  # fmt: skip
    lines: dict[str, bool] = {}
    for k in kernels:
        grid = "x".join(map(str, k.grid))
        line = (
            f"  {k.name:20} {k.tile:26} {grid:>9} {k.warps:5} {k.registers:9} {k.stack:5} "
            f"{k.spills:6} {k.shared:6}{'  SPILL' if k.spills else ''}"
        )
        lines[line] = k.spills > 0
    print("\n".join(lines), flush=True)
    return sum(lines.values())


def counts() -> list[dict[str, Any]]:
    """What an element costs in each sweep of a training step, sm_90."""
    from triton_aot import Layer, compile_layer, loop_counts

    found = []
    for dtype in ("float32", "bfloat16"):
        for channels_last in (False, True):
            layer = Layer((64, 64, 56, 56), dtype=dtype, channels_last=channels_last)
            seen: set[str] = set()
            for kernel in compile_layer(layer, 90, COUNTED):
                if kernel.name in seen:
                    continue
                # An EM step's moments come first, then the training step's kernels, then eval's.
                if kernel.name == "moments" and not kernel.sizes["STORE_NU"]:
                    continue
                seen.add(kernel.name)
                found.append(
                    {
                        "dtype": dtype,
                        "layout": "channels_last" if channels_last else "contiguous",
                        "kernel": kernel.name,
                        "registers": kernel.registers,
                        "threads": 32 * kernel.warps,
                        **loop_counts(kernel)._asdict(),
                    }
                )
    return found


def moments_counts() -> list[dict[str, Any]]:
    """What an element costs in the sweeps that make the moments, with either kind of product."""
    from triton_aot import compile_moments, loop_counts

    return [
        {
            "dtype": dtype,
            "channels": channels,
            "num_components": components,
            "how": "tl.dot" if dot else "multiply-adds",
            "kernel": kernel.name,
            "registers": kernel.registers,
            **loop_counts(kernel)._asdict(),
        }
        for dtype in ("float32", "bfloat16")
        for channels in (32, 64, 256)
        for components in (3, 5, 8, 16)
        for dot in ((False, True) if channels <= 64 else (False,))
        for kernel in compile_moments((64, channels, 28, 28), components, dtype, 90, dot=dot)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capability", type=int, nargs="+", default=CAPABILITIES)
    parser.add_argument("--all", action="store_true", help="more layers")
    parser.add_argument("--counts", type=Path, help="write instruction counts to this file")
    a = parser.parse_args()
    if importlib.util.find_spec("triton") is None:
        print("check_triton: left out: Triton is not installed (pip install triton)")
        return 0
    if a.counts:
        import triton

        sizes = {"shape": [64, 64, 56, 56], "num_components": 3, "groups": 1}
        content = {"triton": triton.__version__, "target": "sm_90", **sizes, "rows": counts()}
        content["moments"] = moments_counts()
        a.counts.parent.mkdir(parents=True, exist_ok=True)
        a.counts.write_text(json.dumps(content, indent=1) + "\n")
        return 0
    jobs = [(layer, cap) for layer in representative(a.all) for cap in a.capability]
    spills = 0
    with ProcessPoolExecutor(2) as pool:
        results = pool.map(compile_job, *zip(*jobs, strict=True))
        for (layer, capability), kernels in zip(jobs, results, strict=True):
            spills += report(layer, capability, kernels)
    print(f"\ncheck_triton: {len(jobs)} layers compiled, {spills or 'no'} kernels spill")
    return int(spills > 0)


if __name__ == "__main__":
    sys.exit(main())
