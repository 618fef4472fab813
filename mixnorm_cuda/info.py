"""``python -m mixnorm_cuda.info``: what is installed, and the backend that an input would get."""

import argparse
import sys

import torch
from torch import Tensor

from mixnorm_cuda import checks, dispatch
from mixnorm_cuda.installation import build_info


def main(argv: list[str] | None = None) -> int:
    """Print `build_info`; with ``--shape`` also the backend that an input would get."""
    parser = argparse.ArgumentParser(prog="python -m mixnorm_cuda.info", description=main.__doc__)
    parser.add_argument("--shape", help="input shape such as 64,256,56,56")
    parser.add_argument("--dtype", default="float32", help="input dtype (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="input device (default: %(default)s)")
    parser.add_argument("--num-components", type=int, default=3, help="K (default: %(default)s)")
    parser.add_argument("--groups", type=int, default=1, help="G (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        x = None if arguments.shape is None else _input(arguments)
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        # torch asserts that it was built for the device asked for.
        parser.error(str(error))

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
    if x is not None:
        _print_choice(x, arguments.num_components, arguments.groups, width)
    return 0


def _input(arguments: argparse.Namespace) -> Tensor:
    """A tensor of the shape, dtype and device asked for, without memory of that size."""
    try:
        shape = [int(size) for size in arguments.shape.split(",")]
    except ValueError:
        shape = [-1]
    if min(shape) < 0:
        raise ValueError(f"--shape {arguments.shape}: expected sizes such as 64,256,56,56")
    dtype = getattr(torch, arguments.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"--dtype {arguments.dtype}: expected a name such as bfloat16")
    x = torch.empty(1, dtype=dtype, device=arguments.device).expand(shape)
    checks.check_input(x)
    checks.check_components(arguments.num_components)
    checks.check_groups(arguments.groups, x.shape[1])
    return x


def _print_choice(x: Tensor, num_components: int, groups: int, width: int) -> None:
    print(f"\nbackends for {tuple(x.shape)} {x.dtype} on {x.device}")
    for name in dispatch.BACKENDS:
        reason = dispatch.why_not(name, x, num_components, groups)
        print(f"  {name:<{width}}  {'serves' if reason is None else f'no: {reason}'}")
        if reason is None:
            _print_plans(name, x, num_components, groups)
    try:
        print(f"  auto takes {dispatch.select('auto', x, num_components, groups).name!r}")
    except (ValueError, dispatch.BackendUnavailableError) as error:
        print(f"  auto raises: {error}")


def _print_plans(name: str, x: Tensor, num_components: int, groups: int) -> None:
    """How the kernels of a backend that plans its launches by the shape would be launched."""
    backend = dispatch.BACKENDS[name]
    if hasattr(backend, "plans"):
        for which, plan in backend.plans(x, num_components, groups).items():
            print(f"    {which}: {plan}")


if __name__ == "__main__":
    sys.exit(main())
