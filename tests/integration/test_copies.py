"""What PyTorch's own utilities do to a layer: averages, replicas, checkpoints of several kinds."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import mixnorm_cuda as mx


def batch() -> Tensor:
    return torch.randn(16, 4, 3, 3) + 3 * torch.randint(0, 3, (16, 1, 1, 1))


def trained(steps: int = 3, **options: Any) -> mx.MixtureNorm2d:
    layer = mx.MixtureNorm2d(4, **options)
    for _ in range(steps):
        layer(batch())
    return layer


def keeps_its_statistics(layer: mx.MixtureNorm2d) -> bool:
    """Whether a training step moves the statistics by its momentum rather than seeding anew."""
    before = layer.running_mean.clone()
    layer.momentum = 1e-6
    layer.train()(batch())
    return torch.allclose(layer.running_mean, before, atol=1e-3)


@pytest.mark.parametrize("use_buffers", [False, True])
def test_an_averaged_model_goes_on_from_its_averages(use_buffers: bool) -> None:
    # The copy is made of a layer that has seen nothing, and gets its statistics written into it.
    layer = mx.MixtureNorm2d(4)
    average = AveragedModel(
        nn.Sequential(layer), multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=use_buffers
    )
    for _ in range(3):
        layer(batch())
        average.update_parameters(nn.Sequential(layer))
    copied = average.module[0]
    assert copied.num_batches_tracked > 0
    if not use_buffers:
        x = batch()
        assert torch.equal(copied.eval()(x), copy.deepcopy(layer).eval()(x))
    assert keeps_its_statistics(copied)


def test_statistics_copied_by_hand_count_as_seeded() -> None:
    source, target = trained(), mx.MixtureNorm2d(4)
    for mine, theirs in zip(target.buffers(), source.buffers(), strict=True):
        mine.copy_(theirs)
    assert keeps_its_statistics(target)


def test_a_reset_by_hand_seeds_anew() -> None:
    layer = trained()
    layer.reset_running_stats()
    layer.momentum = 1e-6
    x = batch()
    layer(x)
    assert torch.allclose(layer.running_mean.mean(), x.mean(), atol=1.0)
    assert layer.running_mean.unique(dim=0).shape[0] == 3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: m.to(torch.float64).float()])
def test_unseeded_copies_seed_without_reading_the_counter(copied: Any, monkeypatch: Any) -> None:
    layer = copied(mx.MixtureNorm2d(4))
    monkeypatch.setattr(Tensor, "__bool__", lambda _: pytest.fail("a value was read on the host"))
    layer(batch())
    monkeypatch.undo()
    assert layer.running_mean.unique(dim=0).shape[0] == 3


def test_functional_call_with_other_statistics_leaves_the_layer_unseeded() -> None:
    layer, other = mx.MixtureNorm2d(4), trained()
    state = {name: t.clone() for name, t in other.state_dict().items()}
    other.momentum = layer.momentum = 0.5
    x = batch()
    y = torch.func.functional_call(layer, state, (x,))
    assert torch.equal(y, other(x))
    for name, buffer in other.named_buffers():
        assert torch.equal(state[name], buffer)
    assert layer.num_batches_tracked == 0
    layer(batch())
    assert layer.running_mean.unique(dim=0).shape[0] == 3


def test_replicas_of_data_parallel_tell_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `nn.DataParallel` does with its first device: fresh replicas share the buffers.

    After the first step no replica has to read the counter.
    """
    layer, x = mx.MixtureNorm2d(4), batch()
    for step in range(3):
        replica = layer._replicate_for_data_parallel()
        replica._buffers = dict(layer._buffers)
        replica.weight, replica.bias = layer.weight, layer.bias
        replica.momentum = 1e-6
        if step:
            before = layer.running_mean.clone()
            monkeypatch.setattr(Tensor, "__bool__", lambda _: pytest.fail("read on the host"))
        replica(x)
        monkeypatch.undo()
        assert layer.num_batches_tracked == step + 1
        if step:
            assert torch.allclose(layer.running_mean, before, atol=1e-3)
    assert not any(isinstance(m, mx.MixtureNorm2d) for m in list(replica.modules())[1:])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_data_parallel() -> None:
    layer = mx.MixtureNorm2d(4).cuda()
    model = nn.DataParallel(layer)
    for step in range(3):
        model(batch().cuda())
        assert layer.num_batches_tracked == step + 1
    layer.momentum = 1e-6
    before = layer.running_mean.clone()
    model(batch().cuda())
    assert torch.allclose(layer.running_mean, before, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"component_affine": True}, {"momentum": None}], ids=str)
def test_weights_only_checkpoints(options: dict[str, Any]) -> None:
    layer, file = trained(**options), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    restored = mx.MixtureNorm2d(4, **options)
    restored.load_state_dict(torch.load(file, weights_only=True))
    x = batch()
    assert torch.equal(restored.eval()(x), layer.eval()(x))
    assert keeps_its_statistics(restored)


@pytest.mark.parametrize("version", [None, 1, 2])
def test_state_dicts_of_older_batch_norms(version: int | None) -> None:
    """Version 1 had no counter, and files without metadata have no version."""
    old = nn.BatchNorm2d(4)
    old(batch())
    state = old.state_dict()
    if version == 2:
        assert state._metadata[""]["version"] == 2
    else:
        del state["num_batches_tracked"]
        del state._metadata
    layer = mx.MixtureNorm2d(4, component_affine=True)
    layer.load_state_dict(state)
    x = batch()
    torch.testing.assert_close(layer.eval()(x), old.eval()(x), rtol=1e-4, atol=1e-5)
    assert keeps_its_statistics(layer)
