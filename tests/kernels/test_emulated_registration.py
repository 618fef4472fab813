"""The CUDA operators as PyTorch sees them: schema, fake implementation, compile, messages, plan."""

from typing import Any

import pytest
import torch

from mixnorm_cuda.functional import mixture_normalize
from mixnorm_cuda.kernels.native import loader, ops
from tests.kernels.operators import Problem
from tests.kernels.test_cpu_registration import CASES, INPUTS
from tests.kernels.test_cpu_registration import arguments as cpu_arguments
from tests.support import Target, problem


def namespace(target: Target) -> Any:
    loader.require(target.backend)
    return torch.ops.mixnorm_emulated if target.backend == "emulated" else torch.ops.mixnorm


def arguments(target: Target, name: str, *rest: Any) -> tuple[Any, ...]:
    """Those of the CPU operators, with what the CUDA forward returns for backward."""

    def moved(value: Any) -> Any:
        return value.to(target.device) if isinstance(value, torch.Tensor) else value

    if name == "step_backward":
        step = arguments(target, "step", *rest)
        x, mixing_weight, affine = step[0], step[1], step[5:7]
        out = namespace(target).step(*step)
        sizes = reversed(mixing_weight.shape)
        return (torch.ones_like(x), x, *out[1:], *affine, *sizes, 1e-5, True, True)
    if name != "backward":
        return tuple(map(moved, cpu_arguments(name, *rest)))
    forward = arguments(target, "forward", *rest)
    out = namespace(target).forward(*forward)
    x, affine = forward[0], forward[4:6]
    return (torch.ones_like(x), x, out[4], *out[1:4], *out[5:8], *affine, 1e-5, True, True, True)


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize(("components", "groups"), [(1, 1), (3, 2)])
def test_opcheck(cuda_target: Target, name: str, kind: str, components: int, groups: int) -> None:
    torch.library.opcheck(
        getattr(namespace(cuda_target), name).default,
        arguments(cuda_target, name, INPUTS[kind], components, groups),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


def test_compiles_without_graph_breaks(cuda_target: Target) -> None:

    p = problem((4, 6, 5, 5), 3, dtype=torch.float32, device=cuda_target.device)

    def train(x: torch.Tensor) -> torch.Tensor:
        y, _ = mixture_normalize(
            x, *p.mixture, p.weight, p.bias, backend=cuda_target.backend, em_iters=1
        )
        return y

    results = []
    for function in (train, torch.compile(train, fullgraph=True, backend="aot_eager")):
        x = p.x.clone().requires_grad_()
        y = function(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


def case(target: Target, **changes: Any) -> Problem:
    emulated = target.backend == "emulated"
    return Problem((3, 6, 4), 3, 2, device=target.device, emulated=emulated, **changes)


def test_messages(cuda_target: Target) -> None:
    """The argument, its value and what was expected; nothing has been computed."""
    p = case(cuda_target)
    operators = namespace(cuda_target)
    theta = tuple(p.mixture)
    with pytest.raises(ValueError, match=r"mixnorm::moments: eps is 0, expected a positive"):
        operators.moments(p.x, *theta, 0.0)
    with pytest.raises(ValueError, match=r"forward: em_iters is -1, expected 0 or more"):
        operators.forward(p.x, *theta, None, None, 1e-5, -1, True)
    with pytest.raises(ValueError, match=r"moments: x has dtype Int, expected Float"):
        operators.moments(p.x.int(), *theta, 1e-5)
    with pytest.raises(ValueError, match=r"evaluate: weight has shape \[5\], expected \[C\]"):
        operators.evaluate(p.x, *theta, p.weight.new_ones(5), None, 1e-5, True)
    many = theta[1].new_ones(17, 6)
    with pytest.raises(ValueError, match=r"K = 17 components, expected at most 16"):
        operators.moments(p.x, many.new_ones(2, 17), many, many, 1e-5)
    out = operators.forward(p.x, *theta, None, None, 1e-5, 0, True)
    kept = out[4].new_ones(3)
    with pytest.raises(
        ValueError, match=r"responsibilities has shape \[3\].*expected what forward"
    ):
        operators.backward(p.dy, p.x, kept, *out[1:4], *theta, None, None, 1e-5, True, True, False)
    with pytest.raises(ValueError, match=r"count is 0, expected 1 or more"):
        operators.update_running(*theta, *out[1:4], 0, 0.1, None)


def test_the_family_asked_for(cuda_target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    p = case(cuda_target)
    for family in ("streaming", "resident", "cluster", "small"):
        monkeypatch.setenv("MIXNORM_CUDA_KERNELS", family)
        for backward in (False, True):
            plan = ops.cuda_plan(p.x, 3, 2, backward=backward, emulated=p.emulated)
            assert plan.startswith(f"{family}, ")
            assert " blocks of " in plan
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", "fastest")
    with pytest.raises(ValueError, match="MIXNORM_CUDA_KERNELS is fastest, expected auto, stream"):
        p.operators()
