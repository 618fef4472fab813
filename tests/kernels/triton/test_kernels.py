"""Every kernel against the reference in float64, each in a launch of its own, over shapes that
break tiling."""

import pytest
import torch

from mixnorm_cuda.kernels.triton import config, problem
from mixnorm_cuda.kernels.triton.geometry import geometry
from tests.kernels.triton.cases import Case

pytestmark = pytest.mark.usefixtures("separate_launches")
ROWS, LAST = False, True


# Samples of 1, 4, 25, 49 and 96 positions; 1, 3, 6, 17 and 40 channels; more than one tile and
# more than one chunk in most.
@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [
        ((2, 3), ROWS),
        ((150, 6), ROWS),
        ((1, 5, 97), ROWS),
        ((3, 1, 33), LAST),
        ((9, 4, 2, 2), ROWS),
        ((5, 17, 5, 5), LAST),
        ((2, 40, 7, 7), ROWS),
        ((2, 6, 3, 4, 8), LAST),
    ],
    ids=str,
)
def test_shapes(shape, channels_last, device):
    Case(shape, channels_last=channels_last, device=device).check()


@pytest.mark.parametrize(("components", "channels_last"), [(1, LAST), (2, ROWS), (16, LAST)])
def test_components(components, channels_last, device):
    Case((3, 6, 4, 4), components, channels_last=channels_last, device=device).check()


@pytest.mark.parametrize(
    ("components", "groups", "channels_last"),
    [(3, 2, ROWS), (3, 2, LAST), (3, 12, ROWS), (3, 12, LAST), (4, 12, LAST), (1, 3, ROWS)],
)
def test_groups(components, groups, channels_last, device):
    case = Case((4, 12, 3, 3), components, groups, channels_last=channels_last, device=device)
    case.check(em_iters=2 if components in (1, 3) else 0)


@pytest.mark.parametrize(
    ("dtype", "groups", "channels_last"),
    [
        (torch.float64, 1, LAST),
        (torch.float64, 8, ROWS),
        (torch.bfloat16, 1, ROWS),
        (torch.bfloat16, 8, LAST),
        (torch.float16, 1, LAST),
    ],
    ids=str,
)
def test_dtypes(dtype, groups, channels_last, device):
    case = Case((3, 8, 4, 8), 3, groups, dtype=dtype, channels_last=channels_last, device=device)
    case.check(em_iters=1)


@pytest.mark.parametrize(
    ("option", "groups"),
    [
        ("mixing_scale", 1),
        ("mixing_scale", 6),
        ("responsibility_grad", 1),
        ("responsibility_grad", 2),
        ("responsibility_grad", 6),
        ("mixture_grad", 2),
    ],
)
def test_without(option, groups, device):
    case = Case((3, 6, 5, 5), 3, groups, device=device, affine="shared")
    case.check(**{option: False})


def test_no_affine_pairs(device):
    Case((3, 6, 5, 5), device=device, affine=None).check()


@pytest.mark.parametrize(("groups", "channels_last"), [(1, True), (2, False)])
def test_groups_wider_than_a_tile(groups, channels_last, device, monkeypatch):
    """Logits and their gradients block by block, ν loaded by every sweep."""
    choose = config.choose_tile

    def narrow(kernel, geometry, span, components, nu, **options):
        if nu == config.NU_JOINT:
            return None
        return choose(kernel, geometry, span, components, nu, **options)

    monkeypatch.setattr(config, "choose_tile", narrow)
    case = Case((2, 140, 3, 3), 2, groups, channels_last=channels_last, device=device)
    tile = narrow("responsibilities", geometry(case.x), 140 // groups, 2, "loaded", itemsize=4)
    assert tile.block_c < 140 // groups
    case.check(mixture_grad=groups == 1)


def test_a_wide_layer_fits_no_tile():
    """Rows of 7 × 7 allow no vector loads."""
    x = torch.empty(64, 2048, 7, 7, device="meta")
    assert config.choose_tile("moments", geometry(x), 2048, 3, config.NU_JOINT, itemsize=4) is None
    narrow = torch.empty(64, 64, 56, 56, device="meta")
    tile = config.choose_tile("moments", geometry(narrow), 64, 3, config.NU_JOINT, itemsize=4)
    assert tile is not None
    assert tile.block_c == 64


@pytest.mark.parametrize("itemsize", [4, 2])
@pytest.mark.parametrize("channels_last", [False, True])
def test_few_components_leave_registers_for_all_resident_threads(channels_last, itemsize):
    """A launch counts on `resident_threads` of a multiprocessor; many components would spill."""
    x = torch.empty(64, 64, 56, 56, device="meta")
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    name, limits = "input_gradient", config.BUDGETS["input_gradient"]

    def tile(components, span):
        found = config.choose_tile(
            name, geometry(x), span, components, config.NU_JOINT, itemsize=itemsize
        )
        assert found is not None
        return found

    few = tile(3, 64)
    threads = 32 * few.num_warps
    programs = max(1, limits.resident_threads // threads)
    assert few.registers % 8 == 0 or few.registers == config.MAX_REGISTERS
    assert programs * threads * few.registers <= config.REGISTERS
    assert tile(4, 64).registers is None
    assert tile(3, 32).registers is None  # one of two groups, which computes its ν


def test_any_number_of_chunks(device, monkeypatch):
    """Other tests have one multiprocessor and few chunks, here there is one a tile."""
    monkeypatch.setattr(problem, "multiprocessors", lambda device: 20)
    Case((5, 4, 9, 9), device=device).check()


@pytest.mark.parametrize("groups", [1, 4])
def test_same_bits_every_time(groups, device):
    case = Case((5, 4, 7, 7), 3, groups, device=device)
    first, second = (case.operators(mixture_grad=False) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
