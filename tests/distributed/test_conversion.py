"""Conversion to `SyncMixtureNorm`, and what it keeps."""

import copy
import pickle

import pytest
import torch
from torch import nn

import mixnorm_cuda as mx
from tests.support import same_bits

OPTIONS = {
    "eps": 1e-3, "momentum": 0.3, "num_components": 2, "groups": 2, "estimator": "batch",
    "em_iters": 1, "mixing_scale": False, "component_affine": True, "responsibility_grad": False,
    "bias": False, "backend": "reference",
}  # fmt: skip


def model(**options):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), mx.MixtureNorm2d(4, **options), nn.Sequential(nn.BatchNorm2d(4)),
        nn.Sequential(mx.MixtureNorm2d(4, **options)),
    )  # fmt: skip
    net.add_module("shared", net[1])
    return net


@pytest.mark.parametrize("options", [{}, OPTIONS, {"track_running_stats": False, "affine": False}])
def test_keeps_options_parameters_and_buffers(options):
    net = model(**options)
    net(torch.randn(3, 3, 2, 2))
    net[3].eval()
    old = net[1]
    described, tensors = repr(old), dict(net.named_parameters()) | dict(net.named_buffers())
    x = torch.randn(3, 3, 2, 2)
    assert mx.convert_sync_mixture_norm(net) is net
    for layer in (net[1], net[3][0]):
        assert type(layer) is mx.SyncMixtureNorm
        assert repr(layer) == described.replace("MixtureNorm2d", "SyncMixtureNorm")
        assert layer.process_group is None
        assert layer._seeded == old._seeded
    assert type(net[2][0]) is nn.BatchNorm2d
    assert net.shared is net[1], "a shared layer stays shared"
    assert net[1].training
    assert not net[3][0].training
    after = dict(net.named_parameters()) | dict(net.named_buffers())
    assert after.keys() == tensors.keys()
    assert all(after[name] is tensors[name] for name in tensors)
    net.eval()
    if options.get("track_running_stats", True):
        expected = old.eval()(net[0](x))
        assert same_bits(net[1](net[0](x)), expected)


def test_a_layer_itself_and_one_that_is_synchronized_already():
    layer = mx.MixtureNorm1d(4)
    converted = mx.convert_sync_mixture_norm(layer)
    assert type(converted) is mx.SyncMixtureNorm
    again = mx.convert_sync_mixture_norm(converted)
    assert type(again) is mx.SyncMixtureNorm
    assert again.weight is layer.weight


def test_hooks_are_kept_and_not_shared():
    layer, calls = mx.MixtureNorm1d(4), []
    layer.register_forward_hook(lambda *_: calls.append("kept"))
    converted = mx.convert_sync_mixture_norm(layer)
    layer.register_forward_hook(lambda *_: calls.append("old"))
    converted(torch.randn(3, 4))
    assert calls == ["kept"]


def test_a_class_without_a_counterpart_replaces_nothing():
    net = nn.Sequential(mx.MixtureNorm1d(4), mx.LazyMixtureNorm1d())
    with pytest.raises(TypeError, match=r"1 is of type LazyMixtureNorm1d: expected one of Mixture"):
        mx.convert_sync_mixture_norm(net)
    assert type(net[0]) is mx.MixtureNorm1d


def test_state_dict_is_that_of_the_other_layers():
    layer, sync = mx.MixtureNorm2d(4), mx.SyncMixtureNorm(4)
    layer(torch.randn(3, 4, 2, 2))
    sync.load_state_dict(layer.state_dict())
    back = mx.MixtureNorm2d(4)
    back.load_state_dict(sync.state_dict())
    assert list(sync.state_dict()) == list(layer.state_dict())
    for name, value in layer.state_dict().items():
        assert same_bits(back.state_dict()[name], value)
    assert sync._seeded


def test_copies_and_pickles():
    layer = mx.SyncMixtureNorm(4)
    layer(torch.randn(3, 4))
    layer._agreed = True  # as after a step with other processes
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.process_group is None
        assert not other._agreed
        assert same_bits(other.running_mean, layer.running_mean)


def test_one_process_is_the_ordinary_layer():
    """Without a process group; training, gradients and second derivatives too."""
    plain, sync = mx.MixtureNorm2d(4), mx.SyncMixtureNorm(4)
    for step in range(2):
        torch.manual_seed(step)
        x = torch.randn(3, 4, 2, 2).requires_grad_()
        results = []
        for layer in (plain, sync):
            torch.manual_seed(step)
            y = layer(x)
            (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            results.append((y, dx, *torch.autograd.grad(dx.square().sum(), x)))
        assert all(map(same_bits, *results))
    assert all(map(same_bits, plain.buffers(), sync.buffers()))


def test_the_group_of_a_sync_batch_norm_is_kept():
    group = object()
    old = nn.SyncBatchNorm(4, process_group=group)
    new = mx.convert_mixture_norm(nn.Sequential(old), num_components=1)[0]
    assert new.process_group is group
    assert mx.revert_mixture_norm(nn.Sequential(new))[0].process_group is group
    assert mx.convert_sync_mixture_norm(new, None).process_group is None
