"""The CPU operators as PyTorch sees them: schema, fake implementation, compile, messages."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mixnorm_cuda.kernels.native import loader

pytestmark = pytest.mark.skipif(
    loader.missing("cpu") is not None, reason=f"no CPU operators: {loader.missing('cpu')}"
)

CHANNELS = 6


def arguments(name: str, x: Tensor, components: int = 3, groups: int = 1) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)

    def rand(*size: int) -> Tensor:
        return torch.rand(size, generator=generator) + 0.5

    mixture = (rand(groups, components), rand(components, CHANNELS), rand(components, CHANNELS))
    affine = (rand(CHANNELS), rand(components, CHANNELS)) if groups == 1 else (None, rand(CHANNELS))
    if name == "moments":
        return (x, *mixture, 1e-5)
    if name == "forward":
        return (x, *mixture, *affine, 1e-5, 1, True)
    if name in ("evaluate", "normalize"):
        moments = mixture if name == "normalize" else ()
        return (x, *mixture, *moments, *affine, 1e-5, True)
    if name == "update_running":
        return (*mixture, *(rand(*t.shape) for t in mixture), 20, 0.1, None)
    if name == "step":
        return (x, *mixture, torch.tensor(3), *affine, None, 1e-5, 1, True)
    dy = torch.ones_like(x)
    if name == "step_backward":
        out = torch.ops.mixnorm.step(*arguments("step", x, components, groups))
        return (dy, x, *out[1:], *affine, components, groups, 1e-5, True, True)
    if name == "evaluate_backward":
        return (dy, x, *mixture, *affine, 1e-5, True, True)
    if name == "backward_sums":
        return (dy, x, *mixture, *mixture, 1e-5)
    if name == "backward_apply":
        return (dy, x, *mixture, *mixture, *mixture[1:], *affine, 1e-5, True, True)
    out = torch.ops.mixnorm.forward(*arguments("forward", x, components, groups))
    return (dy, x, out[4], *out[1:4], *out[5:8], *affine, 1e-5, True, True, True)


OPERATORS = (
    *("moments", "normalize", "forward", "backward", "backward_sums", "backward_apply"),
    *("evaluate", "evaluate_backward", "update_running", "step", "step_backward"),
)
INPUTS = {
    "contiguous": torch.randn(4, CHANNELS, 5, 5),
    "channels last": torch.randn(4, CHANNELS, 5, 5).contiguous(memory_format=torch.channels_last),
    "slice": torch.randn(4, CHANNELS, 9, 5)[:, :, ::2],
    "rank 2": torch.randn(9, CHANNELS),
    "empty": torch.randn(0, CHANNELS, 5, 5),
}


# A step takes a batch: the layer makes none of an empty one.
CASES = [
    (name, kind)
    for name in OPERATORS
    for kind in INPUTS
    if kind != "empty" or not name.startswith("step")
]


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize(("components", "groups"), [(1, 1), (3, 1), (3, 2)])
def test_opcheck(name: str, kind: str, components: int, groups: int) -> None:
    operator = getattr(torch.ops.mixnorm, name).default
    torch.library.opcheck(
        operator,
        arguments(name, INPUTS[kind], components, groups),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


def test_opcheck_of_the_operators_for_compiled_graphs() -> None:
    mixture = arguments("moments", INPUTS["contiguous"])[1:4]
    torch.library.opcheck(torch.ops.mixnorm.snapshot.default, mixture)
    torch.library.opcheck(torch.ops.mixnorm.is_first_run.default, mixture[1:2])


def test_every_operator_is_checked() -> None:
    names = {
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("mixnorm::")
    }
    of_triton = {name for name in names if name.startswith("triton_")}  # checked with those kernels
    others = {"snapshot", "is_first_run"}
    of_cuda = {name for name in names if name.startswith("cuda_")}  # of a device, not of tensors
    assert names - of_triton - of_cuda - others == set(OPERATORS)


def test_compiles_without_graph_breaks() -> None:
    def step(x: Tensor, dy: Tensor, mixture: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        out = torch.ops.mixnorm.forward(x, *mixture, None, None, 1e-5, 1, True)
        grads = torch.ops.mixnorm.backward(
            dy, x, out[4], *out[1:4], *out[5:8], None, None, 1e-5, True, True, False
        )
        return out[0] * 2, grads[0], torch.ops.mixnorm.moments(x, *mixture, 1e-5)[1]

    x = INPUTS["channels last"]
    mixture = arguments("moments", x)[1:4]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(
        compiled(x, x.square(), mixture), step(x, x.square(), mixture), strict=True
    ):
        assert torch.equal(found, wanted)
        assert found.stride() == wanted.stride()


X = INPUTS["contiguous"]


@pytest.mark.parametrize(
    ("name", "position", "value", "message"),
    [
        ("forward", 0, torch.randn(CHANNELS), "x has shape"),
        ("forward", 0, torch.randn(4, CHANNELS, 5).long(), "x has dtype"),
        ("forward", 1, torch.rand(4, 3), "mixing_weight has G = 4"),
        ("forward", 1, torch.rand(1, 17), "mixing_weight has K = 17|mean has shape"),
        ("forward", 2, torch.rand(3, 5), "mean has shape"),
        ("forward", 3, torch.rand(3, CHANNELS).double(), "var has dtype"),
        ("forward", 4, torch.rand(CHANNELS + 1), "weight has shape"),
        ("forward", 5, torch.rand(2, CHANNELS), "bias has shape"),
        ("forward", 6, 0.0, "eps is 0"),
        ("forward", 7, -1, "em_iters is -1"),
        ("backward", 0, torch.rand(4, CHANNELS, 5, 6), "dy has shape"),
        ("backward", 0, torch.rand(4, CHANNELS, 5, 5).double(), "dy has dtype"),
        ("backward", 2, torch.rand(3, 99), "responsibilities has shape"),
        ("backward", 3, torch.rand(2, 3), "mass has shape"),
        ("normalize", 4, torch.rand(2, 3), "mass has shape"),
        ("normalize", 6, torch.rand(3, CHANNELS).double(), "batch_var has dtype"),
        ("normalize", 7, torch.rand(CHANNELS + 1), "weight has shape"),
        ("normalize", 9, 0.0, "eps is 0"),
        ("backward_sums", 0, torch.rand(4, CHANNELS, 5, 6), "dy has shape"),
        ("backward_sums", 6, torch.rand(3, 5), "batch_mean has shape"),
        ("backward_sums", 8, -1.0, "eps is -1"),
        ("backward_apply", 1, torch.rand(4, CHANNELS, 5, 5).long(), "x has dtype"),
        ("backward_apply", 8, torch.rand(3, 5), "h1 has shape"),
        ("backward_apply", 9, torch.rand(3, CHANNELS).double(), "h2 has dtype"),
        ("backward_apply", 11, torch.rand(2, CHANNELS), "bias has shape"),
        ("step", 0, INPUTS["empty"], r"x has shape .* expected 1 or more positions"),
        ("step", 2, torch.rand(3, 5), "mean has shape"),
        ("step", 2, torch.rand(CHANNELS, 3).T, "running statistics .* contiguous"),
        ("step", 4, torch.tensor(3.0), "num_batches_tracked has shape"),
        ("step", 5, torch.rand(CHANNELS).half(), "weight has dtype"),
        ("step_backward", 2, torch.rand(9), "state has shape"),
        ("step_backward", 3, torch.rand(3, 99), "responsibilities has shape"),
        ("step_backward", 7, 4, "state has shape"),
        ("evaluate", 5, torch.rand(3, 7), "bias has shape"),
        ("evaluate_backward", 7, -1.0, "eps is -1"),
    ],
)
def test_bad_input_is_named(name: str, position: int, value: Any, message: str) -> None:
    call = list(arguments(name, X))
    call[position] = value
    with pytest.raises(ValueError, match=f"mixnorm::{name}: ({message})"):
        getattr(torch.ops.mixnorm, name)(*call)
