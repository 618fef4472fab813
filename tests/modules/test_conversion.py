"""BatchNorm layers of a model to mixture layers and back."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mixnorm_cuda as mx
from tests.modules.batch_norms import make_batch_norm
from tests.support import assert_close

PAIRS = [
    (nn.BatchNorm1d, mx.MixtureNorm1d, (8, 6, 5)),
    (nn.BatchNorm2d, mx.MixtureNorm2d, (8, 6, 5, 3)),
    (nn.BatchNorm3d, mx.MixtureNorm3d, (4, 6, 2, 3, 4)),
    (nn.SyncBatchNorm, mx.SyncMixtureNorm, (8, 6, 5, 3)),
]


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn(self.conv(x)).relu()


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Block(8), Block(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8, eps=1e-3), nn.Linear(8, 5),
    )  # fmt: skip


def trained_network(steps: int = 20) -> nn.Sequential:
    net = network().double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(steps):
        x, labels = 3 * torch.randn(8, 3, 8, 8).double() + 1, torch.randint(5, (8,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    return net


def batch_norm(layer: Any = nn.BatchNorm2d, shape: Any = (8, 6, 5, 3), **options: Any) -> nn.Module:
    """One layer with statistics and parameters as after training."""
    norm = make_batch_norm(layer, 6, **options)
    with torch.no_grad():
        for tensor in (*norm.parameters(), norm.running_mean, norm.running_var):
            if tensor is not None:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(7)
    return norm


def count(net: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> int:
    return sum(isinstance(m, kind) for m in net.modules())


@pytest.mark.parametrize("components", [1, 2, 3, 5])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("mixing_scale", [True, False])
def test_trained_network_gives_the_same_outputs(
    components: int, groups: int, mixing_scale: bool
) -> None:
    net = trained_network(5).eval()
    x = 3 * torch.randn(16, 3, 8, 8).double() + 1
    expected = net(x)
    converted = mx.convert_mixture_norm(
        net, num_components=components, groups=groups, mixing_scale=mixing_scale,
        component_affine=True,
    )  # fmt: skip
    assert converted is net
    assert count(net, nn.modules.batchnorm._BatchNorm) == 0
    assert count(net, (mx.MixtureNorm1d, mx.MixtureNorm2d)) == 4
    assert net[1].weight.shape == (components, 8)
    # Rounding only; the factor is that of logits which other operations could amplify.
    assert_close(net(x), expected, 1e-12)
    assert net[-2].eps == 1e-3


def test_trained_network_in_float32_keeps_its_predictions() -> None:
    net = trained_network(20).float().eval()
    x = 3 * torch.randn(64, 3, 8, 8) + 1
    expected = net(x)
    mx.convert_mixture_norm(net, component_affine=True)
    assert_close(net(x), expected, 1e-5)


def test_converted_network_trains_on() -> None:
    """Components start apart, and stay in use; the running statistics go on from BN's."""
    net = trained_network()
    mx.convert_mixture_norm(net, component_affine=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    before = net[1].running_mean.clone()
    tracked = net[1].num_batches_tracked.item()
    for _ in range(10):
        x, labels = 3 * torch.randn(8, 3, 8, 8).double() + 1, torch.randint(5, (8,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    layer = net[1]
    assert layer.num_batches_tracked == tracked + 10 == 30
    assert not torch.equal(layer.running_mean, before)
    assert layer.running_mean.std(0).min() > 0.05 * layer.running_var.sqrt().max()
    assert layer.running_weight.min() > 0.05
    assert layer.weight.std(0).max() > 0


@pytest.mark.parametrize(("batch_norm_class", "mixture_class", "shape"), PAIRS)
def test_one_component_equals_in_training_too(
    batch_norm_class: Any, mixture_class: Any, shape: Any
) -> None:
    net = nn.Sequential(batch_norm(batch_norm_class, dtype=torch.float64))
    old = net[0]
    mx.convert_mixture_norm(net, num_components=1)
    new = net[0]
    assert type(new) is mixture_class
    # SyncBatchNorm runs on accelerators only: the formula of the common base stands in for it.
    if batch_norm_class is nn.SyncBatchNorm:
        twin = nn.BatchNorm2d(6, dtype=torch.float64)
        twin.load_state_dict(old.state_dict())
        old = twin
    for training in (True, True, False):
        x = torch.randn(shape, dtype=torch.float64) + 1
        assert_close(new.train(training)(x), old.train(training)(x), 1e-13)
    assert_close(new.running_mean[0], old.running_mean, 1e-13)
    assert_close(new.running_var[0], old.running_var, 1e-13)
    assert new.num_batches_tracked == old.num_batches_tracked == 9


@pytest.mark.parametrize(("batch_norm_class", "mixture_class", "shape"), PAIRS)
def test_single_layer_is_returned(batch_norm_class: Any, mixture_class: Any, shape: Any) -> None:
    old = batch_norm(batch_norm_class)
    new = mx.convert_mixture_norm(old)
    assert type(new) is mixture_class
    assert new.num_components == 3
    assert type(old) is batch_norm_class
    assert new(torch.randn(shape)).shape == shape


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"eps": 0.01, "momentum": 0.3},
        {"momentum": None},
        {"affine": False},
        {"bias": False},
        {"track_running_stats": False},
        {"affine": False, "track_running_stats": False},
        {"dtype": torch.float64},
        {"dtype": torch.bfloat16},
        {"device": "meta"},
    ],
    ids=str,
)
def test_layer_options_are_kept(options: dict[str, Any], training: bool) -> None:
    old = batch_norm(**options).train(training)
    new = mx.convert_mixture_norm(copy.deepcopy(old), num_components=2, groups=3, em_iters=1)
    assert (new.num_components, new.groups, new.em_iters) == (2, 3, 1)
    for name in ("num_features", "eps", "momentum", "affine", "track_running_stats", "training"):
        assert getattr(new, name) == getattr(old, name), name
    for name in ("weight", "bias", "running_mean", "num_batches_tracked"):
        ours, theirs = getattr(new, name), getattr(old, name)
        assert (ours is None) == (theirs is None), name
        if theirs is not None:
            assert ours.device == theirs.device
            half = name == "running_mean" and theirs.dtype == torch.bfloat16
            assert ours.dtype == (torch.float32 if half else theirs.dtype), name
    if old.weight is not None and not old.weight.is_meta:
        assert torch.equal(new.weight, old.weight)
    if old.running_mean is not None and not old.running_mean.is_meta:
        assert_close(new.running_mean.mean(0), old.running_mean, 1e-6)
        assert new.num_batches_tracked == 7


def test_affine_pairs_for_a_layer_without() -> None:
    """``affine=True`` gives pairs to a layer that had none; per component they keep its outputs."""
    old = batch_norm(affine=False, dtype=torch.float64).eval()
    x = torch.randn(8, 6, 5, 3).double()
    expected = old(x)
    new = mx.convert_mixture_norm(old, affine=True, bias=True, component_affine=True)
    assert_close(new(x), expected, 1e-12)


@pytest.mark.parametrize("frozen", [("weight",), ("bias",), ("weight", "bias"), ()])
@pytest.mark.parametrize("component_affine", [True, False])
def test_requires_grad_is_kept(frozen: tuple[str, ...], component_affine: bool) -> None:
    old = batch_norm()
    for name in frozen:
        getattr(old, name).requires_grad_(False)
    new = mx.convert_mixture_norm(old, component_affine=component_affine)
    for name in ("weight", "bias"):
        assert getattr(new, name).requires_grad == (name not in frozen)
        assert getattr(new, name).is_leaf
    back = mx.revert_mixture_norm(mx.convert_mixture_norm(old, num_components=1))
    for name in ("weight", "bias"):
        assert getattr(back, name).requires_grad == (name not in frozen)


def test_shared_memory_is_not_kept() -> None:
    old = batch_norm()
    new = mx.convert_mixture_norm(old, num_components=1)
    before = copy.deepcopy(old.state_dict())
    new(torch.randn(8, 6, 5, 3) + 9)
    with torch.no_grad():
        new.weight.add_(1)
    assert all(torch.equal(before[name], value) for name, value in old.state_dict().items())


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (None, {"1", "3.bn", "4.bn", "7"}),
        ("*", {"1", "3.bn", "4.bn", "7"}),
        ("3.bn", {"3.bn"}),
        ("*.bn", {"3.bn", "4.bn"}),
        ("[14]*", {"1", "4.bn"}),
        (lambda name, layer: layer.num_features == 8 and name != "1", {"3.bn", "4.bn", "7"}),
        (lambda name, layer: isinstance(layer, nn.BatchNorm1d), {"7"}),
        (lambda name, layer: False, set()),
    ],
)
def test_chosen_layers(only: Any, names: set[str]) -> None:
    net = network()
    mx.convert_mixture_norm(net, only=only)
    kinds = (mx.MixtureNorm1d, mx.MixtureNorm2d)
    assert {name for name, m in net.named_modules() if isinstance(m, kinds)} == names
    assert net(torch.randn(4, 3, 8, 8)).shape == (4, 5)


def test_predicate_sees_batch_norms_only() -> None:
    seen = []
    net = network()
    mx.convert_mixture_norm(net, only=lambda name, layer: bool(seen.append((name, layer))))
    assert seen == [(name, net.get_submodule(name)) for name in ("1", "3.bn", "4.bn", "7")]


def test_pattern_that_matches_nothing() -> None:
    net = network()
    with pytest.raises(ValueError, match=r"only='layer1\.\*': expected a pattern that matches"):
        mx.convert_mixture_norm(net, only="layer1.*")
    # Names of other layers do not count.
    with pytest.raises(ValueError, match=r"only='3\.conv'"):
        mx.convert_mixture_norm(net, only="3.conv")
    assert count(net, nn.modules.batchnorm._BatchNorm) == 4


def test_model_without_batch_norm() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(2, 8))
    before = list(net)
    assert mx.convert_mixture_norm(net) is net
    assert list(net) == before


def test_shared_layers_stay_shared() -> None:
    norm, block = nn.BatchNorm2d(8), Block(8)
    net = nn.ModuleDict({"a": norm, "b": nn.Sequential(norm), "c": block, "d": block})
    mx.convert_mixture_norm(net)
    assert type(net["a"]) is mx.MixtureNorm2d
    assert net["a"] is net["b"][0]
    assert net["c"] is net["d"]
    assert type(net["c"].bn) is mx.MixtureNorm2d
    net = nn.ModuleDict({"a": norm, "b": nn.Sequential(norm)})
    mx.revert_mixture_norm(mx.convert_mixture_norm(net, num_components=1))
    assert type(net["a"]) is nn.BatchNorm2d
    assert net["a"] is net["b"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_components": 0}, "num_components=0"),
        ({"groups": 3}, "groups=3: expected a divisor of the 8 channels"),
        ({"estimator": "none"}, "estimator='none'"),
    ],
)
def test_bad_option_replaces_nothing(options: dict[str, Any], message: str) -> None:
    # Three channels of the first layer would take groups=3: the second one raises.
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    before = list(net)
    with pytest.raises(ValueError, match=message):
        mx.convert_mixture_norm(net, **options)
    assert list(net) == before
    with pytest.raises(TypeError, match="num_clusters"):
        mx.convert_mixture_norm(net, num_clusters=3)
    assert list(net) == before


class Renamed(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize("odd", [nn.LazyBatchNorm2d, lambda: Renamed(8)])
def test_batch_norms_without_counterpart(odd: Any) -> None:
    net = nn.Sequential(nn.BatchNorm2d(8), odd())
    before = list(net)
    with pytest.raises(TypeError, match=f"layer of type {type(net[1]).__name__}: expected one of"):
        mx.convert_mixture_norm(net)
    assert list(net) == before
    mx.convert_mixture_norm(net, only="0")
    assert type(net[0]) is mx.MixtureNorm2d


@pytest.mark.parametrize("options", [{}, {"component_affine": True},
    {"component_affine": True, "affine_init": "batchnorm"}], ids=str)  # fmt: skip
def test_untrained_layer_is_seeded_by_its_first_batch(options: dict[str, Any]) -> None:
    new = mx.convert_mixture_norm(nn.BatchNorm2d(6, dtype=torch.float64), **options)
    x = torch.randn(8, 6, 5, 3).double() + 40
    x[:4] -= 20
    y = new(x)
    mean = new.running_weight[0] @ new.running_mean
    assert_close(mean, x.mean((0, 2, 3)), 1e-10)
    if "affine_init" in options:
        assert_close(y, nn.BatchNorm2d(6, dtype=torch.float64)(x), 1e-12)


def test_trained_layer_is_not_seeded() -> None:
    new = mx.convert_mixture_norm(batch_norm())
    before = new.running_mean.clone()
    new(torch.randn(8, 6, 5, 3) + 100)
    assert (new.running_mean - before).abs().max() < 50


@pytest.mark.parametrize(("batch_norm_class", "mixture_class", "shape"), PAIRS)
@pytest.mark.parametrize(
    "options",
    [{}, {"affine": False}, {"bias": False}, {"track_running_stats": False}, {"momentum": None},
     {"dtype": torch.float64}],
    ids=str,
)  # fmt: skip
def test_round_trip(
    batch_norm_class: Any, mixture_class: Any, shape: Any, options: dict[str, Any]
) -> None:
    old = batch_norm(batch_norm_class, **options).eval()
    for extra in ({}, {"component_affine": True}, {"groups": 2}):
        net = nn.Sequential(copy.deepcopy(old)).eval()
        mx.convert_mixture_norm(net, num_components=1, **extra)
        assert type(net[0]) is mixture_class
        assert mx.revert_mixture_norm(net) is net
        new = net[0]
        assert type(new) is batch_norm_class
        assert repr(new) == repr(old)
        assert not new.training
        for name, value in old.state_dict().items():
            assert new.state_dict()[name].dtype == value.dtype
            # At K = 1 a pair per component is γ √(σ²+ε)/√(σ²+ε): equal up to its rounding.
            assert_close(new.state_dict()[name].double(), value.double(), 1e-6)
        assert list(new.state_dict()) == list(old.state_dict())


def test_reverted_layer_is_equal_after_training() -> None:
    layer = mx.MixtureNorm2d(6, num_components=1, component_affine=True, dtype=torch.float64)
    for _ in range(3):
        layer(torch.randn(8, 6, 5, 3).double() + 2)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(1, 6))
        layer.bias.copy_(torch.rand(1, 6))
    twin = copy.deepcopy(layer)
    bn = mx.revert_mixture_norm(layer)
    assert type(bn) is nn.BatchNorm2d
    for training in (False, True, False):
        x = torch.randn(8, 6, 5, 3).double()
        assert_close(bn.train(training)(x), twin.train(training)(x), 1e-13)


def test_revert_refuses_several_components() -> None:
    net = nn.Sequential(mx.MixtureNorm2d(8, num_components=1), Block(8))
    net[1].bn = mx.MixtureNorm2d(8, num_components=2)
    before = list(net.modules())
    with pytest.raises(ValueError, match=r"1\.bn has num_components=2: expected 1"):
        mx.revert_mixture_norm(net)
    assert list(net.modules()) == before
    with pytest.raises(ValueError, match="module has num_components=3"):
        mx.revert_mixture_norm(mx.MixtureNorm2d(8))


def test_revert_refuses_lazy_layers() -> None:
    net = nn.Sequential(
        mx.MixtureNorm2d(8, num_components=1), mx.LazyMixtureNorm2d(num_components=1)
    )
    before = list(net)
    with pytest.raises(TypeError, match="layer of type LazyMixtureNorm2d: expected one of"):
        mx.revert_mixture_norm(net)
    assert list(net) == before


def test_revert_without_mixture_layers() -> None:
    net = network()
    before = list(net.modules())
    assert mx.revert_mixture_norm(net) is net
    assert list(net.modules()) == before


class BatchNormAct2d(nn.BatchNorm2d):
    """In the form of timm's layer: normalization, drop and activation in one."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def test_batch_norm_with_activation() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4))
    x = torch.randn(8, 3, 5, 5)
    model(x)
    expected = model.eval()(x)
    mx.convert_mixture_norm(model, only="1", component_affine=True)
    assert isinstance(model[1].norm, mx.MixtureNorm2d)
    assert not model[1].training
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert (expected == 0).any()
