"""The CUDA kernels under other schedules and devices, and with synchronization left out.

What a kernel computes may depend on none of the first; the last must be noticed.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mixnorm_cuda.kernels.native import loader, ops
from tests.kernels.operators import Problem, check

pytestmark = pytest.mark.skipif(
    loader.missing("emulated") is not None, reason=f"{loader.missing('emulated')}"
)

FAMILIES = pytest.mark.parametrize(
    "family", ["streaming", "resident", "cluster", "small", "general"]
)


@pytest.fixture(autouse=True)
def emulation() -> Iterator[None]:
    """The default device, schedule and synchronization again after each test."""
    yield
    torch.ops.mixnorm_emulated.schedule(0)
    torch.ops.mixnorm_emulated.emulate(0, 0, True)
    torch.ops.mixnorm_emulated.omit_synchronization("")


def results(
    family: str,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...] = (3, 17, 9, 9),
    groups: int = 1,
    components: int = 3,
    **options: bool,
) -> dict[str, Tensor]:
    if family == "general":  # what the others do not serve
        monkeypatch.setenv("MIXNORM_CUDA_KERNELS", "auto")
        problem = Problem(shape, 9, groups, dtype=torch.float64, emulated=True, **options)
    else:
        monkeypatch.setenv("MIXNORM_CUDA_KERNELS", family)
        problem = Problem(shape, components, groups, emulated=True, **options)
    return problem.operators(em_iters=1)


@FAMILIES
@pytest.mark.parametrize(("channels", "groups"), [(17, 1), (8, 8)])
@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
def test_same_bits_under_every_schedule(
    family: str, channels: int, groups: int, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = (monkeypatch, (3, channels, 9, 9), groups)
    first = results(family, *case, channels_last=channels_last)
    for seed in range(1, 6):
        torch.ops.mixnorm_emulated.schedule(seed)
        again = results(family, *case, channels_last=channels_last)
        for name, value in first.items():
            assert torch.equal(again[name], value), f"{name}, seed {seed}"


@pytest.mark.parametrize("family", ["streaming", "resident", "cluster", "small"])
def test_same_bits_of_matrix_products(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes read what others hold, and go on at their own pace."""
    case = (monkeypatch, (2, 20, 8, 48), 1, 8)
    first = results(family, *case)
    for seed in range(1, 4):
        torch.ops.mixnorm_emulated.schedule(seed)
        again = results(family, *case)
        for name, value in first.items():
            assert torch.equal(again[name], value), f"{name}, seed {seed}"


@pytest.mark.parametrize(("channels", "side"), [(64, 15), (1, 110)])
@pytest.mark.parametrize("multiprocessors", [1, 3, 16])
@pytest.mark.parametrize(
    ("family", "shared_memory"),
    [
        ("streaming", 0),
        ("streaming", 64 << 10),
        ("resident", 0),
        ("resident", 128 << 10),
        ("cluster", 0),
        ("cluster", 100 << 10),
        ("small", 128 << 10),
    ],
)
def test_other_devices(
    family: str,
    multiprocessors: int,
    shared_memory: int,
    channels: int,
    side: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other grids, and tiles that do not all fit on chip and are read again.

    A single channel is served as one mixture per channel.
    """
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", family)
    if family == "cluster" and multiprocessors == 1:
        multiprocessors = 2  # of the smallest cluster
    torch.ops.mixnorm_emulated.emulate(multiprocessors, shared_memory, True)
    check(Problem((4, channels, side, side), 3, emulated=True), em_iters=1)


@pytest.mark.parametrize(
    ("kilobytes", "kernels"), [(163, "1 element at once"), (99, "general, 1 element at once")]
)
def test_wide_groups_where_shared_memory_is_small(
    kilobytes: int, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of groups whose tiles of x and dy do not fit: fewer elements, or none held at all."""
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", "auto")
    torch.ops.mixnorm_emulated.emulate(0, kilobytes << 10, True, False)
    problem = Problem((2, 512, 6, 6), 3, emulated=True)
    plan = ops.cuda_plan(problem.x, 3, 1, backward=True, emulated=True)
    assert kernels in plan
    assert ("general" in plan) == ("general" in kernels)
    check(problem)


@pytest.mark.parametrize(("components", "groups"), [(1, 1), (2, 1), (2, 2), (4, 1)])
@pytest.mark.parametrize("kilobytes", [120, 99])
def test_both_backward_kernels_read_one_table(
    kilobytes: int, components: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the tiles of one kernel fit and the other's do not, they hold elements alike."""
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", "auto")
    torch.ops.mixnorm_emulated.emulate(0, kilobytes << 10, True, False)
    check(Problem((4, 520, 4, 4), components, groups, emulated=True))


def test_a_device_without_cooperative_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan streams there; resident kernels by name are an error."""
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", "auto")
    torch.ops.mixnorm_emulated.emulate(0, 0, False, False)
    problem = Problem((3, 17, 40, 40), 3, emulated=True)
    assert ops.cuda_plan(problem.x, 3, 1, emulated=True).startswith("streaming")
    check(problem)
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", "resident")
    with pytest.raises(RuntimeError, match="forward: the CUDA kernels do not serve x"):
        problem.operators()


def test_a_device_without_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan takes the whole grid there; clusters by name are an error that says so."""
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", "auto")
    problem = Problem((4, 2, 60, 60), 3, 2, emulated=True)
    assert ops.cuda_plan(problem.x, 3, 2, emulated=True).startswith("cluster, a mixture per")
    torch.ops.mixnorm_emulated.emulate(0, 0, True, False)
    assert not ops.cuda_plan(problem.x, 3, 2, emulated=True).startswith("cluster")
    check(problem)
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", "cluster")
    assert ops.cuda_plan(problem.x, 3, 2, emulated=True) == (
        "not served: no thread-block clusters on this device"
    )
    with pytest.raises(RuntimeError, match="on this device, which has no thread-block clusters"):
        problem.operators()


def noticed(
    family: str,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[tuple[int, ...], int, int],
    expected: dict[str, Tensor],
) -> bool:
    """Whether the results differ, or the emulation reports a fault, under some schedule."""
    for seed in range(8):
        torch.ops.mixnorm_emulated.schedule(seed)
        try:
            found = results(family, monkeypatch, *case)
        except RuntimeError as error:
            if "cudaErrorLaunchFailure" in str(error):
                return True
            raise
        if not all(torch.equal(found[name], value) for name, value in expected.items()):
            return True
    return False


def check_every_barrier_is_needed(
    family: str,
    monkeypatch: pytest.MonkeyPatch,
    cases: list[tuple[tuple[int, ...], int, int]],
    least: int,
) -> None:
    """Each place where the kernels synchronize, left out, is noticed in one of the cases.

    A case is a shape, groups and components; ``least``: places that there are at least.
    """
    places = set()
    unnoticed = set()
    for case in cases:
        torch.ops.mixnorm_emulated.omit_synchronization("")
        torch.ops.mixnorm_emulated.synchronization_places()
        expected = results(family, monkeypatch, *case)
        here = set(torch.ops.mixnorm_emulated.synchronization_places().split())
        unnoticed |= here - places
        places |= here
        for place in sorted(unnoticed):
            torch.ops.mixnorm_emulated.omit_synchronization(place)
            if noticed(family, monkeypatch, case, expected):
                unnoticed.remove(place)
    assert len(places) > least
    # Products follow, for which all lanes wait, too: what it adds is the order of memory.
    assert {place for place in unnoticed if not place.startswith("matrix_tile.cuh")} == set()


@FAMILIES
def test_every_barrier_is_needed(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second shape has few channels and many positions: several warps add to the same sums.

    The others have a mixture per channel.
    """
    many = (1, 3, 1500 if family == "general" else 6000)
    cases = [((3, 17, 9, 9), 1, 3), (many, 1, 3), (many, 3, 3), ((40, 8), 8, 3)]
    check_every_barrier_is_needed(family, monkeypatch, cases, 4 if family == "general" else 8)


def test_every_barrier_of_matrix_products_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second shape has few channels and many positions, a tile after another in one place."""
    torch.ops.mixnorm_emulated.emulate(1, 0, True)
    cases = [((3, 40, 6, 6), 1, 9), ((1, 8, 3000), 1, 9)]
    check_every_barrier_is_needed("streaming", monkeypatch, cases, 8)
