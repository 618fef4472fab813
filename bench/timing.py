"""How long a step takes: wall clock on a CPU, device events or graph replay on a GPU.

A *step* is one call of the thing measured. A *measurement* runs some steps and returns the seconds
one of them took. `interleave` takes measurements of several implementations in turn.
"""

import ctypes
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

Step = Callable[[], object]
Measurement = Callable[[], float]

SHORTEST = 2e-3
"""Seconds that one CPU measurement lasts at least, by repeating the step."""

MAX_ROUNDS = 60


class Timer(Protocol):
    """Times steps on one kind of device."""

    def prepare(self, steps: Sequence[Step]) -> Measurement:
        """Warm up, then return a measurement that cycles through ``steps``: one per input set."""


class WallClock:
    """CPU: the median is taken over calls of at least `SHORTEST` seconds."""

    def prepare(self, steps: Sequence[Step]) -> Measurement:
        for step in steps:
            start = time.perf_counter()
            step()
        once = max(time.perf_counter() - start, 1e-7)
        calls = len(steps) * math.ceil(SHORTEST / (once * len(steps)))

        def measure() -> float:
            start = time.perf_counter()
            for i in range(calls):
                steps[i % len(steps)]()
            return (time.perf_counter() - start) / calls

        return measure


class DeviceEvents:
    """GPU: events around one step per input set; the sets together exceed the L2 cache.

    A sleep is queued ahead, so that the host has launched everything before the first event:
    what is measured is the device, not Python.
    """

    def prepare(self, steps: Sequence[Step]) -> Measurement:
        for _ in range(2):
            for step in steps:
                step()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for step in steps:
            step()
        host = time.perf_counter() - start
        torch.cuda.synchronize()
        # _sleep counts device clock cycles: below 2 GHz this is at least 1.5 x the host's time.
        cycles = int(3e9 * host)

        def measure() -> float:
            torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
            return _events(steps) / len(steps)

        return measure


class GraphReplay:
    """GPU, latency cases: the step captured in a CUDA graph and replayed; no launch from Python."""

    REPLAYS = 20

    def prepare(self, steps: Sequence[Step]) -> Measurement:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                steps[0]()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            steps[0]()
        graph.replay()

        def measure() -> float:
            return _events([graph.replay] * self.REPLAYS) / self.REPLAYS

        return measure


def _events(steps: Sequence[Step]) -> float:
    """Seconds between two device events recorded around ``steps``."""
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()
    for step in steps:
        step()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


def timer_for(device: torch.device, latency: bool) -> Timer:
    if device.type == "cpu":
        return WallClock()
    return GraphReplay() if latency else DeviceEvents()


def input_sets(set_bytes: int, device: torch.device, latency: bool) -> int:
    """How many input sets to rotate among, so that none is in the L2 cache when it is read again.

    On a CPU one: the last-level cache is as warm as the implementations leave it for each other.
    """
    if device.type == "cpu" or latency:
        return 1
    properties = torch.cuda.get_device_properties(device)
    cold = math.ceil(3 * properties.L2_cache_size / set_bytes)
    room = int(0.2 * properties.total_memory / set_bytes)
    return max(1, min(cold, room, 64))


def interleave(
    measurements: Mapping[str, Measurement], seconds: float, min_rounds: int
) -> dict[str, dict[int, float]]:
    """Measure A B C, B C A, ... for about ``seconds``: name -> round -> seconds per step.

    Every implementation gets ``min_rounds`` measurements; after that one that has used up its
    share of the time sits out, so that a slow one does not crowd out the others.
    """
    names = list(measurements)
    times: dict[str, dict[int, float]] = {name: {} for name in names}
    spent = dict.fromkeys(names, 0.0)
    start = time.perf_counter()
    for i in range(MAX_ROUNDS):
        if i >= min_rounds and time.perf_counter() - start > seconds:
            break
        first = i % len(names)
        for name in names[first:] + names[:first]:
            if i >= min_rounds and spent[name] > seconds / len(names):
                continue
            before = time.perf_counter()
            times[name][i] = measurements[name]()
            spent[name] += time.perf_counter() - before
    return times


def keep_freed_memory() -> bool:
    """Make the C allocator reuse large blocks instead of returning them to the system.

    Otherwise a third of a CPU step is page faults on fresh outputs, for every implementation
    alike. GPU tensors come from a caching allocator anyhow. False where there is no glibc.
    """
    try:
        libc = ctypes.CDLL(None)
        mmap_max, trim_threshold, arena_max = -4, -1, -8
        return all(
            libc.mallopt(option, value) == 1
            for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (arena_max, 1))
        )
    except (OSError, AttributeError):
        return False


def return_freed_memory(device: torch.device) -> None:
    """Give what the allocators keep back to the system: between cases of other sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
