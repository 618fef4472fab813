"""Checkpoints, copies, devices without data: what survives and what it means afterwards."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

import mixnorm_cuda as mx
from tests.modules.batch_norms import make_batch_norm
from tests.support import assert_close

OPTIONS: list[dict[str, Any]] = [
    {"num_components": 1},
    {},
    {"groups": 2, "component_affine": True, "momentum": None},
    {"estimator": "batch"},
]


def data(step: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(8, 4, 5, 3, dtype=dtype)
    x[:3] += 2
    return x + step


def trained(options: dict[str, Any], steps: int = 3) -> nn.Module:
    layer = mx.MixtureNorm2d(4, **options)
    for step in range(steps):
        layer(data(step))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.rand_like(parameter))
    return layer


def assert_continue_alike(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """The next training step, its buffers and eval agree to the last bit."""
    outputs = []
    for layer in (ours, theirs):
        torch.manual_seed(7)
        outputs.append((layer.train()(x), layer.eval()(x), *layer.state_dict().values()))
    for a, b in zip(*outputs, strict=True):
        assert torch.equal(a, b)


def through_pickle(layer: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(layer))


def through_torch_save(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def through_state_dict(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    options = ("num_components", "groups", "component_affine", "momentum", "estimator")
    twin = mx.MixtureNorm2d(4, **{name: getattr(layer, name) for name in options})
    twin.load_state_dict(torch.load(file, weights_only=True))
    return twin


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        through_torch_save,
        through_state_dict,
    ],
    ids=["deepcopy", "pickle", "torch.save", "state_dict"],
)
def test_copies(
    duplicate: Callable[[nn.Module], nn.Module], steps: int, options: dict[str, Any]
) -> None:
    layer = trained(options, steps)
    twin = duplicate(layer)
    tensors = zip(layer.state_dict().values(), twin.state_dict().values(), strict=True)
    assert all(a.data_ptr() != b.data_ptr() and torch.equal(a, b) for a, b in tensors)
    before = copy.deepcopy(layer.state_dict())
    x = data(5)
    assert_continue_alike(copy.deepcopy(twin), copy.deepcopy(layer), x)
    twin(x)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_deepcopy_between_forward_and_backward() -> None:
    layer = trained({})
    x = data().requires_grad_()
    y = layer(x)
    twin = copy.deepcopy(layer)
    twin(data(9))
    y.sum().backward()
    assert x.grad is not None
    assert twin.weight.grad is None


@pytest.mark.parametrize("strict", [True, False])
def test_missing_and_unexpected_entries(strict: bool) -> None:
    layer, before = trained({}), trained({}).state_dict()
    layer.load_state_dict(before)
    partial = {k: v for k, v in before.items() if k != "running_weight"} | {"other": torch.ones(1)}
    if strict:
        with pytest.raises(RuntimeError) as raised:
            layer.load_state_dict(partial)
        assert 'Missing key(s) in state_dict: "running_weight"' in str(raised.value)
        assert 'Unexpected key(s) in state_dict: "other"' in str(raised.value)
    else:
        result = layer.load_state_dict(partial, strict=False)
        assert result.missing_keys == ["running_weight"]
        assert result.unexpected_keys == ["other"]
    assert layer.load_state_dict({}, strict=False).missing_keys == list(before)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    # Loading nothing does not make a trained layer seed again.
    x = data(50)
    layer(x)
    assert layer.running_mean.mean() < 20


def test_checkpoint_of_another_shape() -> None:
    layer = mx.MixtureNorm2d(4)
    for source in (mx.MixtureNorm2d(4, num_components=2), mx.MixtureNorm2d(5)):
        with pytest.raises(RuntimeError, match="size mismatch for running_mean"):
            layer.load_state_dict(source.state_dict())


def test_loaded_mapping_is_left_alone() -> None:
    checkpoint = nn.BatchNorm2d(4).state_dict()
    before = {name: value.clone() for name, value in checkpoint.items()}
    mx.MixtureNorm2d(4, component_affine=True).load_state_dict(checkpoint)
    assert list(checkpoint) == list(before)
    assert all(torch.equal(checkpoint[name], value) for name, value in before.items())


def test_version_is_stored_and_a_newer_one_warns() -> None:
    layer = mx.MixtureNorm2d(4)
    net = nn.Sequential(layer)
    checkpoint = net.state_dict()
    version = checkpoint._metadata["0"]["version"]
    assert version == layer._version >= 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.load_state_dict(checkpoint)
    checkpoint._metadata["0"]["version"] = version + 1
    with pytest.warns(UserWarning, match=rf"version {version + 1} is newer than this layer's"):
        net.load_state_dict(checkpoint)


def batch_norm(**options: Any) -> nn.BatchNorm2d:
    """One with statistics and parameters as after training."""
    layer = make_batch_norm(nn.BatchNorm2d, 4, **options)
    for step in range(3):
        layer(3 * data(step))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.5)
    return layer


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("mixture", [{"num_components": 1}, {"num_components": 1, "groups": 4},
    {"num_components": 1, "component_affine": True}], ids=str)  # fmt: skip
def test_batch_norm_checkpoint_at_one_component(options: dict, mixture: dict) -> None:
    source = batch_norm(**options)
    layer = mx.MixtureNorm2d(4, **options, **mixture)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert str(layer.load_state_dict(source.state_dict())) == "<All keys matched successfully>"
    for training in (True, False):
        x = data(4)
        assert_close(layer.train(training)(x), source.train(training)(x), 1e-6)
    assert_close(layer.running_var[0], source.running_var, 1e-6)
    assert layer.num_batches_tracked == source.num_batches_tracked == 4


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("components", [2, 3, 5])
@pytest.mark.parametrize("mixing_scale", [True, False])
def test_batch_norm_checkpoint_at_several_components(
    groups: int, components: int, mixing_scale: bool
) -> None:
    """With an affine pair for each component the outputs in eval stay, in float64 to rounding."""
    source = batch_norm().double()
    layer = mx.MixtureNorm2d(
        4, num_components=components, groups=groups, component_affine=True,
        mixing_scale=mixing_scale, dtype=torch.float64,
    )  # fmt: skip
    layer.load_state_dict(source.state_dict())
    x = 5 * data(4, torch.float64)
    assert_close(layer.eval()(x), source.eval()(x), 1e-12)
    # Distinct components, or they would stay one for ever; and no batch replaces them outright.
    assert layer.running_mean.std(0).min() > 1e-2
    before = layer.running_mean.clone()
    layer.train()(x + 1000)
    assert (layer.running_mean - before).abs().max() < 500


def test_batch_norm_checkpoint_with_shared_affine() -> None:
    source = batch_norm()
    layer = mx.MixtureNorm2d(4)
    layer.load_state_dict(source.state_dict())
    assert torch.equal(layer.weight, source.weight)
    assert torch.equal(layer.bias, source.bias)
    mean = layer.running_weight[0] @ layer.running_mean
    second = layer.running_weight[0] @ (layer.running_var + layer.running_mean.square())
    assert_close(mean, source.running_mean, 1e-6)
    assert_close(second - mean.square(), source.running_var, 1e-5)


def test_batch_norm_checkpoint_in_a_network() -> None:
    source = nn.Sequential(nn.Conv2d(4, 4, 1), batch_norm(), nn.Sequential(batch_norm()))
    net = nn.Sequential(
        nn.Conv2d(4, 4, 1),
        mx.MixtureNorm2d(4, component_affine=True),
        nn.Sequential(mx.MixtureNorm2d(4, num_components=1)),
    )
    net.load_state_dict(source.state_dict())
    x = data()
    assert_close(net.eval()(x), source.eval()(x), 1e-5)


def test_batch_norm_checkpoint_without_counter() -> None:
    """BatchNorm's version 1 had no num_batches_tracked; its statistics still describe data."""
    source = batch_norm()
    checkpoint = source.state_dict()
    del checkpoint["num_batches_tracked"]
    checkpoint._metadata[""]["version"] = 1
    layer = mx.MixtureNorm2d(4, component_affine=True)
    layer.load_state_dict(checkpoint)
    assert layer.num_batches_tracked == 0
    x = data()
    assert_close(layer.eval()(x), source.eval()(x), 1e-5)
    before = layer.running_mean.clone()
    layer.train()(x + 1000)
    assert (layer.running_mean - before).abs().max() < 500
    # Saved and loaded again it is still no fresh layer, though no batch has been counted.
    layer.load_state_dict(checkpoint)
    twin = mx.MixtureNorm2d(4, component_affine=True)
    twin.load_state_dict(layer.state_dict())
    assert_continue_alike(twin, layer, x)


def test_untrained_batch_norm_checkpoint_is_seeded_by_the_first_batch() -> None:
    layer = trained({})
    layer.load_state_dict(nn.BatchNorm2d(4).state_dict())
    layer(data(50))
    assert (layer.running_weight[0] @ layer.running_mean - 51).abs().max() < 2


def test_batch_norm_checkpoint_without_statistics() -> None:
    source = batch_norm(track_running_stats=False)
    for component_affine in (False, True):
        layer = mx.MixtureNorm2d(4, track_running_stats=False, component_affine=component_affine)
        layer.load_state_dict(source.state_dict())
        assert torch.equal(layer.weight, source.weight.expand_as(layer.weight))
        assert torch.equal(layer.bias, source.bias.expand_as(layer.bias))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_meta_device(options: dict[str, Any]) -> None:
    with torch.device("meta"):
        layer = mx.MixtureNorm2d(4, **options)
    assert all(t.is_meta for t in (*layer.parameters(), *layer.buffers()))
    x = torch.empty(8, 4, 5, 3, device="meta", requires_grad=True)
    for training in (True, False):
        y = layer.train(training)(x)
        assert y.is_meta
        assert y.shape == x.shape
        y.sum().backward()
        assert x.grad.shape == x.shape
        assert layer.weight.grad.shape == layer.weight.shape

    layer = mx.MixtureNorm2d(4, device="meta", **options).to_empty(device="cpu")
    layer.reset_parameters()
    assert_continue_alike(layer, mx.MixtureNorm2d(4, **options), data())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_meta_device_filled_by_assignment(options: dict[str, Any]) -> None:
    source = trained(options)
    layer = mx.MixtureNorm2d(4, device="meta", **options)
    layer.load_state_dict(copy.deepcopy(source.state_dict()), assign=True)
    assert_continue_alike(layer, source, data(5))


def test_meta_device_filled_from_an_old_batch_norm() -> None:
    """PyTorch's test: a counter absent from the checkpoint is not left on the meta device."""
    source = batch_norm()
    checkpoint = source.state_dict()
    del checkpoint["num_batches_tracked"]
    checkpoint._metadata[""]["version"] = 1
    layer = mx.MixtureNorm2d(4, device="meta", component_affine=True)
    layer.load_state_dict(checkpoint, assign=True)
    assert {t.device.type for t in layer.state_dict().values()} == {"cpu"}
    assert layer.num_batches_tracked == 0
    x = data()
    assert_close(layer.eval()(x), source.eval()(x), 1e-5)


@pytest.mark.parametrize("momentum", [None, 0.1])
@pytest.mark.parametrize("options", [{"num_components": 1}, {}, {"estimator": "batch", "groups": 2},
    {"component_affine": True, "affine_init": "batchnorm"}, {"track_running_stats": False}],
    ids=str)  # fmt: skip
def test_no_value_is_read_on_the_host(options: dict[str, Any], momentum: float | None) -> None:
    """On fake tensors .item() and bool() raise: what runs on them never waits for a device."""
    with FakeTensorMode() as mode:
        probe = torch.ones(1)
        with pytest.raises(DataDependentOutputException):
            bool(probe.sum() > 0)
        layer = mx.MixtureNorm2d(4, momentum=momentum, **options)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(3):
            x = torch.randn(8, 4, 5, 3, requires_grad=True)
            layer(x).sum().backward()
            optimizer.step()
            assert x.grad.shape == x.shape
        assert layer.eval()(x).fake_mode is mode


def test_moves_between_devices(device: str) -> None:
    layer = trained({})
    expected = copy.deepcopy(layer)
    layer.to(device)
    assert {t.device.type for t in (*layer.parameters(), *layer.buffers())} == {device}
    x = data()
    assert_close(layer.eval()(x.to(device)).cpu(), expected.eval()(x), 1e-5)
    layer.to("cpu").float()
    assert torch.equal(layer.eval()(x), expected.eval()(x))


def test_functional_call() -> None:
    """Buffers and parameters can be supplied from outside, as ensembles and meta-learning do."""
    layer, other = trained({}), trained({})
    x = data()
    state = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    y = torch.func.functional_call(layer.eval(), state, (x,))
    assert torch.equal(y, other.eval()(x))
