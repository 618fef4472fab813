"""Autocast, half-precision parameters, and gradient scaling with steps that overflow."""

import copy

import pytest
import torch
from torch import Tensor, nn

import mixnorm_cuda as mx
from tests.support import UNIT_ROUNDOFF, relative_error

HALVES = [torch.float16, torch.bfloat16]


def images() -> Tensor:
    return torch.randn(8, 3, 6, 6) + 2 * torch.randint(0, 3, (8, 1, 1, 1))


def network(**options: object) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), mx.MixtureNorm2d(8, **options), nn.ReLU())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("training", [True, False])
def test_autocast_feeds_half_inputs_to_float32_statistics(
    training: bool, dtype: torch.dtype
) -> None:
    model = network()
    model(images())
    model.train(training)
    layer, seen = model[1], []
    layer.register_forward_hook(lambda _, inputs, y: seen.extend((inputs[0], y)))
    expected = copy.deepcopy(layer)
    with torch.autocast("cpu", dtype=dtype):
        y = model(images())
    y.float().square().sum().backward()
    assert [t.dtype for t in seen] == [dtype, dtype]
    assert all(t.dtype == torch.float32 for t in layer._running())
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    wanted = expected.double()(seen[0].detach().double())
    assert relative_error(seen[1], wanted) < 2 * UNIT_ROUNDOFF[dtype]
    for statistic, exact in zip(layer._running(), expected._running(), strict=True):
        assert relative_error(statistic, exact) < 1e-5


@pytest.mark.parametrize("dtype", HALVES)
def test_half_parameters_train(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    layer = model[1]
    assert layer.weight.dtype == dtype
    assert all(t.dtype == torch.float32 for t in layer._running())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = layer.weight.detach().clone()
    for _ in range(2):
        y = model(images().to(dtype))
        assert y.dtype == dtype
        y.square().mean().backward()
        optimizer.step()
    assert layer.weight.grad.dtype == dtype
    assert not torch.equal(layer.weight, before)
    assert all(t.isfinite().all() for t in layer.state_dict().values())


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("options", [{}, {"num_components": 1}, {"momentum": None}], ids=str)
def test_a_skipped_step_leaves_the_statistics(options: dict[str, object], bad: float) -> None:
    """The scaler skips the step; the statistics are those of a run without that batch."""
    torch.manual_seed(1)
    model = network(**options)
    model(images())
    other = copy.deepcopy(model)
    batches = [images() for _ in range(3)]
    spoiled = images()
    spoiled[0, 0, 0, 0] = bad
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1) for _ in range(2)]
    for net, scaler, data in ((model, scalers[0], [batches[0], spoiled, *batches[1:]]),
                              (other, scalers[1], batches)):  # fmt: skip
        optimizer = torch.optim.SGD(net.parameters(), 0.01)
        for x in data:
            optimizer.zero_grad()
            scaler.scale(net(x).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scalers[0].get_scale() < scalers[1].get_scale()
    # The two runs scale by different powers of two, which float32 gradients do not see.
    for found, wanted in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(found, wanted)


def test_a_loss_that_overflows_leaves_the_statistics_of_its_batch() -> None:
    """Gradients are infinite and the step is skipped, but the batch itself was sound."""
    model = network()
    model(images())
    layer = model[1]
    before, weights = layer.running_mean.clone(), layer.weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler.scale(model(images()).square().sum() * 1e3).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**126
    assert torch.equal(layer.weight, weights)
    assert not torch.equal(layer.running_mean, before)
    assert all(t.isfinite().all() for t in layer._running())
