"""What every kernel shares: where a tile of channels × positions lies, rows of tables, sums.

A tile is ``[BLOCK_C, BLOCK_P]``. Positions are numbered i = n L + l over the whole batch, so tiles
cross sample boundaries and short samples (7 × 7) fill them as well as long ones.
"""

import triton
import triton.language as tl


@triton.jit
def channel_block(block, SPAN: tl.constexpr, BLOCK_C: tl.constexpr):
    """(group, channels [BLOCK_C], which of them exist) of a block in groups of SPAN channels."""
    PER_GROUP: tl.constexpr = (SPAN + BLOCK_C - 1) // BLOCK_C
    group = block // PER_GROUP
    inner = (block % PER_GROUP) * BLOCK_C + tl.arange(0, BLOCK_C)
    return group, group * SPAN + inner, inner < SPAN


@triton.jit
def channel_offsets(c, row_runs, VEC: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Element offsets of channels ``c``."""
    if CHANNELS_LAST:
        # No wider loads than the tile was planned with: a thread would hold more channels.
        offsets = tl.max_contiguous(tl.multiple_of(c.to(tl.int64), VEC), VEC)
    else:
        offsets = c.to(tl.int64) * (tl.full([], VEC, tl.int64) * row_runs)
        # Rows of L elements: aligned to what divides L, or vector loads would be given up.
        offsets = tl.multiple_of(offsets, VEC)
    return offsets


@triton.jit
def chunk_tiles(chunk, base, extra):
    """First tile and number of tiles of a chunk; the first ``extra`` chunks have one more."""
    first = chunk * base + tl.minimum(chunk, extra)
    return first, base + (chunk < extra).to(tl.int32)


@triton.jit
def position_count(runs, VEC: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """M, in runs of VEC where tensors are rows: the compiler then knows that VEC divides it."""
    if CHANNELS_LAST:
        count = tl.full([], 1, tl.int64) * runs
    else:
        count = tl.full([], VEC, tl.int64) * runs
    return count


@triton.jit
def tile_positions(
    tile,
    runs,
    row_runs,
    C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    VEC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ONE_ROW: tl.constexpr,
):
    """(i, element offsets, which exist), each [BLOCK_P]. ``row_runs`` counts L as `runs` M."""
    start = tl.full([], BLOCK_P, tl.int64) * tile
    i = start + tl.arange(0, BLOCK_P)
    valid = i < position_count(runs, VEC, CHANNELS_LAST)
    if CHANNELS_LAST:
        offsets = i * C
    elif ONE_ROW:
        offsets = i
    else:
        L = VEC * row_runs
        n = start // L
        # 64-bit division once a tile, 32-bit division once a position.
        local = (start - n * L).to(tl.int32) + tl.arange(0, BLOCK_P)
        sample = local // L
        offsets = (n + sample) * (tl.full([], C, tl.int64) * L) + (local - sample * L)
        offsets = tl.max_contiguous(tl.multiple_of(offsets, VEC), VEC)
    return i, offsets, valid


@triton.jit
def row(ptr, index, c, valid, C: tl.constexpr):
    """Row ``index`` of a [*, C] table as [BLOCK_C, 1], 0 where no channel is."""
    return tl.load(ptr + index * C + c, mask=valid, other=0.0)[:, None]


@triton.jit
def rows(ptr, c, valid, C: tl.constexpr, FIRST: tl.constexpr, STEP: tl.constexpr, K: tl.constexpr):
    """K rows from FIRST on, STEP apart, as a tuple."""
    found = ()
    for k in tl.static_range(K):
        found = found + (row(ptr, FIRST + k * STEP, c, valid, C),)
    return found


@triton.jit
def relative(values, K: tl.constexpr):
    """The values from 1 on less the first."""
    found = ()
    for k in tl.static_range(1, K):
        found = found + (values[k] - values[0],)
    return found


@triton.jit
def zeros(SIZE_C: tl.constexpr, SIZE_P: tl.constexpr, T: tl.constexpr, K: tl.constexpr):
    """K accumulators."""
    found = ()
    for _k in tl.static_range(K):
        found = found + (tl.zeros([SIZE_C, SIZE_P], T),)
    return found


@triton.jit
def thread_sum(t, REPEATS: tl.constexpr, VECTOR: tl.constexpr):
    """[A, P] -> [A, P / (REPEATS VECTOR)]: the sum over the positions that one thread holds.

    A layout gives a thread VECTOR neighbours in each of REPEATS stripes (`config.Tile`). Adding
    only these in every tile, and across threads once a program, keeps shuffles out of the loop.
    """
    THREADS: tl.constexpr = t.shape[1] // (REPEATS * VECTOR)
    stripes = tl.reshape(t, [t.shape[0], REPEATS, THREADS, VECTOR])
    return tl.sum(tl.sum(stripes, axis=3), axis=1)
