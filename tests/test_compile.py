"""torch.compile: one graph, the eager results, the gradients of the eager step."""

import pytest
import torch

from mixnorm_cuda import MixtureNorm2d
from tests.support import Target

AUTO = Target("auto", "cpu")

OPTIONS = [
    {},
    {"component_affine": True},
    {"groups": 8},
    {"em_iters": 1},
    {"momentum": None},
    {"num_components": 1},
    {"estimator": "batch"},
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _pair(target, **options):
    eager, compiled = (
        MixtureNorm2d(8, backend=target.backend, device=target.device, **options) for _ in range(2)
    )
    eager(torch.randn(4, 8, 5, 5, device=target.device) + 1)
    compiled.load_state_dict(eager.state_dict())
    return eager, compiled


def _step(layer, buffers_of, x, dy, *rest):
    torch.manual_seed(0)
    leaf = x.clone().requires_grad_()
    y = layer(leaf, *rest)
    y.backward(dy)
    return y.detach(), leaf.grad, [b.clone() for b in buffers_of.buffers()]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_compiled_training_step_is_the_eager_one(options, target):
    # The running statistics change in the step whose backward needs their old values: a compiler
    # that recomputes from the buffers would give other gradients (momentum large on purpose).
    if options.get("momentum", 0.1) is not None:
        options = {"momentum": 0.9} | options
    eager, module = _pair(target, **options)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x, dy = torch.randn(2, 4, 8, 5, 5, device=target.device)
        expected = _step(eager, eager, x, dy)
        torch.testing.assert_close(_step(compiled, module, x, dy), expected)


def test_given_responsibilities_compile():
    eager, module = _pair(AUTO, momentum=0.9)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x, dy, nu = torch.randn(4, 8, 5, 5), torch.randn(4, 8, 5, 5), torch.rand(4, 3).softmax(1)
        expected = _step(eager, eager, x, dy, nu)
        torch.testing.assert_close(_step(compiled, module, x, dy, nu), expected)


def test_a_compiled_eval_layer_and_other_batch_sizes(target):
    eager, module = _pair(target)
    eager.eval()
    module.eval()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for samples in (2, 3, 7):
        x = torch.randn(samples, 8, 5, 5, device=target.device)
        torch._dynamo.mark_dynamic(x, 0)
        torch.testing.assert_close(compiled(x), eager(x))


@pytest.mark.slow
def test_the_default_compiler_gives_the_eager_step():
    eager, module = _pair(AUTO, momentum=0.9)
    compiled = torch.compile(module, fullgraph=True)
    x, dy = torch.randn(4, 8, 5, 5), torch.randn(4, 8, 5, 5)
    torch.testing.assert_close(
        _step(compiled, module, x, dy), _step(eager, eager, x, dy), rtol=1e-4, atol=1e-5
    )
