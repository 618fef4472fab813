"""Several components in training: estimators, running statistics, first batches, bad batches."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mixnorm_cuda as mx
from mixnorm_cuda.functional import mixture_normalize
from tests.support import assert_close

CENTRES = torch.tensor([[-6.0, 0, 6, 2], [0, 8, -5, -2], [7, -7, 0, 5]], dtype=torch.float64)


def clustered(samples: int = 8, shape: tuple[int, ...] = (5, 4), shift: float = 0) -> Tensor:
    """Positions around three well separated centres of four channels, in float64."""
    component = torch.randint(3, (samples, *shape))
    x = CENTRES[component] + torch.randn(samples, *shape, 4, dtype=torch.float64)
    return x.movedim(-1, 1) + shift


def running(layer: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    return layer.running_weight, layer.running_mean, layer.running_var


def snapshot(layer: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(layer.state_dict())


def unchanged(layer: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def total(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and variance over all components, for G = 1."""
    share = layer.running_weight[0]
    mean = share @ layer.running_mean
    return mean, share @ (layer.running_var + (layer.running_mean - mean).square())


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("em_iters", [0, 2])
def test_online_steps_against_the_formula(
    momentum: float | None, groups: int, em_iters: int
) -> None:
    """Steps after the first: θ₀ is the running mixture, which moves by the mass-weighted rule."""
    layer = mx.MixtureNorm2d(
        4, momentum=momentum, groups=groups, em_iters=em_iters, dtype=torch.float64
    )
    layer(clustered())
    for step in range(2, 5):
        x = clustered(shift=step)
        weight, mean, var = (t.clone() for t in running(layer))
        y = layer(x)
        expected, (mass, m, q) = mixture_normalize(
            x, weight, mean, var, layer.weight, layer.bias, em_iters=em_iters
        )
        assert_close(y, expected, 1e-14)
        factor = 1 / step if momentum is None else momentum
        share = mass / (8 * 5 * 4)
        new_weight = (1 - factor) * weight + factor * share
        wide = [t.T.repeat_interleave(4 // groups, 1) for t in (mass, factor * share / new_weight)]
        unbiased = torch.where(wide[0] > 1, q * (wide[0] / (wide[0] - 1)).clamp_max(2), q)
        assert_close(layer.running_weight, new_weight, 1e-13)
        assert_close(layer.running_mean, mean + wide[1] * (m - mean), 1e-13)
        assert_close(layer.running_var, var + wide[1] * (unbiased - var), 1e-13)
        assert layer.num_batches_tracked == step
    x = clustered()
    expected, moments = mixture_normalize(
        x, *running(layer), layer.weight, layer.bias, training=False
    )
    assert moments is None
    assert torch.equal(layer.eval()(x), expected)


@pytest.mark.parametrize("estimator", ["online", "batch"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_first_batch_sets_the_statistics_outright(estimator: str, momentum: float | None) -> None:
    layer = mx.MixtureNorm2d(4, momentum=momentum, estimator=estimator, dtype=torch.float64)
    x = clustered(samples=32, shift=100)
    layer(x)
    mean, var = total(layer)
    flat = x.transpose(0, 1).flatten(1)
    assert_close(mean, flat.mean(1), 1e-12)
    # The variances are unbiased for each component: a relative excess of less than 1/S.
    assert_close(var, flat.var(1), 0.02)
    assert layer.num_batches_tracked == 1
    assert layer.running_mean.std(0).min() > 1


# Every batch of the second is a k-means++ start of its own, some of which end in a poorer mixture.
@pytest.mark.parametrize(("estimator", "tolerance"), [("online", 0.5), ("batch", 3.0)])
@pytest.mark.parametrize("groups", [1, 2])
def test_recovers_a_planted_mixture(estimator: str, tolerance: float, groups: int) -> None:
    torch.manual_seed(1)
    layer = mx.MixtureNorm2d(4, estimator=estimator, groups=groups, dtype=torch.float64)
    order = None
    for step in range(40):
        layer(clustered(samples=16))
        if step < 20:
            continue
        width = 4 // groups
        for g in range(groups):
            channels = slice(g * width, (g + 1) * width)
            distance = torch.cdist(layer.running_mean[:, channels], CENTRES[:, channels])
            assert distance.min(1).values.max() < tolerance
        # Each component keeps its own place among the centres.
        distance = torch.cdist(layer.running_mean[:, :width], CENTRES[:, :width])
        order = distance.argmin(1) if order is None else order
        assert torch.equal(distance.argmin(1), order)
    assert order.unique().numel() == 3
    assert (layer.running_weight - 1 / 3).abs().max() < 0.1 * tolerance
    if estimator == "online":
        assert (layer.running_var - 1).abs().max() < 0.3


def test_batch_estimator_starts_anew_on_every_batch() -> None:
    """The running statistics do not enter its outputs, only the order of its components."""
    layer = mx.MixtureNorm2d(4, estimator="batch", dtype=torch.float64)
    layer(clustered())
    x = clustered()
    torch.manual_seed(3)
    y = layer(x)
    layer.running_mean.add_(0.5)
    layer.running_var.mul_(3)
    torch.manual_seed(3)
    assert_close(layer(x), y, 1e-12)


@pytest.mark.parametrize("estimator", ["online", "batch"])
def test_without_running_statistics(estimator: str) -> None:
    layer = mx.MixtureNorm2d(4, track_running_stats=False, estimator=estimator, dtype=torch.float64)
    x = clustered()
    outputs = []
    for training in (True, False, True):
        torch.manual_seed(3)
        outputs.append(layer.train(training)(x))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    # Of this batch alone: another batch in between changes nothing, a shift is normalized away.
    layer(clustered(shift=5))
    torch.manual_seed(3)
    assert_close(layer(x + 50), outputs[0], 1e-9)


def test_seed_reproduces_the_first_batch() -> None:
    x = torch.randn(8, 4, 5, 3)

    def first(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return mx.MixtureNorm2d(4)(x)

    assert torch.equal(first(1), first(1))
    assert not torch.allclose(first(1), first(2))


@pytest.mark.parametrize("options", [{"num_components": 1}, {}], ids=str)
def test_only_seeding_draws_random_numbers(options: dict[str, Any]) -> None:
    layer = mx.MixtureNorm2d(4, **options)
    x = torch.randn(8, 4, 5, 3)
    layer(x)
    state = torch.get_rng_state()
    layer(x)
    layer.eval()(x)
    assert torch.equal(torch.get_rng_state(), state)


def test_backward_after_later_steps() -> None:
    """Two forward passes, then two backward: the buffers moved in between."""
    layer = mx.MixtureNorm2d(4, dtype=torch.float64)
    layer(clustered())
    twin = copy.deepcopy(layer)
    inputs = [clustered(shift=s).requires_grad_() for s in (0.0, 1.0)]
    dys = [torch.randn_like(x) for x in inputs]
    outputs = [layer(x) for x in inputs]
    late = torch.autograd.grad(outputs, inputs, dys)
    for x, dy, dx in zip(inputs, dys, late, strict=True):
        assert torch.equal(torch.autograd.grad(twin(x), x, dy)[0], dx)


def test_training_without_gradients_tracks_as_well() -> None:
    layer = mx.MixtureNorm2d(4)
    layer(torch.randn(8, 4, 5, 3))
    twin = copy.deepcopy(layer)
    x = torch.randn(8, 4, 5, 3)
    with torch.no_grad():
        assert not twin(x).requires_grad
    with torch.inference_mode():
        twin.eval()(x)
    layer(x)
    assert torch.equal(twin.running_mean, layer.running_mean)


def test_groups_of_single_channels_are_independent_layers() -> None:
    layer = mx.MixtureNorm2d(4, groups=4, dtype=torch.float64)
    layer(clustered())
    singles = [mx.MixtureNorm2d(1, dtype=torch.float64) for _ in range(4)]
    for c, single in enumerate(singles):
        single(clustered()[:, :1])
        for name in ("running_mean", "running_var"):
            getattr(single, name).copy_(getattr(layer, name)[:, c : c + 1])
        single.running_weight.copy_(layer.running_weight[c : c + 1])
    x = clustered(shift=1)
    for training in (True, False):
        y = torch.cat([s.train(training)(x[:, c : c + 1]) for c, s in enumerate(singles)], dim=1)
        assert_close(layer.train(training)(x), y, 1e-12)
    assert_close(layer.running_var, torch.cat([s.running_var for s in singles], dim=1), 1e-12)


def test_responsibility_grad_changes_only_gradients() -> None:
    layer = mx.MixtureNorm2d(4, dtype=torch.float64)
    # Overlapping components: where they are far apart, ν hardly depends on x.
    layer(torch.randn(8, 4, 5, 4, dtype=torch.float64))
    detached = copy.deepcopy(layer)
    detached.responsibility_grad = False
    x = torch.randn(8, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    a, b = layer(x), detached(x)
    assert torch.equal(a, b)
    dy = torch.randn_like(x)
    da, db = (torch.autograd.grad(y, x, dy)[0] for y in (a, b))
    assert (da - db).norm() > 0.01 * da.norm()


@pytest.mark.parametrize("mixing_scale", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("estimator", "em_iters"), [("online", None), ("online", 3), ("batch", None)]
)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_start_as_batch_norm(
    groups: int, estimator: str, em_iters: int | None, momentum: float | None, mixing_scale: bool
) -> None:
    layer = mx.MixtureNorm2d(
        4, momentum=momentum, groups=groups, estimator=estimator, em_iters=em_iters,
        mixing_scale=mixing_scale, component_affine=True, affine_init="batchnorm",
        dtype=torch.float64,
    )  # fmt: skip
    bn = nn.BatchNorm2d(4, dtype=torch.float64)
    x = clustered(shift=3)
    # BN from its initial statistics before the first batch, in eval, too.
    assert_close(layer.eval()(x), bn.eval()(x), 1e-12)
    y = layer.train()(x)
    assert_close(y, bn.train()(x), 1e-12)
    # The components do differ, so equality came from the affine pairs.
    assert layer.running_mean.std(0).min() > 0.1
    assert layer.weight.std(0).max() > 1e-3
    # Only the first batch sets the pairs.
    weight = layer.weight.clone()
    layer(clustered())
    assert torch.equal(layer.weight, weight)


def test_start_as_batch_norm_in_float32_and_with_given_pairs() -> None:
    layer = mx.MixtureNorm2d(4, component_affine=True, affine_init="batchnorm")
    bn = nn.BatchNorm2d(4)
    with torch.no_grad():
        bn.weight.copy_(torch.rand(4) + 0.5)
        bn.bias.copy_(torch.randn(4))
    layer.load_state_dict(bn.state_dict())
    x = clustered().float()
    assert_close(layer(x), bn(x), 1e-5)


@pytest.mark.parametrize("options", [{}, {"component_affine": True}], ids=str)
def test_known_domains_are_separate_batch_norms(options: dict[str, Any]) -> None:
    """One-hot responsibilities, equal shares, cumulative averages: one BatchNorm per domain."""
    layer = mx.MixtureNorm2d(
        4, momentum=None, num_components=2, mixing_scale=False, dtype=torch.float64, **options
    )
    domains = [nn.BatchNorm2d(4, momentum=None, dtype=torch.float64) for _ in range(2)]
    if options:
        with torch.no_grad():
            for k, bn in enumerate(domains):
                for name in ("weight", "bias"):
                    getattr(bn, name).copy_(torch.randn(4))
                    getattr(layer, name)[k].copy_(getattr(bn, name))
    for step in range(4):
        x = clustered(shift=step)
        x[4:] *= 3
        label = torch.tensor([0] * 4 + [1] * 4)
        permutation = torch.randperm(8)
        x, label = x[permutation], label[permutation]
        nu = nn.functional.one_hot(label, 2).double()
        if step == 3:
            layer.eval()
        for bn in domains:
            bn.train(layer.training)
        y = layer(x, nu)
        for k, bn in enumerate(domains):
            assert_close(y[label == k], bn(x[label == k]), 1e-12)
            assert_close(layer.running_mean[k], bn.running_mean, 1e-12)
            assert_close(layer.running_var[k], bn.running_var, 1e-12)
    assert layer.num_batches_tracked == 3
    assert_close(layer.running_weight, torch.full((1, 2), 0.5).double(), 1e-14)


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_gate_learns_through_the_layer(per_position: bool, training: bool) -> None:
    """Mode Normalization: responsibilities of a gate receive gradients, one for each entry."""
    layer = mx.MixtureNorm2d(4, mixing_scale=False, dtype=torch.float64)
    x = clustered()
    layer(x)
    shape = (8, 3, 5, 4) if per_position else (8, 3)
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = layer.train(training)(x, logits.softmax(1))
    y.square().mean().backward()
    assert logits.grad.shape == shape
    assert (logits.grad != 0).all()


def test_per_sample_responsibilities_are_those_of_every_position() -> None:
    layer = mx.MixtureNorm2d(4, groups=2, dtype=torch.float64)
    twin = copy.deepcopy(layer)
    x, nu = clustered(), torch.rand(8, 3, dtype=torch.float64).softmax(1)
    wide = nu[:, :, None, None].expand(8, 3, 5, 4)
    assert_close(layer(x, nu), twin(x, wide), 1e-14)
    assert_close(layer.running_var, twin.running_var, 1e-14)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("nu", "error", "message"),
    [
        (torch.rand(8, 2), ValueError, r"responsibilities has shape \(8, 2\): expected \[8, 3\]"),
        (torch.rand(7, 3), ValueError, r"responsibilities has shape \(7, 3\)"),
        (torch.rand(8, 3, 5), ValueError, r"\[8, 3\] or \[8, 3, 5, 4\]"),
        (torch.rand(8, 3).long(), TypeError, "responsibilities has dtype torch.int64"),
        (torch.rand(8, 3, device="meta"), ValueError, "responsibilities is on device meta"),
    ],
    ids=["components", "samples", "rank", "dtype", "device"],
)  # fmt: skip
def test_unfit_responsibilities(
    nu: Tensor, error: type[Exception], message: str, training: bool, first: bool
) -> None:
    layer = mx.MixtureNorm2d(4)
    x = clustered().float()
    if not first:
        layer(x)
    layer.train(training)
    before = snapshot(layer)
    with pytest.raises(error, match=message):
        layer(x, nu)
    assert unchanged(layer, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    "options", [{"num_components": 1}, {}, {"estimator": "batch"}, {"groups": 4}], ids=str
)
def test_bad_batch_never_enters_the_statistics(
    options: dict[str, Any], momentum: float | None, bad: float
) -> None:
    layer = mx.MixtureNorm2d(4, momentum=momentum, dtype=torch.float64, **options)
    layer(clustered())
    before = snapshot(layer)
    x = clustered()
    x[2, 1, 3, 0] = bad
    y = layer(x)
    assert y[:, 1].isnan().all()  # as in BatchNorm: the channel's statistics are not finite
    if layer.groups == 4:
        assert y[:, [0, 2, 3]].isfinite().all()
    assert unchanged(layer, before)
    layer(clustered())
    assert layer.num_batches_tracked == 2
    assert all(t.isfinite().all() for t in running(layer))
    assert layer.eval()(clustered()).isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("options", [{"num_components": 1}, {}, {"estimator": "batch"},
    {"component_affine": True, "affine_init": "batchnorm"}], ids=str)  # fmt: skip
def test_bad_first_batch(options: dict[str, Any], everywhere: bool, bad: float) -> None:
    """The layer survives it: finite statistics, not counted, and training goes on from there."""
    torch.manual_seed(2)
    layer = mx.MixtureNorm2d(4, dtype=torch.float64, **options)
    x = clustered()
    if everywhere:
        x.fill_(bad)
    else:
        x[2, 1, 3, 0] = bad
    assert not layer(x).isfinite().all()
    assert layer.num_batches_tracked == 0
    assert all(t.isfinite().all() for t in layer.state_dict().values())
    for _ in range(60):
        y = layer(clustered(samples=16))
        assert y.isfinite().all()
    assert layer.num_batches_tracked == 60
    mean, var = total(layer)
    x = clustered(samples=64).transpose(0, 1).flatten(1)
    assert (mean - x.mean(1)).abs().max() < 1
    assert (var / x.var(1) - 1).abs().max() < 0.5
    # Seeds that had stayed at their initial values would be one component for ever.
    if layer.num_components > 1:
        assert torch.pdist(layer.running_mean).min() > 1


@pytest.mark.parametrize("options", [{}, {"groups": 4}, {"estimator": "batch"}], ids=str)
def test_constant_input(options: dict[str, Any]) -> None:
    """No distinct points to seed from: finite outputs, and components that can still part."""
    layer = mx.MixtureNorm2d(4, **options)
    y = layer(torch.full((8, 4, 5, 3), 7.0))
    assert y.isfinite().all()
    assert y.abs().max() < 10
    for _ in range(30):
        assert layer(clustered().float()).isfinite().all()
    assert (layer.running_mean.amax(0) - layer.running_mean.amin(0)).min() > 1


def test_component_without_mass_keeps_its_statistics() -> None:
    layer = mx.MixtureNorm2d(4, dtype=torch.float64)
    for _ in range(5):
        layer(clustered(samples=16))
    lost = torch.cdist(layer.running_mean, CENTRES).argmin(1).eq(1).nonzero().item()
    before = layer.running_mean[lost].clone(), layer.running_weight[0, lost].item()
    x = CENTRES[torch.randint(2, (16, 20)) * 2].movedim(-1, 1)[..., None]
    layer(x + torch.randn_like(x) / 2)
    assert_close(layer.running_mean[lost], before[0], 1e-10)
    assert layer.running_weight[0, lost].item() == pytest.approx(0.9 * before[1])


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_replays_the_seeding(reentrant: bool) -> None:
    layer = mx.MixtureNorm2d(4, track_running_stats=False, dtype=torch.float64)
    x = clustered().requires_grad_()
    dy = torch.randn_like(x)
    gradients = []
    for run in (layer, lambda t: checkpoint(layer, t, use_reentrant=reentrant)):
        torch.manual_seed(3)
        y = run(x)
        y.backward(dy)
        gradients.append((x.grad, layer.weight.grad))
        x.grad = layer.weight.grad = None
    for plain, replayed in zip(*gradients, strict=True):
        assert torch.equal(plain, replayed)
