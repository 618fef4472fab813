"""Views, empty batches and components, large means, values that are not finite, 64-bit offsets."""

import pytest
import torch

from mixnorm_cuda.kernels.triton import ops
from mixnorm_cuda.reference import ReferenceBackend
from mixnorm_cuda.types import BatchMoments, Mixture
from tests.kernels.triton.cases import Case
from tests.support import EPS, problem, relative_error

REFERENCE = ReferenceBackend()


def views(device: str) -> dict[str, torch.Tensor]:
    base = torch.randn(4, 20, 7, 8, device=device)
    return {
        "channel slice": base[:, 5:11],
        "stepped": base[:, ::4, ::3, ::2],
        "transposed": base[:, :6].transpose(2, 3),
        "batch and channels swapped": base[:, :6].transpose(0, 1),
        "channels-last slice": base.contiguous(memory_format=torch.channels_last)[:, 3:9],
        "storage offset": base.flatten()[3 : 3 + 4 * 6 * 9].view(4, 6, 3, 3),
        "expanded": torch.randn(4, 6, 1, 1, device=device).expand(4, 6, 3, 3),
    }


@pytest.mark.parametrize("name", views("cpu"))
def test_strides_do_not_matter(name, device):
    """Any view gives what its contiguous copy gives, contiguous unless it is dense."""
    view = views(device)[name]
    case = Case(tuple(view.shape), device=device)
    before = view.clone()
    case.x = view.contiguous()
    wanted = case.operators(mixture_grad=False)
    case.x, case.dy = view, case.dy.transpose(-1, -2).contiguous().transpose(-1, -2)
    found = case.operators(mixture_grad=False)
    assert torch.equal(view, before)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=key)
    assert found["y"].is_contiguous()


@pytest.mark.parametrize("components", [1, 3])
def test_empty_batch(components, device):
    case = Case((0, 6, 4, 4), components, device=device)
    found = case.operators(em_iters=1)
    assert found["y"].shape == found["dx"].shape == (0, 6, 4, 4)
    for name in ("moments.mass", "dweight", "dbias", "dmixture.mean", "eval dweight"):
        assert torch.equal(found[name], torch.zeros_like(found[name])), name
    assert torch.equal(found["moments.mean"], case.mixture.mean)


@pytest.mark.parametrize("groups", [1, 6])
def test_empty_component_keeps_its_mean(groups, device):
    case = Case((3, 6, 5, 5), 3, groups, device=device)
    case.mixture.mean[1] += 1e3
    case.mixture.mixing_weight[:, 1] = 1e-4  # as running averages end
    found = case.operators()
    assert (found["moments.mass"][:, 1] == 0).all()
    torch.testing.assert_close(found["moments.mean"][1], case.mixture.mean[1])
    assert (found["moments.var"][1] == 0).all()
    case.check()


@pytest.mark.parametrize("channels_last", [False, True])
def test_large_means_with_one_component(channels_last, device):
    """|mean| / std of 1e4: at most 4 times the error of BatchNorm, which the method promises."""
    case = Case((6, 8, 9, 9), 1, channels_last=channels_last, device=device, offset=1.5e4,
                affine=None)  # fmt: skip
    case.mixture.mean.zero_()  # stale, as in a layer's first steps
    exact = case.reference()["y"]
    batch_norm = torch.nn.functional.batch_norm(case.x, None, None, training=True, eps=EPS)
    found = case.operators()["y"]
    assert relative_error(found, exact) <= 4 * relative_error(batch_norm, exact) + 1e-7


@pytest.mark.parametrize("groups", [1, 8])
def test_large_means_with_three_components(groups, device):
    case = Case((6, 8, 9, 9), 3, groups, device=device, offset=1.5e4)
    exact, found = case.reference(), case.operators()
    for name in ("y", "eval y", "moments.var"):
        assert relative_error(found[name], exact[name]) <= 1e-3, name


@pytest.mark.parametrize("far", [0, 2])
@pytest.mark.parametrize(("groups", "distance"), [(1, 1000.0), (8, 30.0), (8, 1000.0)])
def test_in_eval_a_heavy_component_far_from_the_data_costs_no_digits(groups, distance, far, device):
    """Two components share the data, one that has nine tenths of the weight is elsewhere."""
    case = Case((4, 8, 5, 5), 3, groups, device=device)
    case.mixture.mean[far] += distance * case.mixture.var[far].sqrt()
    case.mixture.mixing_weight.fill_(0.05)[:, far] = 0.9
    x, mixture, weight, bias = case.exact()
    options = {"eps": EPS, "mixing_scale": True}
    found = ops.evaluate(case.x, case.mixture, *case.affine, **options)
    wanted = REFERENCE.evaluate(x, mixture, weight, bias, **options)
    assert relative_error(found, wanted) <= 1e-6
    options["responsibility_grad"] = True
    grads = ops.evaluate_backward(case.dy, case.x, case.mixture, *case.affine, **options)
    exact = REFERENCE.evaluate_backward(case.dy.double(), x, mixture, weight, bias, **options)
    for name in ("x", "weight", "bias"):
        assert relative_error(getattr(grads, name), getattr(exact, name)) <= 1e-5, name


def test_in_eval_components_that_coincide_far_from_a_position(device):
    """What two components have in common is not computed twice: 40 standard deviations away their
    logits are 800 a channel, and ν depends on a difference of one part in ten thousand."""
    case = Case((4, 8, 5, 5), 3, device=device)
    case.mixture.mean.copy_(case.mixture.mean[:1].expand(3, -1))
    case.mixture.var.copy_(case.mixture.var[:1].expand(3, -1))
    case.mixture.mean[1] += 1e-3
    case.mixture.var[2] *= 1.0001
    case.x += 40 * case.mixture.var[0].sqrt().view(1, -1, 1, 1)
    x, mixture, weight, bias = case.exact()
    options = {"eps": EPS, "mixing_scale": True}
    found = ops.evaluate(case.x, case.mixture, *case.affine, **options)
    assert relative_error(found, REFERENCE.evaluate(x, mixture, weight, bias, **options)) <= 1e-6


@pytest.mark.parametrize(
    ("components", "groups", "value"),
    [(1, 1, float("nan")), (3, 1, float("inf")), (3, 1, float("nan")), (3, 6, float("inf"))],
)
def test_not_finite_input_reaches_the_output(components, groups, value, device):
    case = Case((4, 6, 5, 5), components, groups, device=device)
    case.x[2, 4, 3, 3] = value
    found = case.operators()
    assert not found["y"][2, 4, 3, 3].isfinite()
    assert not found["moments.mean"][:, 4].isfinite().any()
    y = found["eval y"].movedim(1, -1)  # in eval nothing leaves the position
    assert not y[2, 3, 3, 4].isfinite()
    others = torch.ones(4, 5, 5, dtype=torch.bool, device=device)
    others[2, 3, 3] = False
    assert y[others].isfinite().all()


@pytest.mark.parametrize(
    ("groups", "as_tensor", "dtype"),
    [
        (1, False, torch.float32),
        (2, True, torch.float32),
        (6, False, torch.float64),
        (6, True, torch.float64),
    ],
)
def test_update_running(groups, as_tensor, dtype, device):
    running = Mixture(*(t.to(dtype) for t in problem((2, 6), 3, groups, device=device).mixture))
    mass = torch.rand(groups, 3, device=device, dtype=dtype) * 4
    mass[0, 0], mass[-1, -1] = 1.0001, 0
    moments = BatchMoments(mass, running.mean + 1, running.var * 2)
    factor = torch.tensor(0.3, dtype=dtype, device=device) if as_tensor else 0.3
    expected = Mixture(*(t.clone() for t in running))
    REFERENCE.update_running(expected, moments, 10, factor)
    finite = ops.update_running(running, moments, 10, factor)
    assert finite.dtype == torch.bool
    assert finite.item()
    for found, wanted in zip(running, expected, strict=True):
        # A Python number reaches a kernel of the interpreter in float32.
        torch.testing.assert_close(found, wanted, rtol=4e-7, atol=1e-7)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_moments_that_are_not_finite_change_nothing(place, device):
    running = Mixture(*(t.float() for t in problem((2, 6), 3, 2, device=device).mixture))
    before = [t.clone() for t in running]
    moments = BatchMoments(*(t.clone() for t in running))
    moments[place].view(-1)[-1] = float("nan")
    assert not ops.update_running(running, moments, 10, 0.5).item()
    assert all(map(torch.equal, running, before))
