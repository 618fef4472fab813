"""Wall-clock limits that hold on a slow or busy machine, too."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(BaseException):
    """A time limit passed. No Exception, so that code under measurement does not swallow it."""


class Budget:
    """Seconds that may pass from ``started`` (a `time.monotonic` reading) on."""

    def __init__(self, seconds: float, started: float) -> None:
        self.seconds = seconds
        self._end = started + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()


_deadlines: list[float] = []


def _arm() -> None:
    """Set the process's alarm to the nearest deadline, or turn it off."""
    left = max(min(_deadlines) - time.monotonic(), 1e-3) if _deadlines else 0.0
    signal.setitimer(signal.ITIMER_REAL, left)


def _expired(signum: int, frame: FrameType | None) -> None:
    raise OutOfTime


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` inside the block once ``seconds`` have passed. May be nested.

    An alarm signal interrupts Python code; a single long operator is interrupted when it returns.
    Outside the main thread, where signals do not arrive, the block runs without a limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deadline = time.monotonic() + seconds
    outermost = not _deadlines
    previous = signal.signal(signal.SIGALRM, _expired) if outermost else None
    _deadlines.append(deadline)
    _arm()
    try:
        yield
    finally:
        _deadlines.remove(deadline)
        _arm()
        if outermost:
            signal.signal(signal.SIGALRM, previous)
