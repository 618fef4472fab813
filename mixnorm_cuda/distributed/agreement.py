"""That all processes of a group run the same layer, checked before they exchange anything else.

A collective between processes that disagree hangs, or mixes up numbers. So a layer's first step
starts with one of a fixed size, in which each says what it is about to do; any difference raises in
all of them. Two processes that wait for each other in different groups would wait for ever: they
find out through the store.
"""

import json
import textwrap
import time
from typing import Any

import torch
from torch import Tensor, distributed

from mixnorm_cuda.distributed.processes import group_name

if distributed.is_available():
    from torch.distributed.distributed_c10d import _get_default_store

DESCRIPTION_BYTES = 4096
PROBLEM_CHARACTERS = 500
PATIENCE = 3.0
"""Seconds for which two processes must be seen waiting in different groups before both give up."""
POLL = 0.5


def agree(
    description: dict[str, Any],
    problem: str | None,
    group: "distributed.ProcessGroup | None",
) -> None:
    """Raise in every process of ``group`` unless all give the same ``description`` and no problem.

    Args:
        description: what must be equal, by name; values are compared as text.
        problem: what this process would raise about its own arguments.
        group: None is the default group.

    Raises:
        ValueError: an entry differs: its name, both values and their ranks. Also a ``problem`` of
            another process, with its rank, and a wait in different groups, with their ranks.
    """
    ranks = distributed.get_process_group_ranks(group)
    mine = {name: str(value) for name, value in description.items()}
    mine["problem"] = textwrap.shorten(problem or "", PROBLEM_CHARACTERS, placeholder=" ...")
    own = _encoded(mine).to(_device(group))
    everyone = [torch.empty_like(own) for _ in ranks]
    work = distributed.all_gather(everyone, own, group=group, async_op=True)
    _wait(work, ranks, group_name(group))
    descriptions = [_decoded(part) for part in everyone]
    for rank, theirs in zip(ranks, descriptions, strict=True):
        if theirs["problem"]:
            raise ValueError(f"on rank {rank}: {theirs['problem']}")
    first = descriptions[0]
    for rank, theirs in zip(ranks, descriptions, strict=True):
        for name, value in theirs.items():
            _check_equal(name, {ranks[0]: first[name], rank: value})


def _device(group: "distributed.ProcessGroup | None") -> str:
    """Where the group can send from; the layer's input may be elsewhere in one process."""
    backends = distributed.get_backend_config(group).split(",")
    devices = [entry.split(":")[0] for entry in backends]
    return "cpu" if "cpu" in devices else devices[0]


def _check_equal(name: str, values: dict[int, str]) -> None:
    if len(set(values.values())) > 1:
        found = ", ".join(f"{value} on rank {rank}" for rank, value in values.items())
        raise ValueError(f"{name} differs between processes: {found}: expected one value on all")


def _encoded(description: dict[str, str]) -> Tensor:
    text = json.dumps(description, ensure_ascii=False).encode()
    return torch.frombuffer(bytearray(text.ljust(DESCRIPTION_BYTES)), dtype=torch.uint8)


def _decoded(part: Tensor) -> dict[str, str]:
    description: dict[str, str] = json.loads(bytes(part.tolist()))
    return description


class _Waiting:
    """Which group each process now waits in, noted in the store through which they all met."""

    def __init__(self) -> None:
        self.store = _get_default_store()
        self.me = distributed.get_rank()

    def note(self, **entry: Any) -> None:
        self.store.set(self._key(self.me), json.dumps(entry))

    def of(self, rank: int) -> dict[str, Any]:
        key = self._key(rank)
        return json.loads(self.store.get(key)) if self.store.check([key]) else {}

    def _key(self, rank: int) -> str:
        return f"mixnorm/waiting/{rank}"


def _wait(work: Any, ranks: list[int], group_name: str) -> None:
    waiting = _Waiting()
    waiting.note(group=group_name, ranks=ranks)
    try:
        _wait_or_raise(work, ranks, group_name, waiting)
    except ValueError as error:
        waiting.note(error=str(error))
        raise
    waiting.note()


def _wait_or_raise(work: Any, ranks: list[int], group_name: str, waiting: _Waiting) -> None:
    since: dict[int, float] = {}
    look = time.monotonic() + POLL
    while not work.is_completed():
        time.sleep(1e-3)
        now = time.monotonic()
        if now < look:
            continue
        look = now + POLL
        for rank in ranks:
            theirs = waiting.of(rank)
            if "error" in theirs:
                raise ValueError(theirs["error"])
            # Elsewhere, but not for this process: they may yet come.
            if theirs.get("group", group_name) == group_name or waiting.me not in theirs["ranks"]:
                since.pop(rank, None)
            elif now - since.setdefault(rank, now) > PATIENCE:
                groups = {
                    waiting.me: f"{group_name!r} of ranks {ranks}",
                    rank: f"{theirs['group']!r} of ranks {theirs['ranks']}",
                }
                _check_equal("process_group", dict(sorted(groups.items())))
    work.wait()
