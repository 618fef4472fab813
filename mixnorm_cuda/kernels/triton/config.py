"""Tile sizes and warps: a small model of what a thread holds, with a table of its budgets.

A thread keeps the coefficients and partial sums of its channels and the responsibilities of its
positions in registers for the whole loop over tiles; that is what bounds a tile, not its elements.
`tools/check_triton.py` compiles what this file gives for representative layers and every
architecture, and fails on a register spill. No Triton here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import MappingProxyType

from mixnorm_cuda.kernels.triton.geometry import Geometry

REGISTERS, MAX_REGISTERS = 65536, 255
"""Of a multiprocessor, and that a thread can have."""
NU_ONE, NU_LOADED, NU_JOINT, NU_CHANNEL = "one", "loaded", "joint", "channel"


@dataclass(frozen=True)
class Budget:
    """Limits for one kind of kernel; the numbers that tuning changes."""

    channel_registers: int = 72
    """For coefficients and partial sums of a thread's channels."""
    position_registers: int = 32
    """For the responsibilities of a thread's positions."""
    elements: int = 32
    """Of the input that a thread loads at once, at most."""
    bytes: int = 64
    """Of the input that a thread loads at once, at most."""
    threads: int = 128
    """Threads of a program, more where a group's channels need them."""
    max_threads: int = 256
    """Beyond 256 a thread has 128 registers or fewer, too few for its channels."""
    resident_threads: int = 512
    """Threads of a multiprocessor that a launch counts on: what its registers allow."""
    resident_elements: int = 2**16
    """Elements that these threads hold, at most: a tile of more needs more registers."""
    registers: int | None = None
    """Of a thread, at most (`launch.run`). None: what the compiler takes."""
    shared_registers: int = 0
    """Up to this many components of one joint mixture, whose ν is loaded, a thread has its share of
    the registers and no more, so that `resident_threads` are resident. Others would spill."""
    dot_components: int = 0
    """From this many components on, products with `tl.dot` in place of multiply-adds, for groups of
    32 to 64 channels in float32. 0: never."""
    program_elements: int = 0
    """Of the input that one program goes over in a launch that does all passes, at most: what
    stays in a multiprocessor's cache from pass to pass. 0: never one launch."""
    program_components: int = 4
    """Components in such a launch, at most: compiling it takes seconds at 4, and grows with the
    cube (10 s at 8, minutes at 16, on a 2-core Xeon)."""


BUDGETS: dict[str, Budget] = {
    "moments": Budget(
        channel_registers=96,
        position_registers=16,
        bytes=128,
        resident_elements=2**13,
        # Counted, not measured: tl.dot costs 50 instructions an element up to 16 components, the
        # multiply-adds 28 at 3, 74 at 5 and 180 at 8.
        dot_components=5,
    ),
    "normalize": Budget(),
    "output_sums": Budget(elements=16, registers=MAX_REGISTERS),
    "evaluate": Budget(channel_registers=104),
    "evaluate_gradient": Budget(position_registers=16, elements=16, resident_threads=384),
    "input_gradient": Budget(
        position_registers=16, elements=16, resident_threads=384, shared_registers=3
    ),
    "responsibilities": Budget(registers=MAX_REGISTERS),
    "log_odds_gradient": Budget(elements=16),
    "fused_forward": Budget(threads=256, program_elements=2**15),
    "fused_backward": Budget(
        position_registers=16, elements=16, threads=256, program_elements=2**14
    ),
}


BY_CAPABILITY: dict[int, dict[str, Budget]] = {
    # Its compiler keeps more in registers: with more elements wide groups would spill.
    10: {
        "evaluate": Budget(channel_registers=104, position_registers=16, elements=16),
        "input_gradient": Budget(position_registers=16, elements=8, resident_threads=384),
        "fused_backward": Budget(
            position_registers=16, elements=8, threads=256, program_elements=2**14
        ),
    },
}
"""What replaces `BUDGETS` on devices of a major compute capability."""

_tuned: ContextVar[Mapping[str, Budget]] = ContextVar("tuned", default=MappingProxyType({}))
_capability: ContextVar[int] = ContextVar("capability", default=0)


def budget_of(kernel: str) -> Budget:
    """The budget in force for ``kernel``."""
    table = BY_CAPABILITY.get(_capability.get(), {})
    return _tuned.get().get(kernel) or table.get(kernel) or BUDGETS[kernel]


@contextmanager
def on_capability(major: int) -> Iterator[None]:
    """Within, the table is that of devices of this major compute capability."""
    token = _capability.set(major)
    try:
        yield
    finally:
        _capability.reset(token)


@contextmanager
def using(budgets: Mapping[str, Budget]) -> Iterator[None]:
    """Within, ``budgets`` take the place of those of the table."""
    token = _tuned.set(budgets)
    try:
        yield
    finally:
        _tuned.reset(token)


@dataclass(frozen=True)
class Tile:
    """A kernel's compile-time sizes. REPEATS and VECTOR say which positions one thread holds."""

    block_c: int
    block_p: int
    vec: int
    repeats: int
    vector: int
    num_warps: int
    registers: int | None = None


@dataclass(frozen=True)
class Launch:
    """A tile and its grid: ``blocks`` of channels by ``chunks`` of ``tiles`` of positions."""

    tile: Tile
    blocks: int
    chunks: int
    tiles: int

    def ranges(self) -> tuple[int, int]:
        """Tiles of a chunk, and how many chunks have one more."""
        return self.tiles // self.chunks, self.tiles % self.chunks


def next_power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _floor_power_of_two(n: float) -> int:
    return 1 << (int(n).bit_length() - 1) if n >= 1 else 1


def _power_of_two_divisor(n: int, most: int) -> int:
    return min(n & -n, most)


def channel_cost(kernel: str, components: int, nu: str, *, sums: int = 0) -> int:
    """Values that a thread holds for each of its channels."""
    k = components
    computed = 2 * (k - 1) if nu in (NU_JOINT, NU_CHANNEL) else 0
    if kernel in ("moments", "fused_forward"):
        return 1 + computed + 2 * k
    if kernel == "normalize":
        return 1 + computed + 2 * k
    if kernel == "output_sums":
        return 1 + computed + 2 * k
    if kernel in ("evaluate", "evaluate_gradient"):
        held = 3 if nu == NU_ONE else 4 * k + 1
        return held + sums + 2 * k * (kernel == "evaluate_gradient")
    if kernel in ("input_gradient", "fused_backward"):
        return 1 + 4 * k + 2 * (k - 1) + sums
    return 1  # responsibilities, log_odds_gradient: rows are loaded where they are used


def choose_tile(
    kernel: str,
    geometry: Geometry,
    span: int,
    components: int,
    nu: str,
    *,
    itemsize: int,
    sums: int = 0,
    block_c: int | None = None,
) -> Tile | None:
    """The tile of ``kernel`` for groups of ``span`` channels; None where "joint" does not fit.

    Blocks have at most ``block_c`` channels where these need not meet.
    """
    budget = budget_of(kernel)
    if nu == NU_ONE:  # few are needed, so no program is lost
        budget = replace(budget, registers=MAX_REGISTERS)
    registers = 2 if itemsize == 8 else 1
    cost = channel_cost(kernel, components, nu, sums=sums) * registers
    channels = _floor_power_of_two(budget.channel_registers / cost)
    # Responsibilities are per position, or per element when every channel has its own.
    held = _floor_power_of_two(budget.position_registers / (components * registers))
    elements = min(budget.elements, budget.bytes // itemsize)
    if nu == NU_CHANNEL:
        elements = min(elements, held)
    blocked = nu != NU_JOINT
    widest = next_power_of_two(span)
    block_c = min(widest, block_c) if blocked and block_c else widest
    pick = _channels_last if geometry.channels_last else _contiguous
    tile = pick(budget, geometry, span, block_c, blocked, channels, held, elements, itemsize)
    one_mixture = nu == NU_JOINT and span == geometry.channels
    if tile is None or not one_mixture or components > budget.shared_registers:
        return tile
    threads = 32 * tile.num_warps
    threads *= max(1, budget.resident_threads // threads)
    return replace(tile, registers=min(MAX_REGISTERS, REGISTERS // threads // 8 * 8))


def _contiguous(
    budget: Budget,
    geometry: Geometry,
    span: int,
    block_c: int,
    blocked: bool,
    channels: int,
    held: int,
    elements: int,
    itemsize: int,
) -> Tile | None:
    """A thread holds ``vec`` neighbouring positions of each of its channels."""
    vec = min(geometry.vec, held, elements)
    channels = max(1, min(channels, elements // vec, block_c))
    line = max(1, min(32, 128 // (vec * itemsize)))
    sector = max(1, min(32, 32 // (vec * itemsize)))
    if blocked:
        block_c = min(block_c, max(channels, budget.threads * channels // line))
    across = block_c // channels
    along = max(line, budget.threads // across)
    while across * along > budget.max_threads and along > sector:
        along //= 2
    if across * along > budget.max_threads:
        return None
    warps = max(1, across * along // 32)
    return Tile(block_c, along * vec, vec, 1, vec, warps, budget.registers)


def _channels_last(
    budget: Budget,
    geometry: Geometry,
    span: int,
    block_c: int,
    blocked: bool,
    channels: int,
    held: int,
    elements: int,
    itemsize: int,
) -> Tile | None:
    """A thread holds ``vec`` neighbouring channels of each of its positions."""
    vec = _power_of_two_divisor(span, 16 // itemsize)
    vec = min(vec, channels, elements, block_c)
    if blocked:
        # Whole lines of memory, and responsibilities read once for many channels.
        block_c = min(block_c, max(vec * 32, 128 // itemsize))
    threads = budget.threads
    while block_c // vec > threads and threads < budget.max_threads:
        threads *= 2
    if block_c // threads > channels:
        return None
    across = min(threads, block_c // vec)
    along = threads // across
    repeats = max(1, min(held, elements * across // block_c))
    return Tile(block_c, along * repeats, vec, repeats, 1, threads // 32, budget.registers)


def choose_launch(
    tile: Tile,
    geometry: Geometry,
    channels: int,
    span: int,
    multiprocessors: int,
    budget: Budget,
) -> Launch:
    """As many programs as are resident at once, each with its chunk of tiles."""
    blocks = channels // span * -(-span // tile.block_c)
    tiles = max(1, -(-geometry.positions // tile.block_p))
    resident = min(
        budget.resident_threads // (32 * tile.num_warps),
        budget.resident_elements // (tile.block_c * tile.block_p),
    )
    resident = multiprocessors * max(1, resident)
    # At most this many positions are added up in one float32 sum.
    fewest = -(-geometry.positions // 2**18)
    chunks = min(tiles, max(1, resident // blocks, fewest), 65535)
    return Launch(tile, blocks, chunks, tiles)


def choose_dot(
    kernel: str, geometry: Geometry, span: int, components: int, *, itemsize: int
) -> Tile | None:
    """The tile of a kernel that uses `tl.dot`; None where multiply-adds serve better.

    Operands are converted from half precision, which one more component has to pay for.
    Every warp holds the coefficients of all channels as operands: more than 64 would spill. With
    fewer than 32 the 16 padded rows of ν cost more than the products.
    """
    fewest = budget_of(kernel).dot_components
    if not 0 < fewest <= components - (itemsize == 2) or not 32 <= span <= 64:
        return None
    block_c = next_power_of_two(span)
    vec = _power_of_two_divisor(span, 16 // itemsize) if geometry.channels_last else geometry.vec
    return Tile(block_c, 2048 // block_c, vec, 1, 1, 4, MAX_REGISTERS)


def choose_fused(
    kernel: str,
    geometry: Geometry,
    channels: int,
    span: int,
    components: int,
    nu: str,
    multiprocessors: int,
    *,
    itemsize: int,
    sums: int = 0,
) -> Launch | None:
    """One program for each group or, where channels do not meet, for a few of them; None where a
    program would go over more of the input than its budget allows."""
    budget = budget_of(kernel)
    limit = budget.program_elements
    if components > budget.program_components:
        return None
    # Few channels keep all multiprocessors busy; memory comes in sectors of 32 bytes.
    fewest = 32 // itemsize if geometry.channels_last else 1
    wanted = min(span / multiprocessors, limit / geometry.positions)
    block_c = max(fewest, _floor_power_of_two(wanted))
    tile = choose_tile(
        kernel, geometry, span, components, nu, itemsize=itemsize, sums=sums, block_c=block_c
    )
    if tile is None or min(tile.block_c, span) * geometry.positions > limit:
        return None
    blocks = channels // span * -(-span // tile.block_c)
    return Launch(tile, blocks, 1, max(1, -(-geometry.positions // tile.block_p)))


def constants(tile: Tile, *, sums: bool) -> dict[str, int]:
    """The kernel's compile-time arguments of ``tile``."""
    found = {"BLOCK_C": tile.block_c, "BLOCK_P": tile.block_p}
    if sums:
        found |= {"REPEATS": tile.repeats, "VECTOR": tile.vector}
    return found
