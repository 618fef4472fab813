"""Activation checkpointing: outputs, gradients, statistics and random numbers of the plain run."""

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixnorm_cuda import MixtureNorm2d
from mixnorm_cuda.estimation import recomputation
from mixnorm_cuda.functional import mixture_norm

Run = Callable[[nn.Module, Tensor], Tensor]
MODES = {
    "reentrant": lambda f, x: checkpoint(f, x, use_reentrant=True),
    "non-reentrant": lambda f, x: checkpoint(f, x, use_reentrant=False),
    "nested reentrant": lambda f, x: checkpoint(
        lambda t: checkpoint(f, t, use_reentrant=True), x, use_reentrant=True
    ),
    "nested non-reentrant": lambda f, x: checkpoint(
        lambda t: checkpoint(f, t, use_reentrant=False), x, use_reentrant=False
    ),
}
OPTIONS = [
    {},
    {"em_iters": 2},
    {"groups": 2},
    {"num_components": 1},
    {"momentum": None},
    {"estimator": "batch"},
    {"component_affine": True, "affine_init": "batchnorm"},
    {"backend": "reference"},
]


def batch(seed: int) -> Tensor:
    x = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(seed))
    return x + 2 * (torch.arange(6).view(6, 1, 1, 1) % 3)


def network(**options: object) -> nn.Module:
    torch.manual_seed(1)
    # A large momentum makes a step under the wrong statistics visible; the dropout depends on the
    # random numbers that a seeding before it draws.
    options = {"momentum": 0.5} | options
    return nn.Sequential(
        nn.Conv2d(4, 4, 1), MixtureNorm2d(4, **options), nn.ReLU(), nn.Dropout(0.3)
    )


def plain(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


def state(network: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    gradients = [t.grad for t in (*network.parameters(), *inputs)]
    assert all(g is not None for g in gradients)
    return [*gradients, *(b.clone() for b in network.buffers())]


def assert_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    for found, wanted in zip(actual, expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_steps_are_those_without_checkpointing(mode: str, options: dict[str, object]) -> None:
    # Three steps: the first seeds, the later ones start from the running statistics.
    results = []
    for run in (plain, MODES[mode]):
        module = network(**options)
        torch.manual_seed(2)
        for seed in range(3):
            x = batch(seed).requires_grad_()
            run(module, x).square().sum().backward()
        results.append(state(module, [x]))
    assert_equal(*results)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0], None], ids=str)
@pytest.mark.parametrize("alike", [False, True], ids=["different", "equal batches"])
@pytest.mark.parametrize("mode", MODES)
def test_micro_batches_in_flight(mode: str, alike: bool, order: list[int] | None) -> None:
    """Several forward passes before their backward passes; None: one backward pass for all."""
    results = []
    for run in (plain, MODES[mode]):
        module = network()
        module(batch(7))
        inputs = [batch(0 if alike else seed).requires_grad_() for seed in range(3)]
        torch.manual_seed(2)
        losses = [run(module, x).square().sum() for x in inputs]
        if order is None:
            sum(losses).backward()
        else:
            for i in order:
                losses[i].backward()
        results.append(state(module, inputs))
    assert_equal(*results)


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_called_twice_in_one_region(mode: str) -> None:
    def run_twice(run: Run) -> list[Tensor]:
        module = network()
        module(batch(7))
        torch.manual_seed(2)
        inputs = [batch(seed).requires_grad_() for seed in range(2)]
        sum(run(lambda t: module(module(t)), x).square().sum() for x in inputs).backward()
        return state(module, inputs)

    # Gradients of the two calls are added in another order.
    torch.testing.assert_close(run_twice(MODES[mode]), run_twice(plain), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_without_the_random_numbers_of_the_first_run(reentrant: bool) -> None:
    """Without preserve_rng_state the seeding cannot be drawn again: its mixture is recalled."""
    results = []
    for checkpointed in (False, True):
        module = network(estimator="batch")
        module[3].eval()
        x = batch(0).requires_grad_()
        torch.manual_seed(2)
        for _ in range(2):
            if checkpointed:
                y = checkpoint(module, x, use_reentrant=reentrant, preserve_rng_state=False)
            else:
                y = module(x)
            y.square().sum().backward()
            torch.manual_seed(3)
        results.append(state(module, [x]))
    assert_equal(*results)


def test_a_second_backward_pass_through_a_kept_graph() -> None:
    results = []
    for run in (plain, MODES["non-reentrant"]):
        module = network()
        module(batch(7))
        x = batch(0).requires_grad_()
        torch.manual_seed(2)
        loss = run(module, x).square().sum()
        loss.backward(retain_graph=True)
        module(batch(8))
        loss.backward()
        results.append(state(module, [x]))
    assert_equal(*results)


@pytest.mark.parametrize("mode", MODES)
def test_given_responsibilities(mode: str) -> None:
    results = []
    for run in (plain, MODES[mode]):
        torch.manual_seed(1)
        layer = MixtureNorm2d(4, momentum=0.5)
        layer(batch(7))
        nu = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
        x = batch(0).requires_grad_()
        run(lambda t, layer=layer, nu=nu: layer(t, nu), x).square().sum().backward()
        results.append(state(layer, [x]))
    assert_equal(*results)


@pytest.mark.parametrize("mode", MODES)
def test_the_functional_form(mode: str) -> None:
    results = []
    for run in (plain, MODES[mode]):
        generator = torch.Generator().manual_seed(0)
        running = (
            torch.full((1, 3), 1 / 3),
            torch.randn(3, 4, generator=generator),
            torch.ones(3, 4),
        )
        inputs = [batch(seed).requires_grad_() for seed in range(2)]
        losses = [
            run(
                lambda t, running=running: mixture_norm(t, *running, training=True, momentum=0.5), x
            )
            for x in inputs
        ]
        for loss in losses:
            loss.square().sum().backward()
        results.append([*(x.grad for x in inputs), *running])
    assert_equal(*results)


@pytest.mark.parametrize("mode", MODES)
def test_passes_without_gradients_between_steps(mode: str) -> None:
    """Such as a teacher's or a recalibration's, which are never computed again."""
    results = []
    for run in (plain, MODES[mode]):
        module = network()
        inputs = [batch(seed).requires_grad_() for seed in range(3)]
        torch.manual_seed(2)
        for x in inputs:
            y = run(module, x)
            with torch.no_grad():
                module(batch(9))
            y.square().sum().backward()
        results.append(state(module, inputs))
    assert_equal(*results)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_kept_for_long(mode: str) -> None:
    module = network()
    memory = None
    for seed in range(5):
        loss = MODES[mode](module, batch(seed).requires_grad_()).square().sum()
        memory = recomputation._memories[module[1].running_mean]
        assert sum(step() is not None for step in memory.steps) <= 2
        loss.backward()
    with torch.no_grad():
        for seed in range(2 * recomputation.MAX_WITHOUT_GRAPH):
            module(batch(seed))
    assert len(memory.without_graph) == recomputation.MAX_WITHOUT_GRAPH
    del loss, memory
    buffer = weakref.ref(module[1].running_mean)
    del module
    gc.collect()
    assert buffer() is None


def test_ordinary_training_remembers_nothing() -> None:
    module = network()
    module(batch(0).requires_grad_()).sum().backward()
    assert module[1].running_mean not in recomputation._memories


def test_a_copy_made_between_the_runs_starts_anew() -> None:
    module = network()
    module(batch(7))
    x = batch(0).requires_grad_()
    loss = MODES["non-reentrant"](module, x).square().sum()
    clone = copy.deepcopy(module)
    before = [b.clone() for b in clone.buffers()]
    loss.backward()
    assert_equal(list(clone.buffers()), before)
    assert clone[1].running_mean not in recomputation._memories
