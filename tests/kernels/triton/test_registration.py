"""The operators as PyTorch sees them: schema, fake implementation, compile, messages, layers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mixnorm_cuda import MixtureNorm2d, dispatch
from mixnorm_cuda.functional import mixture_normalize
from mixnorm_cuda.kernels.triton import ops  # noqa: F401  (registers the operators)

CHANNELS = 6


def arguments(name: str, x: Tensor, components: int = 3, groups: int = 1) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)

    def rand(*size: int) -> Tensor:
        return (torch.rand(size, generator=generator) + 0.5).to(x.device)

    mixture = (rand(groups, components), rand(components, CHANNELS), rand(components, CHANNELS))
    affine = (rand(CHANNELS), None)
    if name == "moments":
        return (x, *mixture, 1e-5)
    if name == "forward":
        return (x, *mixture, *affine, 1e-5, 1, True)
    if name == "normalize":
        return (x, *mixture, *mixture, *affine, 1e-5, True)
    if name == "update_running":
        return (*mixture, *mixture, 9, 0.3, None)
    dy = torch.ones_like(x)
    if name == "backward_sums":
        return (dy, x, *mixture, *mixture, 1e-5)
    if name == "backward_apply":
        return (dy, x, *mixture, *mixture, *mixture[1:], *affine, 1e-5, True, True)
    if name == "evaluate":
        return (x, *mixture, *affine, 1e-5, True)
    if name == "evaluate_backward":
        return (dy, x, *mixture, *affine, 1e-5, True, True)
    out = torch.ops.mixnorm.triton_forward(*arguments("forward", x, components, groups))
    return (dy, x, out[4], *out[1:4], *out[5:8], *affine, 1e-5, True, True, True)


OPERATORS = (
    "moments",
    "forward",
    "backward",
    "normalize",
    "backward_sums",
    "backward_apply",
    "evaluate",
    "evaluate_backward",
    "update_running",
)
INPUTS = {
    "contiguous": torch.randn(3, CHANNELS, 3, 3),
    "channels last": torch.randn(3, CHANNELS, 3, 3).contiguous(memory_format=torch.channels_last),
    "slice": torch.randn(3, CHANNELS, 5, 3)[:, :, ::2],
    "rank 2": torch.randn(9, CHANNELS),
    "empty": torch.randn(0, CHANNELS, 3, 3),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "contiguous") for name in OPERATORS),
        *((name, kind) for name in ("forward", "backward") for kind in tuple(INPUTS)[1:]),
        *((name, "empty") for name in ("moments", "normalize", "evaluate", "backward_sums")),
        ("normalize", "channels last"),
        ("evaluate", "channels last"),
        ("evaluate_backward", "channels last"),
    ],
)
def test_opcheck(name, kind, device):
    torch.library.opcheck(
        getattr(torch.ops.mixnorm, f"triton_{name}").default,
        arguments(name, INPUTS[kind].to(device), 3, 2 if kind == "rank 2" else 1),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize(("components", "groups"), [(1, 1), (3, 6)])
def test_opcheck_of_what_is_kept(components, groups, device):
    for name in ("forward", "backward"):
        torch.library.opcheck(
            getattr(torch.ops.mixnorm, f"triton_{name}").default,
            arguments(name, INPUTS["contiguous"].to(device), components, groups),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_a_layer_compiles_without_graph_breaks(device):
    x = torch.randn(3, CHANNELS, 3, 3, device=device)
    layers = [MixtureNorm2d(CHANNELS, backend="triton", device=device) for _ in range(2)]
    layers[0](x)
    layers[1].load_state_dict(layers[0].state_dict())
    results = []
    for layer in (layers[0], torch.compile(layers[1], fullgraph=True, backend="aot_eager")):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.square().sum().backward()
        results.append((y.detach(), leaf.grad))
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(layer.state_dict() for layer in layers))
    torch._dynamo.reset()


def test_a_layer_trains_and_evaluates_as_on_the_reference(device):
    torch.manual_seed(0)
    x = torch.randn(2, 3, CHANNELS, 5, 5, device=device)
    triton = MixtureNorm2d(CHANNELS, backend="triton", em_iters=1, device=device)
    reference = MixtureNorm2d(CHANNELS, backend="reference", em_iters=1, device=device)
    reference(x[0])
    triton.load_state_dict(reference.state_dict())
    for batch in x:
        found, wanted = triton(batch), reference(batch)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(triton.state_dict(), reference.state_dict())
    torch.testing.assert_close(triton.eval()(x[0]), reference.eval()(x[0]), rtol=1e-5, atol=1e-5)


def test_auto_leaves_cpu_tensors_to_others():
    x = torch.randn(3, CHANNELS, 3, 3)
    assert dispatch.select("auto", x, 3, 1).name != "triton"


def test_given_responsibilities_and_many_components_are_refused(device):
    x = torch.randn(3, CHANNELS, device=device)
    with pytest.raises(dispatch.BackendUnavailableError, match="here they are given"):
        mixture_normalize(x, None, None, None, responsibilities=torch.ones(3, 1, device=device),
                          backend="triton")  # fmt: skip
    assert "up to 16" in str(dispatch.why_not("triton", x, 17, 1))


@pytest.mark.parametrize(
    ("name", "position", "value", "message"),
    [
        ("forward", 0, torch.randn(CHANNELS), "x has shape"),
        ("forward", 0, torch.randn(4, CHANNELS, 5).long(), "x has dtype"),
        ("forward", 1, torch.rand(4, 3), "mixing_weight has G = 4"),
        ("forward", 1, torch.rand(1, 17), "mixing_weight has shape"),
        ("forward", 2, torch.rand(3, 5), "mean has shape"),
        ("forward", 3, torch.rand(3, CHANNELS).double(), "var has dtype"),
        ("forward", 4, torch.rand(CHANNELS + 1), "weight has shape"),
        ("forward", 6, 0.0, "eps is 0"),
        ("forward", 7, -1, "em_iters is -1"),
        ("backward", 0, torch.rand(3, CHANNELS, 3, 4), "dy has shape"),
        ("backward", 2, torch.rand(3, 99), "responsibilities has shape"),
        ("backward", 3, torch.rand(2, 3), "mass has shape"),
        ("normalize", 8, torch.rand(3, 7), "bias has shape"),
        ("normalize", 4, torch.rand(2, 3), "mass has shape"),
        ("backward_sums", 6, torch.rand(3, 7), "batch_mean has shape"),
        ("backward_apply", 9, torch.rand(3, 7), "h2 has shape"),
        ("evaluate", 5, torch.rand(3, 7), "bias has shape"),
        ("evaluate_backward", 7, -1.0, "eps is -1"),
        ("update_running", 6, 0, "count is 0"),
    ],
)
def test_bad_input_is_named(name, position, value, message, device):
    call = list(arguments(name, INPUTS["contiguous"].to(device)))
    call[position] = value.to(device) if isinstance(value, Tensor) else value
    with pytest.raises(ValueError, match=f"mixnorm::triton_{name}: ({message})"):
        getattr(torch.ops.mixnorm, f"triton_{name}")(*call)
