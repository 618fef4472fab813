"""What operators do around their kernels: they stay on the device of their input, never read from
it, and never hand work to another backend."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from mixnorm_cuda import MixtureNorm2d
from mixnorm_cuda.kernels.triton import launch, operators, problem
from mixnorm_cuda.kernels.triton.config import NU_CHANNEL
from mixnorm_cuda.kernels.triton.problem import Problem
from mixnorm_cuda.reference import ReferenceBackend
from mixnorm_cuda.types import Mixture
from tests.kernels.triton.cases import Case
from tests.kernels.triton.test_registration import CHANNELS, INPUTS, OPERATORS, arguments
from tests.support import EPS

SETTINGS = [(3, 1), (16, 1), (3, 2), (16, CHANNELS)]


@pytest.fixture
def started(monkeypatch) -> list[tuple[Any, ...]]:
    """Arguments of the launches, none of which takes place."""
    found: list[tuple[Any, ...]] = []
    monkeypatch.setattr(launch, "run", lambda *arguments, **sizes: found.append(arguments))
    return found


@pytest.mark.parametrize(("components", "groups"), SETTINGS)
@pytest.mark.parametrize("name", OPERATORS)
def test_no_operator_reads_from_the_device(name, components, groups, started):
    """Tensors without memory have sizes alone: what ran on them waits for no kernel and sizes
    no memory by a value, so that CUDA graphs can hold it."""
    x = INPUTS["contiguous"].to("meta")
    operators._BODIES[name](*meta(name, x, components, groups))
    tensors = [t for launched in started for t in launched if isinstance(t, torch.Tensor)]
    assert tensors
    assert all(t.is_meta for t in tensors)


def meta(name: str, x: torch.Tensor, components: int, groups: int) -> list[Any]:
    """The operator's arguments without memory."""
    if name == "backward":  # takes what a forward returned
        forward = operators._BODIES["forward"](*meta("forward", x, components, groups))
        affine = (torch.empty(CHANNELS, device="meta"), None)
        return [x, x, forward[4], *forward[1:4], *forward[5:8], *affine, 1e-5, True, True, True]
    found = arguments(name, x, components, groups)
    return [t.to("meta") if isinstance(t, torch.Tensor) else t for t in found]


@pytest.mark.parametrize("name", OPERATORS)
def test_kernels_start_on_the_device_of_the_input(name, device, monkeypatch):
    """Triton starts kernels on the current device and stream."""
    inside, outside = [], []
    current = [False]

    @contextmanager
    def device_of(tensor: torch.Tensor) -> Iterator[None]:
        assert tensor.device.type == device
        current[0] = True
        yield
        current[0] = False

    call = arguments(name, INPUTS["contiguous"].to(device), 3)
    run = launch.run

    def noted(*arguments: Any, **sizes: Any) -> None:
        (inside if current[0] else outside).append(arguments[0])
        run(*arguments, **sizes)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(launch, "run", noted)
    operators._BODIES[name](*call)
    assert inside
    assert not outside


@pytest.mark.parametrize(
    ("shape", "components", "groups", "dtype"),
    [
        ((2, 2, 2, 1), 16, 1, torch.float32),
        ((2, 2, 2, 1), 16, 2, torch.float64),
    ],
    ids=str,
)
def test_nothing_is_handed_to_another_backend(
    shape, components, groups, dtype, device, monkeypatch
):
    case = Case(shape, components, groups, dtype=dtype, device=device)
    for name in ("forward", "backward", "moments", "normalize", "evaluate", "evaluate_backward"):
        monkeypatch.setattr(ReferenceBackend, name, None)
    layer = MixtureNorm2d(
        shape[1], num_components=components, groups=groups, backend="triton",
        device=device, dtype=case.mixture.mean.dtype,
    )  # fmt: skip
    for buffer, value in zip(
        (layer.running_weight, layer.running_mean, layer.running_var), case.mixture, strict=True
    ):
        buffer.copy_(value)
    layer.num_batches_tracked.fill_(1)
    for training in (True, False):
        x = case.x.clone().requires_grad_()
        layer.train(training)(x).backward(case.dy)
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("components", [1, 3])
def test_one_mixture_per_channel_has_the_parallelism_of_batch_norm(
    components, channels_last, monkeypatch
):
    """Blocks of any channels by chunks of positions: every multiprocessor has a program."""
    monkeypatch.setattr(problem, "multiprocessors", lambda device: 132)
    for shape in ((64, 64, 56, 56), (64, 2048, 7, 7)):
        x = torch.empty(shape, device="meta")
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        rows = [torch.empty(components, shape[1], device="meta") for _ in range(2)]
        mixture = Mixture(torch.empty(shape[1], components, device="meta"), *rows)
        layer = Problem.of(x, mixture, EPS)
        assert layer.nu == (NU_CHANNEL if components > 1 else "one")
        for kernel in ("moments", "normalize", "output_sums", "input_gradient", "evaluate"):
            grid = layer.launch(kernel, layer.nu)
            assert grid.tile.block_c <= 128
            assert grid.blocks * grid.chunks >= 132, kernel


def test_a_graph_replays_a_training_step(device):
    if device != "cuda":
        pytest.skip("the interpreter has no CUDA graphs")
    case = Case((4, 6, 5, 5), device=device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        wanted = case.operators()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = case.operators()
    graph.replay()
    torch.cuda.synchronize()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
