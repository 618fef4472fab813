"""CUDA graphs, and a training step that never waits for the device."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mixnorm_cuda as mx

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

OPTIONS = [
    {},
    {"num_components": 1},
    {"momentum": None},
    {"em_iters": 1},
    {"component_affine": True},
]


def batch() -> Tensor:
    return torch.randn(8, 4, 6, 6, device="cuda") + 2


def network(**options: Any) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), mx.MixtureNorm2d(4, **options), nn.ReLU()).cuda()
    model(batch())
    return model


def step(model: nn.Module, x: Tensor) -> None:
    for p in model.parameters():
        p.grad = None
    model(x).square().sum().backward()


@pytest.mark.parametrize("options", [*OPTIONS, {"estimator": "batch"}], ids=str)
def test_a_step_never_waits_for_the_device(options: dict[str, Any]) -> None:
    model, x = network(**options), batch()
    step(model, x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(model, x)
        step(model.eval(), x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_captured_step_replays(options: dict[str, Any]) -> None:
    model, x = network(**options), batch()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(model, x)
    torch.cuda.current_stream().wait_stream(side)
    eager = copy.deepcopy(model)
    graph = torch.cuda.CUDAGraph()
    for p in model.parameters():
        p.grad = None
    with torch.cuda.graph(graph):
        model(x).square().sum().backward()
    for _ in range(3):
        new = batch()
        x.copy_(new)
        graph.replay()
        step(eager, new)
        for found, wanted in zip(model.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-3)
        for found, wanted in zip(model.buffers(), eager.buffers(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert model[1].num_batches_tracked == 7


@pytest.mark.slow
def test_the_compilers_cuda_graphs() -> None:
    model = network()
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, mode="reduce-overhead")
    for _ in range(5):
        x = batch()
        torch.compiler.cudagraph_mark_step_begin()
        step(compiled, x)
        step(eager, x)
    for found, wanted in zip(model.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
