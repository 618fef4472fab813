"""Real processes with a Gloo group, which stay for many jobs."""

import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 180.0
"""Seconds, of the group and of a job."""


class Failure(NamedTuple):
    """A job that raised, or (kind "died") a process that ended."""

    kind: str
    message: str


class Team:
    """``size`` processes, ranks of one default group; `run` gives each the same job."""

    def __init__(self, size: int, folder: Path, timeout: float = TIMEOUT) -> None:
        # A fork server has imported torch already, and unlike this process no threads to fork.
        if str(ROOT) not in sys.path:
            sys.path.insert(0, str(ROOT))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.distributed.team", "mixnorm_cuda"])
        self.size = size
        self._pipes, self._processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, rank, size, str(folder / "store"), timeout)
            )
            process.daemon = True
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, job: Callable[..., Any], *args: Any) -> list[Any]:
        """What ``job(rank, *args)`` returns in every process; fails if one of them raises."""
        results = self.attempt(job, *args)
        failures = [f"rank {r}: {x.message}" for r, x in enumerate(results) if _failed(x)]
        assert not failures, "\n".join(failures)
        return results

    def attempt(self, job: Callable[..., Any], *args: Any) -> list[Any]:
        """As `run`, with a `Failure` in the place of what raised or died."""
        for pipe in self._pipes:
            # Plain pickles: torch's own would share memory with the processes.
            pipe.send_bytes(pickle.dumps((job, args)))
        results: dict[int, Any] = {}
        deadline = time.monotonic() + TIMEOUT
        while len(results) < self.size:
            pending = [self._pipes[r] for r in range(self.size) if r not in results]
            ready = wait(pending, timeout=max(deadline - time.monotonic(), 0))
            assert ready, f"no answer in {TIMEOUT} s from {self.size - len(results)} processes"
            for pipe in ready:
                rank = self._pipes.index(pipe)
                try:
                    results[rank] = pickle.loads(pipe.recv_bytes())
                except EOFError:
                    results[rank] = Failure("died", "the process ended")
        return [results[rank] for rank in range(self.size)]

    def stop(self) -> None:
        for process in self._processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
            process.join()


def _failed(result: Any) -> bool:
    return isinstance(result, Failure)


def _serve(pipe: Any, rank: int, size: int, store: str, timeout: float) -> None:
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size,
        timeout=timedelta(seconds=timeout),
    )  # fmt: skip
    while True:
        try:
            job, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            os._exit(0)
        torch.manual_seed(rank)
        try:
            result = pickle.dumps(job(rank, *args))
        except Exception as error:
            text = f"{error}\n{traceback.format_exc()}"
            result = pickle.dumps(Failure(type(error).__name__, text))
        pipe.send_bytes(result)
