"""Frozen layers: by PyTorch's own means and by `freeze`, inside a model that goes on training."""

import copy
import pickle

import torch
from torch import Tensor, nn

import mixnorm_cuda as mx


def batch() -> Tensor:
    return torch.randn(8, 4, 3, 3) + 2 * torch.randint(0, 2, (8, 1, 1, 1))


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), mx.MixtureNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    for _ in range(2):
        model(batch())
    return model


def values(module: nn.Module) -> list[Tensor]:
    return [t.detach().clone() for t in module.state_dict().values()]


def step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    model(batch()).square().mean().backward()
    optimizer.step()


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


def test_eval_without_gradients_holds_the_layer() -> None:
    model = network()
    model[1].eval().requires_grad_(False)
    before, convolution = values(model[1]), values(model[0])
    step(model)
    assert same(values(model[1]), before)
    assert not same(values(model[0]), convolution)
    assert all(p.grad is None for p in model[1].parameters())


def test_a_frozen_layer_stays_so_when_its_parent_trains() -> None:
    model = network()
    layer = model[1]
    expected = copy.deepcopy(layer).eval()
    assert layer.freeze() is layer
    assert layer.frozen
    before, convolution = values(layer), values(model[0])
    for mode in (True, False, True):
        model.train(mode)
        assert not layer.training
        step(model)
    assert same(values(layer), before)
    assert not same(values(model[0]), convolution)
    x = batch()
    assert torch.equal(layer(x), expected(x))


def test_unfreezing_restores_modes_and_parameters() -> None:
    layer = mx.MixtureNorm2d(4)
    layer.bias.requires_grad_(False)
    layer.freeze().freeze()
    assert not any(p.requires_grad for p in layer.parameters())
    assert layer.unfreeze() is layer
    assert layer.training
    assert not layer.frozen
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (True, False)
    before = layer.running_mean.clone()
    layer(batch())
    assert not torch.equal(layer.running_mean, before)


def test_unfreezing_takes_the_mode_set_meanwhile() -> None:
    model = network()
    model[1].freeze()
    model.eval()
    assert not model[1].unfreeze().training
    model[1].freeze()
    model.train()
    assert model[1].unfreeze().training


def test_unfreezing_a_layer_that_is_not_frozen_changes_nothing() -> None:
    layer = mx.MixtureNorm2d(4).eval().requires_grad_(False)
    layer.unfreeze()
    assert not layer.training
    assert not layer.weight.requires_grad


def test_copies_stay_frozen_on_their_own() -> None:
    layer = mx.MixtureNorm2d(4).freeze()
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert not clone.train().training
        assert clone.unfreeze().training
    assert layer.frozen


def test_population_statistics_leave_frozen_layers_alone() -> None:
    model = network()
    model[1].freeze()
    before = values(model[1])
    mx.update_statistics([batch() for _ in range(3)], model.train())
    assert same(values(model[1]), before)
    assert not model[1].training
    model[1].unfreeze()
    mx.update_statistics([batch() for _ in range(3)], model)
    assert not same(values(model[1]), before)
