"""torch.compile: one graph, the eager results, the gradients of the eager step.

In float64, where another order of sums does not show.
"""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

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
        MixtureNorm2d(
            8, backend=target.backend, device=target.device, dtype=torch.float64, **options
        )
        for _ in range(2)
    )
    eager(torch.randn(4, 8, 5, 5, dtype=torch.float64, device=target.device) + 1)
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
        x, dy = torch.randn(2, 4, 8, 5, 5, dtype=torch.float64, device=target.device)
        expected = _step(eager, eager, x, dy)
        torch.testing.assert_close(_step(compiled, module, x, dy), expected)


@pytest.mark.parametrize(
    ("dynamic", "more"), [(True, 0), (None, 1)], ids=["dynamic", "as they come"]
)
@pytest.mark.parametrize("training", [True, False])
def test_batch_sizes_do_not_compile_anew(training, dynamic, more, target):
    # Without dynamic=True the second size compiles once more, for all sizes.
    eager, module = _pair(target, num_components=2)
    eager.train(training)
    compiles = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        module.train(training), fullgraph=True, backend=compiles, dynamic=dynamic
    )
    first = None
    for samples in (4, 5, 9, 13):
        x, dy = torch.randn(2, samples, 8, 5, 5, dtype=torch.float64, device=target.device)
        expected = _step(eager, eager, x, dy)
        torch.testing.assert_close(_step(compiled, module, x, dy), expected)
        first = first or compiles.frame_count
    assert compiles.frame_count <= first + more


def test_the_first_batch_and_later_ones_compile_once_each():
    # Whether the first batch seeds is known on the host, so there are two graphs, and no third.
    torch.manual_seed(0)
    module = MixtureNorm2d(8)
    compiles = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=compiles)
    for _ in range(4):
        compiled(torch.randn(4, 8, 5, 5) + 1)
    assert compiles.frame_count == 2
    assert module.num_batches_tracked == 4
    assert module.running_mean.unique(dim=0).shape[0] == 3


@pytest.mark.parametrize("inside", [True, False], ids=["region compiled", "compiled in region"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_statistics_move_once_under_checkpointing(reentrant, inside):
    eager, module = _pair(AUTO)
    if inside:
        compiled = torch.compile(
            lambda x: checkpoint(module, x, use_reentrant=reentrant), backend="aot_eager"
        )
    else:
        layer = torch.compile(module, backend="aot_eager")

        def compiled(x):
            return checkpoint(layer, x, use_reentrant=reentrant)

    for _ in range(2):
        x, dy = torch.randn(2, 4, 8, 5, 5, dtype=torch.float64)
        expected = _step(eager, eager, x, dy)
        actual = _step(compiled, module, x, dy)
        torch.testing.assert_close((actual[0], actual[2]), (expected[0], expected[2]))


def test_given_responsibilities_compile():
    eager, module = _pair(AUTO, momentum=0.9)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x, dy = torch.randn(2, 4, 8, 5, 5, dtype=torch.float64)
        nu = torch.rand(4, 3, dtype=torch.float64).softmax(1)
        expected = _step(eager, eager, x, dy, nu)
        torch.testing.assert_close(_step(compiled, module, x, dy, nu), expected)


def test_a_compiled_eval_layer_and_other_batch_sizes(target):
    eager, module = _pair(target)
    eager.eval()
    module.eval()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for samples in (2, 3, 7):
        x = torch.randn(samples, 8, 5, 5, dtype=torch.float64, device=target.device)
        torch._dynamo.mark_dynamic(x, 0)
        torch.testing.assert_close(compiled(x), eager(x))


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_the_default_compiler_gives_the_eager_step(training):
    eager, module = _pair(AUTO, momentum=0.9)
    eager.train(training)
    compiled = torch.compile(module.train(training), fullgraph=True)
    for samples in (4, 7):
        x, dy = torch.randn(2, samples, 8, 5, 5, dtype=torch.float64)
        expected = _step(eager, eager, x, dy)
        torch.testing.assert_close(_step(compiled, module, x, dy), expected)
