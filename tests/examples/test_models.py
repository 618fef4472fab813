"""The networks: their papers' sizes, and which of their layers a norm replaces."""

import pytest
import torch
from torch import nn

from examples.layers import DomainNorm2d, ModeNorm2d, group_norm, set_domain
from examples.models import MODELS, build
from examples.norms import Norm, normalization_layers
from mixnorm_cuda import MixtureNorm2d


@pytest.mark.parametrize(
    ("name", "parameters", "layers", "mixtures"),
    [
        # From the papers: 0.27M and 0.85M (ResNet), 1.0M and 7.0M (DenseNet, k = 12).
        ("resnet20", 0.27e6, 19, [14, 16, 18]),
        ("resnet56", 0.85e6, 55, list(range(38, 55, 2))),
        ("densenet40", 1.0e6, 39, [37, 38, 39]),
        ("densenet100", 7.0e6, 99, [97, 98, 99]),
        # torchvision's Inception-V3 has 21.79M of them without its auxiliary classifier, at 10
        # classes, and 94 normalization layers.
        ("inception", 21.8e6, 94, list(range(71, 95))),
    ],
)
def test_sizes(name, parameters, layers, mixtures):
    with torch.device("meta"):
        model = MODELS[name](3, 10, 1.0)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.03)
    assert len(normalization_layers(model)) == layers
    assert Norm.parse("mn").positions(model) == mixtures


@pytest.mark.parametrize("norm", ["bn", "mn", "gn", "mode"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_with_every_norm(name, norm):
    model = build(name, 3, 7, Norm.parse(norm), 0.0625, seed=0)
    with torch.no_grad():
        logits = model.eval()(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_training_step_reaches_every_parameter(name):
    model = build(name, 3, 7, Norm.parse("mn"), 0.0625, seed=0)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 6]))
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
    assert sum(bool(p.grad.any()) for p in model.parameters()) > 0.9 * len(list(model.parameters()))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_same_weights_whatever_the_norm(name):
    norms = ("bn", "mn", "mode", "gn")
    networks = [build(name, 3, 7, Norm.parse(norm), 0.0625, seed=3) for norm in norms]
    weights = [
        [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)] for network in networks
    ]
    for others in weights[1:]:
        assert all(torch.equal(a, b) for a, b in zip(weights[0], others, strict=True))


def test_layers_by_name():
    model = build("resnet20", 3, 7, Norm.parse("mn:layers=norm+stages.1.*.norm2"), 0.25, seed=0)
    found = [n for n, m in model.named_modules() if isinstance(m, MixtureNorm2d)]
    assert found == ["norm", *(f"stages.1.{block}.norm2" for block in range(3))]


@pytest.mark.parametrize("term", ["stages.3.*", "9999"])
def test_layers_that_are_not_there(term):
    message = (
        rf"no normalization layer {term}; the network has 19, from norm to stages\.2\.2\.norm2"
    )
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        build("resnet20", 3, 7, Norm.parse(f"mn:layers={term}"), 0.25, seed=0)


def test_mode_norm_is_the_gates_sum_over_modes():
    layer = ModeNorm2d(4, num_components=2)
    x = torch.randn(6, 4, 5, 5)
    with torch.no_grad():
        y = layer(x)
        nu = torch.softmax(x.mean((2, 3)) @ layer.gate.weight.T + layer.gate.bias, dim=1)
    expected = torch.zeros_like(x)
    for k in range(2):
        share = nu[:, k, None, None, None]
        mass = share.sum() * 25
        mean = (share * x).sum((0, 2, 3), keepdim=True) / mass
        var = (share * (x - mean).square()).sum((0, 2, 3), keepdim=True) / mass
        expected += share * (x - mean) / (var + 1e-5).sqrt()
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def test_mode_norm_trains_its_gate():
    layer = ModeNorm2d(4)
    layer(torch.randn(6, 4, 5, 5)).square().sum().backward()
    assert layer.gate.weight.grad.abs().sum() > 0


def test_domain_norm_is_two_batch_norms():
    model = nn.Sequential(DomainNorm2d(3))
    # The mixture takes its first batch's statistics outright.
    apart = [nn.BatchNorm2d(3, momentum=1.0), nn.BatchNorm2d(3, momentum=1.0)]
    domain = torch.tensor([0, 1, 1, 0, 0, 1, 0, 0])
    set_domain(model, domain)
    x = torch.randn(8, 3, 4, 4) * (1.0 + 3 * domain[:, None, None, None])
    y = model(x)
    for number, batch_norm in enumerate(apart):
        torch.testing.assert_close(y[domain == number], batch_norm(x[domain == number]))
        torch.testing.assert_close(model[0].running_mean[number], batch_norm.running_mean)
    model[0].weight.data[1] = 2.0
    scaled = model(x)
    assert torch.equal(scaled[domain == 0], y[domain == 0])
    torch.testing.assert_close(scaled[domain == 1], 2 * y[domain == 1])


def test_domain_norm_wants_a_domain_for_every_sample():
    model = nn.Sequential(DomainNorm2d(3))
    with pytest.raises(RuntimeError, match="domain not set: expected 8 samples"):
        model(torch.randn(8, 3, 4, 4))
    set_domain(model, torch.zeros(5, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="domain of 5 samples: expected 8 samples"):
        model(torch.randn(8, 3, 4, 4))


@pytest.mark.parametrize(("channels", "groups"), [(64, 4), (16, 1), (12, 1), (168, 8), (28, 1)])
def test_group_norms_default_divides(channels, groups):
    assert group_norm(channels).num_groups == groups
