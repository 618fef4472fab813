"""Timers, interleaving, statistics; the GPU timers against a stand-in for torch.cuda."""

import time
from types import SimpleNamespace

import pytest
import torch

from bench import timing
from bench.stats import paired_ratios, quantile, summarize

CUDA = torch.device("cuda")


def test_summary_is_median_and_middle_80_percent():
    summary = summarize([float(v) for v in range(11)])
    assert summary == (5.0, 1.0, 9.0, 11)
    assert summary.spread == pytest.approx(0.8)
    assert quantile([3.0], 0.9) == 3.0
    with pytest.raises(ValueError, match="values is empty"):
        summarize([])


def test_ratios_are_paired_by_round():
    assert paired_ratios({0: 2.0, 1: 9.0, 5: 1.0}, {0: 1.0, 1: 3.0, 2: 7.0}) == [2.0, 3.0]


def test_interleave_takes_turns_and_each_goes_first_in_turn():
    order: list[str] = []

    def measurement(name):
        def measure() -> float:
            order.append(name)
            return 1.0

        return measure

    names = ("a", "b", "c")
    times = timing.interleave({n: measurement(n) for n in names}, seconds=0.0, min_rounds=3)
    assert "".join(order) == "abcbcacab"
    assert times == {n: {0: 1.0, 1: 1.0, 2: 1.0} for n in names}


def test_interleave_lets_a_slow_one_sit_out():
    def slow() -> float:
        time.sleep(0.02)
        return 0.02

    def fast() -> float:
        time.sleep(0.0005)
        return 0.0005

    times = timing.interleave({"slow": slow, "fast": fast}, seconds=0.06, min_rounds=2)
    assert 2 <= len(times["slow"]) <= 4
    assert len(times["fast"]) > 2 * len(times["slow"])


def test_wall_clock_repeats_short_steps_and_not_long_ones():
    calls: list[int] = []
    measure = timing.WallClock().prepare([lambda: calls.append(0), lambda: calls.append(1)])
    calls.clear()
    assert 0 < measure() < 1e-4
    assert len(calls) > 100
    assert calls.count(0) == calls.count(1)

    def long() -> None:
        calls.append(0)
        time.sleep(2 * timing.SHORTEST)

    measure = timing.WallClock().prepare([long])
    calls.clear()
    assert measure() >= 2 * timing.SHORTEST
    assert len(calls) == 1


class FakeCuda:
    """Records what a timer asks of torch.cuda; a step takes 2 ms on its device clock."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.clock = 0.0
        fake = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                fake.log.append("event")
                self.at = fake.clock

            def elapsed_time(self, end: "Event") -> float:
                return end.at - self.at

        class Graph:
            def replay(self) -> None:
                fake.log.append("replay")
                fake.clock += 2.0

        class Context:
            def __init__(self, name: str) -> None:
                self.name = name

            def __enter__(self) -> None:
                fake.log.append(self.name)

            def __exit__(self, *error: object) -> None:
                fake.log.append(f"end {self.name}")

        stream = SimpleNamespace(wait_stream=lambda other: None)
        self.Event, self.CUDAGraph = Event, Graph
        self.graph = lambda graph: Context("capture")
        self.stream = lambda stream: Context("side stream")
        self.Stream = self.current_stream = lambda: stream

    def step(self) -> None:
        self.log.append("step")
        self.clock += 2.0

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def _sleep(self, cycles: int) -> None:
        assert cycles > 0
        self.log.append("sleep")


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(torch, "cuda", fake)
    return fake


def test_device_events_queue_a_sleep_and_time_every_input_set(cuda):
    timer = timing.timer_for(CUDA, latency=False)
    measure = timer.prepare([cuda.step] * 3)
    cuda.log.clear()
    assert measure() == pytest.approx(2e-3)
    assert cuda.log == ["sleep", "event", "step", "step", "step", "event", "synchronize"]


def test_latency_cases_are_captured_once_and_replayed(cuda):
    timer = timing.timer_for(CUDA, latency=True)
    measure = timer.prepare([cuda.step])
    captured = cuda.log[cuda.log.index("capture") : cuda.log.index("end capture")]
    assert captured == ["capture", "step"]
    # The warm-up before a capture belongs on a side stream.
    assert cuda.log.index("side stream") < cuda.log.index("step")
    cuda.log.clear()
    assert measure() == pytest.approx(2e-3)
    assert cuda.log.count("replay") == timing.GraphReplay.REPLAYS
    assert "step" not in cuda.log


@pytest.mark.parametrize(
    ("set_bytes", "expected"),
    [(10 * 2**20, 18), (60 * 2**20, 3), (2**30, 1), (2**40, 1), (1, 64)],
)
def test_input_sets_exceed_the_l2_cache_three_times(monkeypatch, set_bytes, expected):
    properties = SimpleNamespace(L2_cache_size=60 * 2**20, total_memory=140 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert timing.input_sets(set_bytes, CUDA, latency=False) == expected
    assert timing.input_sets(set_bytes, CUDA, latency=True) == 1
    assert timing.input_sets(set_bytes, torch.device("cpu"), latency=False) == 1
