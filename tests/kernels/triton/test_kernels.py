"""Every kernel against the reference in float64, each in a launch of its own, over shapes that
break tiling."""

import pytest
import torch

from mixnorm_cuda.kernels.triton import config, problem
from mixnorm_cuda.kernels.triton.geometry import geometry
from tests.kernels.triton.cases import Case

pytestmark = pytest.mark.usefixtures("separate_launches")
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["rows", "channels_last"])
# Samples of 1, 4, 25, 49 and 96 positions; 1, 3, 6, 17 and 40 channels; more than one tile and
# more than one chunk in most.
SHAPES = [
    (2, 3),
    (150, 6),
    (1, 5, 97),
    (3, 1, 33),
    (9, 4, 2, 2),
    (5, 17, 5, 5),
    (2, 40, 7, 7),
    (2, 6, 3, 4, 8),
]


@LAYOUTS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, channels_last, device):
    Case(shape, channels_last=channels_last, device=device).check()


@LAYOUTS
@pytest.mark.parametrize("components", [1, 2, 5, 16])
def test_components(components, channels_last, device):
    Case((3, 6, 5, 5), components, channels_last=channels_last, device=device).check()


@LAYOUTS
@pytest.mark.parametrize(
    ("components", "groups"), [(3, 2), (3, 12), (9, 12), (2, 4), (1, 3)], ids=str
)
def test_groups(components, groups, channels_last, device):
    Case((4, 12, 3, 3), components, groups, channels_last=channels_last, device=device).check()


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("groups", [1, 8])
def test_dtypes(dtype, groups, channels_last, device):
    case = Case((3, 8, 4, 8), 3, groups, dtype=dtype, channels_last=channels_last, device=device)
    case.check(em_iters=1)


@LAYOUTS
@pytest.mark.parametrize("groups", [1, 6])
def test_em_steps(groups, channels_last, device):
    case = Case((3, 6, 5, 5), 3, groups, channels_last=channels_last, device=device)
    case.check(em_iters=2)


@pytest.mark.parametrize(
    "options",
    [{"mixing_scale": False}, {"responsibility_grad": False}, {"mixture_grad": False}],
    ids=str,
)
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_options(options, groups, device):
    Case((3, 6, 5, 5), 3, groups, device=device, affine="shared").check(**options)


@pytest.mark.parametrize("affine", [None, "shared"])
def test_affine(affine, device):
    Case((3, 6, 5, 5), device=device, affine=affine).check()


@pytest.mark.parametrize(("groups", "channels_last"), [(1, True), (2, False)])
def test_groups_wider_than_a_tile(groups, channels_last, device, monkeypatch):
    """Logits and their gradients block by block, ν loaded by every sweep."""
    choose = config.choose_tile

    def narrow(kernel, geometry, span, components, nu, **options):
        if nu == config.NU_JOINT:
            return None
        return choose(kernel, geometry, span, components, nu, **options)

    monkeypatch.setattr(config, "choose_tile", narrow)
    case = Case((3, 140, 3, 3), 3, groups, channels_last=channels_last, device=device)
    tile = narrow("responsibilities", geometry(case.x), 140 // groups, 3, "loaded", itemsize=4)
    assert tile.block_c < 140 // groups
    case.check(em_iters=1)


def test_a_wide_layer_fits_no_tile():
    """Rows of 7 × 7 allow no vector loads."""
    x = torch.empty(64, 2048, 7, 7, device="meta")
    assert config.choose_tile("moments", geometry(x), 2048, 3, config.NU_JOINT, itemsize=4) is None
    narrow = torch.empty(64, 64, 56, 56, device="meta")
    tile = config.choose_tile("moments", geometry(narrow), 64, 3, config.NU_JOINT, itemsize=4)
    assert tile is not None
    assert tile.block_c == 64


@pytest.mark.parametrize("multiprocessors", [1, 20])
def test_any_number_of_chunks(multiprocessors, device, monkeypatch):
    monkeypatch.setattr(problem, "multiprocessors", lambda device: multiprocessors)
    Case((5, 4, 9, 9), device=device).check()


@LAYOUTS
@pytest.mark.parametrize("groups", [1, 4])
def test_same_bits_every_time(groups, channels_last, device):
    case = Case((5, 4, 7, 7), 3, groups, channels_last=channels_last, device=device)
    first, second = case.operators(em_iters=1), case.operators(em_iters=1)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
