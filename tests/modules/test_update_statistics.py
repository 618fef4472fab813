"""Population statistics after training."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

import mixnorm_cuda as mx
from mixnorm_cuda.functional import mixture_normalize
from tests.support import assert_close


def batches(count: int = 5) -> list[Tensor]:
    """Of different means and sizes, each with two clusters."""
    drawn = []
    for step in range(count):
        x = torch.randn(6 + step, 4, 5, 3, dtype=torch.float64) + step
        x[:3] += 4
        drawn.append(x)
    return drawn


def network(**options: Any) -> nn.Sequential:
    """Two mixture layers, the first of them after a convolution; trained for some steps."""
    net = nn.Sequential(
        nn.Conv2d(4, 4, 1), mx.MixtureNorm2d(4, **options), nn.Dropout(0.0),
        nn.Sequential(mx.MixtureNorm2d(4, momentum=None, **options)),
    ).double()  # fmt: skip
    for x in batches(3):
        net(x - 2)
    return net


def state(net: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(net.state_dict())


def unchanged(net: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_one_component_is_update_bn() -> None:
    bn, mn = nn.BatchNorm2d(4).double(), mx.MixtureNorm2d(4, num_components=1).double()
    for x in batches(2):
        bn(7 * x), mn(7 * x)
    update_bn(batches_now := batches(), bn)
    mx.update_statistics(batches_now, mn)
    assert_close(mn.running_mean[0], bn.running_mean, 1e-13)
    assert_close(mn.running_var[0], bn.running_var, 1e-13)
    assert mn.num_batches_tracked == bn.num_batches_tracked == 5
    # Equal weight for each batch: the average of the batches' own statistics.
    mean = torch.stack([x.mean((0, 2, 3)) for x in batches_now]).mean(0)
    assert_close(mn.running_mean[0], mean, 1e-13)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_average_of_several_components(groups: int, momentum: float | None) -> None:
    """λ is the mean of the batches' shares, and μ, σ² their averages weighted by these shares, all
    under the mixture at hand.
    """
    layer = mx.MixtureNorm2d(4, groups=groups, momentum=momentum).double()
    for x in batches(4):
        layer(x - 1)
    theta = layer.running_weight, layer.running_mean, layer.running_var
    theta = tuple(t.clone() for t in theta)
    loader = batches()
    mx.update_statistics(loader, layer)

    shares, means, variances = [], [], []
    for x in loader:
        _, (mass, m, q) = mixture_normalize(x, *theta)
        wide = mass.T.repeat_interleave(4 // groups, 1)
        shares.append(wide / (x.numel() / 4))
        means.append(m)
        variances.append(torch.where(wide > 1, q * (wide / (wide - 1)).clamp_max(2), q))
    weight, mean, var = (torch.stack(t) for t in (shares, means, variances))
    expected = weight.mean(0)[:, :: 4 // groups].T
    assert_close(layer.running_weight, expected, 1e-12)
    assert_close(layer.running_mean, (weight * mean).sum(0) / weight.sum(0), 1e-12)
    assert_close(layer.running_var, (weight * var).sum(0) / weight.sum(0), 1e-12)
    assert layer.num_batches_tracked == 5


def clusters(labels: Tensor, distance: float) -> Tensor:
    """Batches of one position a sample: label 0 around -distance, label 1 around +distance."""
    centre = (2.0 * labels - 1).mul(distance).unsqueeze(-1).expand(*labels.shape, 4)
    return (centre + torch.randn(centre.shape, dtype=torch.float64)).double()


@pytest.mark.parametrize("distance", [3.0, 20.0])
def test_order_of_batches_does_not_matter(distance: float) -> None:
    """Batches sorted by cluster, such as images sorted by class, leave both components in use."""
    layer = mx.MixtureNorm1d(4, num_components=2).double()
    for _ in range(30):
        layer(clusters(torch.randint(2, (200,)), distance))
    before = layer.running_mean.clone()
    x = clusters(torch.arange(10).gt(4).repeat_interleave(50), distance)
    ordered, shuffled = copy.deepcopy(layer), copy.deepcopy(layer)
    mx.update_statistics(x.split(50), ordered)
    batch = x.split(50)
    mx.update_statistics([batch[i] for i in torch.randperm(10)], shuffled)
    for name in ("running_weight", "running_mean", "running_var"):
        assert_close(getattr(shuffled, name), getattr(ordered, name), 1e-12)
    assert (ordered.running_weight - 0.5).abs().max() < 0.01
    assert (ordered.running_mean - before).abs().max() < 0.5
    assert (ordered.running_var - 1).abs().max() < 0.5


def test_component_that_no_batch_uses_keeps_its_statistics() -> None:
    layer = mx.MixtureNorm1d(4, num_components=2).double()
    for _ in range(30):
        layer(clusters(torch.randint(2, (200,)), 50.0))
    before = state(layer)
    mx.update_statistics([clusters(torch.zeros(50), 50.0)] * 3, layer)
    unused = layer.running_weight[0].argmin()
    assert layer.running_weight[0, unused] < 1e-6
    assert_close(layer.running_mean[unused], before["running_mean"][unused], 1e-6)
    assert_close(layer.running_var[unused], before["running_var"][unused], 1e-6)
    assert not torch.equal(layer.running_mean[1 - unused], before["running_mean"][1 - unused])


def test_batches_that_do_not_count() -> None:
    """Empty ones, and those with values that are not finite."""
    net = network()
    twin = copy.deepcopy(net)
    good = batches(3)
    bad = good[0].clone()
    bad[0, 0] = torch.nan
    mx.update_statistics([bad, good[0], torch.empty(0, 4, 5, 3).double(), *good[1:], bad], net)
    mx.update_statistics(good, twin)
    assert unchanged(net, twin.state_dict())
    before = state(net)
    mx.update_statistics([bad], net)
    assert all(
        torch.equal(value, before[name]) != name.endswith("tracked")
        for name, value in net.state_dict().items()
    )


def test_layer_used_twice_counts_twice() -> None:
    layer = mx.MixtureNorm2d(4).double()
    for x in batches(3):
        layer(x)
    twin = copy.deepcopy(layer)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) + self.norm(2 * x)

    loader = batches()
    mx.update_statistics(loader, Twice())
    mx.update_statistics([y for x in loader for y in (x, 2 * x)], twin)
    assert unchanged(layer, twin.state_dict())


def test_compiled_network() -> None:
    """The same statistics, without compiling anything for the one pass."""
    net = network()
    twin = copy.deepcopy(net)
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(net, backend=count)
    loader = batches(2)
    for step in range(2):
        for model in (compiled, twin):
            model.train()(loader[0])
        number = len(graphs)
        assert number > 0
        for model in (compiled, twin):
            mx.update_statistics(loader, model)
        assert len(graphs) == number, step
        for name, value in twin.state_dict().items():
            assert_close(net.state_dict()[name].double(), value.double(), 1e-10)


def test_hooks_are_removed() -> None:
    net = network()
    mx.update_statistics(batches(2), net)
    with pytest.raises(InterruptedRunError):
        mx.update_statistics(broken_loader(), net)
    assert not any(m._forward_hooks for m in net.modules())
    before = net[1].running_mean.clone()
    net(batches(1)[0])
    assert not torch.equal(net[1].running_mean, before)


def test_components_keep_their_identity() -> None:
    layer = mx.MixtureNorm2d(4, num_components=2, component_affine=True).double()
    for _ in range(20):
        for x in batches(2):
            layer(x)
    before = layer.running_mean.clone()
    mx.update_statistics(batches(2), layer)
    swapped = (layer.running_mean - before.flip(0)).norm()
    assert (layer.running_mean - before).norm() < 0.25 * swapped


@pytest.mark.parametrize("options", [{"num_components": 1}, {}, {"estimator": "batch"}], ids=str)
def test_restores_modes_and_momentum_and_leaves_parameters(options: dict[str, Any]) -> None:
    net = network(**options)
    net.eval()
    net[3].train()
    net[3][0].eval()
    modes = {name: m.training for name, m in net.named_modules()}
    before = state(net)
    mx.update_statistics(batches(), net)
    assert {name: m.training for name, m in net.named_modules()} == modes
    assert (net[1].momentum, net[3][0].momentum) == (0.1, None)
    for name, value in net.state_dict().items():
        tracked = "running" in name or "num_batches" in name
        if not (name.endswith("running_weight") and options.get("num_components") == 1):
            assert torch.equal(value, before[name]) != tracked, name
    assert all(p.grad is None for p in net.parameters())
    assert net[1].num_batches_tracked == net[3][0].num_batches_tracked == 5
    # Training goes on with the layer's own momentum.
    mean = net[1].running_mean.clone()
    net.train()(batches(1)[0])
    assert net[1].num_batches_tracked == 6
    assert not torch.equal(net[1].running_mean, mean)


class InterruptedRunError(Exception):
    pass


def broken_loader() -> Iterator[Tensor]:
    yield from batches(2)
    raise InterruptedRunError


class FailsLater(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            raise InterruptedRunError
        return x


@pytest.mark.parametrize("where", ["loader", "module"])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("options", [{"num_components": 1}, {},
    {"component_affine": True, "affine_init": "batchnorm"}], ids=str)  # fmt: skip
def test_error_in_the_middle(options: dict[str, Any], trained: bool, where: str) -> None:
    net = network(**options) if trained else nn.Sequential(
        nn.Identity(), mx.MixtureNorm2d(4, **options), nn.Identity(),
        nn.Sequential(mx.MixtureNorm2d(4, momentum=None, **options)),
    ).double()  # fmt: skip
    net.eval()
    twin = copy.deepcopy(net)
    before = state(net)
    module = nn.Sequential(net, FailsLater()).eval() if where == "module" else net
    with pytest.raises(InterruptedRunError):
        mx.update_statistics(broken_loader() if where == "loader" else batches(), module)
    assert unchanged(net, before)
    assert (net[1].momentum, net[3][0].momentum) == (0.1, None)
    assert not any(m.training for m in net.modules())
    # An untrained layer is still to be seeded by its first batch.
    outputs = []
    for model in (net, twin):
        torch.manual_seed(5)
        outputs.append(model.train()(batches(1)[0] + 30))
    assert torch.equal(*outputs)


def test_empty_loader() -> None:
    net = network()
    before = state(net)
    with pytest.raises(ValueError, match="loader is empty: expected at least one batch"):
        mx.update_statistics([], net)
    assert unchanged(net, before)
    assert net.training
    assert net[1].momentum == 0.1


def test_nothing_to_update() -> None:
    """Without mixture layers that track statistics the loader is not even read."""
    net = nn.Sequential(nn.BatchNorm2d(4), mx.MixtureNorm2d(4, track_running_stats=False)).double()
    before = state(net)
    mx.update_statistics(broken_loader(), net)
    assert unchanged(net, before)


def test_forms_of_batches() -> None:
    inputs = batches(4)
    expected = copy.deepcopy(net := network())
    mx.update_statistics(inputs, expected)
    labels = [torch.zeros(len(x)) for x in inputs]
    for loader in (
        tuple(inputs),
        iter(inputs),
        (x for x in inputs),
        list(zip(inputs, labels, strict=True)),
        [[x, y] for x, y in zip(inputs, labels, strict=True)],
    ):
        twin = copy.deepcopy(net)
        mx.update_statistics(loader, twin)
        assert unchanged(twin, expected.state_dict())


def test_data_loader() -> None:
    x = torch.randn(24, 4, 5, 3, dtype=torch.float64)
    net = network()
    twin = copy.deepcopy(net)
    mx.update_statistics(DataLoader(TensorDataset(x, torch.zeros(24)), batch_size=8), net)
    mx.update_statistics(x.split(8), twin)
    assert unchanged(net, twin.state_dict())


def test_device_of_batches(device: str) -> None:
    net = network().to(device)
    if device != "cpu":
        with pytest.raises((RuntimeError, ValueError)):
            mx.update_statistics(batches(), net)
    mx.update_statistics(batches(), net, device)
    assert net[1].num_batches_tracked == 5
    with pytest.raises(ValueError, match="device"):
        mx.update_statistics(batches(), nn.Sequential(net[1]), "meta")


def test_untrained_network_is_seeded() -> None:
    layer = mx.MixtureNorm2d(4).double()
    twin = copy.deepcopy(layer)
    loader = batches()
    torch.manual_seed(4)
    mx.update_statistics(loader, layer)
    mean = torch.stack([x.mean((0, 2, 3)) for x in loader]).mean(0)
    # A component with a mass S below 1e-6 keeps to its mean, against S/M of the overall mean.
    assert_close(layer.running_weight[0] @ layer.running_mean, mean, 1e-7)
    assert layer.running_mean.std(0).min() > 0.1
    # The other batches are assigned by what the first one has set.
    torch.manual_seed(4)
    twin(loader[0])
    share = twin.running_weight.clone()
    mx.update_statistics(loader[1:], twin)
    assert_close(layer.running_weight, (share + 4 * twin.running_weight) / 5, 1e-12)
