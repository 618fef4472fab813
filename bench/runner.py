"""Runs a plan within a budget: check, measure, come back, until the time is used."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch

from bench import memory, metrics, timing
from bench.budget import Budget, OutOfTime, time_limit
from bench.cases import Case, shows_heavy
from bench.check import check, expected
from bench.inputs import Inputs, make_sets
from bench.layers import Implementation, Layer, Outcome, run_step
from bench.record import Row, row_for
from mixnorm_cuda import BackendUnavailableError

VISITS = 3
"""Times a case is measured, with the whole plan in between, so that the spread holds the drift of
the machine and of memory placement, and not only the noise within a second."""

FIRST_SHARE = 0.6
"""Of the budget, for first visits: cases come back before the last of a long plan are begun, since
a spread taken within one second understates what the next run will differ by."""

COMPILE_SHARE = 0.4
"""Of the budget, at most, for torch.compile."""

MIN_ROUNDS = 3
"""Of the first visit, however slow an implementation is; later ones take one at least."""

ROUND_STRIDE = 1000
"""Rounds of visit v are numbered from v · ROUND_STRIDE on."""


@dataclass
class Entry:
    """An implementation on a case: its layer, its row, its seconds per step by round."""

    implementation: Implementation
    layer: Layer | None
    row: Row
    times: dict[int, float] = field(default_factory=dict)


class Runner:
    """Measures ``plan`` on ``device``; `rows` and `left_out` say what came of it."""

    def __init__(
        self,
        plan: Sequence[Case],
        implementations: Sequence[Implementation],
        device: torch.device,
        budget: Budget,
        *,
        quick: bool = False,
        seconds_per_visit: float = 1.0,
        heavy_everywhere: bool = False,
    ) -> None:
        self.plan = list(plan)
        self.implementations = list(implementations)
        self.device = device
        self.budget = budget
        self.quick = quick
        self.seconds_per_visit = seconds_per_visit
        self.heavy_everywhere = heavy_everywhere
        self.left_out: list[dict[str, str]] = []
        self._entries: dict[Case, list[Entry]] = {case: [] for case in self.plan}
        self._compile_left = COMPILE_SHARE * budget.seconds
        self._shortest_compile = 0.0

    def run(self, progress: Callable[[Case], None] = lambda case: None) -> None:
        """Visit every case up to `VISITS` times; ``progress`` hears of each before it starts."""
        try:
            with time_limit(self.budget.left):
                for case, visit in self._visits():
                    progress(case)
                    self._visit(case, visit)
                    gc.collect()
                    timing.return_freed_memory(self.device)
        except OutOfTime:
            pass
        spent = f"the budget of {self.budget.seconds:.0f} s was spent"
        for case, entries in self._entries.items():
            if not entries and not self._mentioned(case):
                self._leave_out(case, "*", spent)
            for entry in entries:
                if entry.layer is not None and not entry.times:
                    self._leave_out(case, entry.row.implementation, spent)

    def _visits(self) -> Iterator[tuple[Case, int]]:
        """Once through the plan while the first share of the time lasts, then again, then on."""
        pending = iter(self.plan)
        seen = []
        while self.budget.left > (1 - FIRST_SHARE) * self.budget.seconds:
            case = next(pending, None)
            if case is None:
                break
            seen.append(case)
            yield case, 0
        for visit in range(1, VISITS):
            for case in seen:
                yield case, visit
        for case in pending:
            yield case, 0

    def rows(self) -> list[Row]:
        """Rows with times, and those of ours that are wrong, in the plan's order."""
        rows = []
        for case, entries in self._entries.items():
            times = {e.row.implementation: e.times for e in entries if e.times}
            for entry in entries:
                if entry.times:
                    metrics.fill(entry.row, case, times)
                if entry.times or entry.layer is None:
                    rows.append(entry.row)
        return rows

    def _visit(self, case: Case, visit: int) -> None:
        latency = case.shape.kind == "latency"
        set_bytes = (2 if case.phase == "train" else 1) * case.bytes
        try:
            count = timing.input_sets(set_bytes, self.device, latency)
            sets = make_sets(case, self.device, count)
        except RuntimeError as error:
            self._leave_out(case, "*", one_line(error))
            return
        if visit == 0:
            self._admit_all(case, sets[0])
        timer = timing.timer_for(self.device, latency)
        measurements = {}
        for entry in self._entries[case]:
            if entry.layer is None:
                continue
            steps = [
                partial(run_step, case, entry.layer, trainable_input(case, s.x), s.dy) for s in sets
            ]
            try:
                measurements[entry.row.implementation] = timer.prepare(steps)
            except RuntimeError as error:
                self._leave_out(case, entry.row.implementation, one_line(error))
        if not measurements:
            return
        gc.disable()
        try:
            times = timing.interleave(
                measurements, self.seconds_per_visit, MIN_ROUNDS if visit == 0 else 1
            )
        finally:
            gc.enable()
        for entry in self._entries[case]:
            measured = times.get(entry.row.implementation, {})
            entry.times |= {visit * ROUND_STRIDE + i: t for i, t in measured.items()}

    def _admit_all(self, case: Case, inputs: Inputs) -> None:
        """Find out which implementations serve the case, and hold ours to the reference."""
        truth: Outcome | None = None
        for implementation in self.implementations:
            if not implementation.serves(case.phase):
                continue
            reason = self._why_not(implementation, case, inputs)
            if reason is not None:
                self._leave_out(case, implementation.name, reason)
                continue
            if implementation.ours and truth is None:
                try:
                    truth = expected(case, inputs)
                except RuntimeError as error:
                    self._leave_out(case, "*", f"no float64 reference: {one_line(error)}")
                    return
            entry = self._admit(implementation, case, inputs, truth)
            if entry is not None:
                self._entries[case].append(entry)

    def _admit(
        self, implementation: Implementation, case: Case, inputs: Inputs, truth: Outcome | None
    ) -> Entry | None:
        row = row_for(case, implementation.name, implementation.ours)
        entry = Entry(implementation, None, row)
        x = trainable_input(case, inputs.x)
        try:
            with self._rationed(implementation):
                layer = implementation.layer(case, inputs)
                if implementation.ours and truth is not None:
                    result = check(case, layer, inputs, truth)
                    row.errors, row.check = result.errors, "ok" if result.passed else "red"
                    if not result.passed:
                        row.note = f"out of bounds: {', '.join(result.red)}"
                        return entry
                else:
                    run_step(case, layer, x, inputs.dy)
            if layer.parameters:
                row.saved_bytes = memory.saved_bytes(case, layer, x)
                row.peak_bytes = memory.peak_bytes(case, layer, x, inputs.dy)
        except OutOfTime:
            if self.budget.left <= 0:
                raise
            self._leave_out(case, implementation.name, "torch.compile's share of the time is spent")
            return None
        except (torch.OutOfMemoryError, BackendUnavailableError) as error:
            self._leave_out(case, implementation.name, one_line(error))
            return None
        except Exception as error:
            # One broken implementation must not hide the others' figures; ours fails the run.
            if not implementation.ours:
                self._leave_out(case, implementation.name, one_line(error))
                return None
            row.check, row.note = "red", one_line(error)
            return entry
        entry.layer = layer
        return entry

    def _why_not(self, implementation: Implementation, case: Case, inputs: Inputs) -> str | None:
        reason = implementation.why_not(case, inputs.x)
        if reason is not None:
            return reason
        everywhere = self.heavy_everywhere and implementation.ours
        if implementation.heavy and not (everywhere or shows_heavy(case, self.quick)):
            hint = " (--backend reference: on all)" if implementation.ours else ""
            return f"slow, so measured on chosen cases only{hint}"
        if implementation.compiled and implementation.heavy and self.quick:
            return "compiled for minutes, so in full runs only"
        if implementation.compiled and self._compile_left < max(self._shortest_compile, 1e-3):
            return "torch.compile's share of the time is spent"
        return None

    @contextmanager
    def _rationed(self, implementation: Implementation) -> Iterator[None]:
        """Charge the block to the time allowed for compiling, if the implementation compiles."""
        if not implementation.compiled:
            yield
            return
        start = time.monotonic()
        try:
            with time_limit(self._compile_left):
                yield
        finally:
            took = time.monotonic() - start
            self._compile_left -= took
            self._shortest_compile = min(self._shortest_compile or took, took)

    def _leave_out(self, case: Case, implementation: str, reason: str) -> None:
        self.left_out.append({"case": case.id, "implementation": implementation, "reason": reason})

    def _mentioned(self, case: Case) -> bool:
        return any(item["case"] == case.id for item in self.left_out)


def trainable_input(case: Case, x: torch.Tensor) -> torch.Tensor:
    return x.detach().requires_grad_(case.phase in ("train", "forward"))


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
