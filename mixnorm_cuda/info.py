"""Versions, backends and devices: ``build_info()`` and ``python -m mixnorm_cuda.info``."""

import argparse
import sys
from typing import Any

import torch

from mixnorm_cuda import dispatch
from mixnorm_cuda.kernels.native.build_config import build_config


def build_info() -> dict[str, Any]:
    """What this installation consists of and can use.

    Returns:
        versions (``mixnorm_cuda``, ``torch``, ``python``, what the libraries were built with),
        ``backends``: name -> None when usable, else why not and how to get it, and ``devices``.
    """
    return {
        **build_config(),
        "backends": {name: backend.missing() for name, backend in dispatch.BACKENDS.items()},
        "devices": _devices(),
    }


def _devices() -> list[str]:
    names = [f"cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"]
    for index in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(index)
        names.append(
            f"cuda:{index} {p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB"
        )
    return names


def main(argv: list[str] | None = None) -> int:
    """Print `build_info`; with ``--shape`` also the backend that an input would get."""
    parser = argparse.ArgumentParser(prog="python -m mixnorm_cuda.info", description=main.__doc__)
    parser.add_argument("--shape", help="input shape such as 64,256,56,56")
    parser.add_argument("--dtype", default="float32", help="input dtype (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="input device (default: %(default)s)")
    parser.add_argument("--num-components", type=int, default=3, help="K (default: %(default)s)")
    parser.add_argument("--groups", type=int, default=1, help="G (default: %(default)s)")
    arguments = parser.parse_args(argv)

    info = build_info()
    backends, devices = info.pop("backends"), info.pop("devices")
    width = max(map(len, (*info, *backends)))
    for name, value in info.items():
        print(f"{name:<{width}}  {value}")
    print("\nbackends")
    for name, reason in backends.items():
        print(f"  {name:<{width}}  {'usable' if reason is None else f'no: {reason}'}")
    print("\ndevices")
    for device in devices:
        print(f"  {device}")
    if arguments.shape is None:
        return 0
    try:
        shape = [int(size) for size in arguments.shape.split(",")]
        x = torch.empty(0, dtype=getattr(torch, arguments.dtype), device=arguments.device)
        x = x.new_empty(1).expand(shape)
    except (ValueError, AttributeError, RuntimeError) as error:
        parser.error(f"--shape {arguments.shape} --dtype {arguments.dtype}: {error}")
    print(f"\nbackends for {tuple(shape)} {arguments.dtype} on {arguments.device}")
    for name in dispatch.BACKENDS:
        reason = dispatch.why_not(name, x, arguments.num_components, arguments.groups)
        print(f"  {name:<{width}}  {'serves' if reason is None else f'no: {reason}'}")
    chosen = dispatch.select("auto", x, arguments.num_components, arguments.groups)
    print(f"  auto takes {chosen.name!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
