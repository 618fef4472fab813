"""Time limits interrupt, nest and leave no alarm behind."""

import signal
import threading
import time

import pytest

from bench.budget import Budget, OutOfTime, time_limit


def test_limit_interrupts():
    start = time.monotonic()
    with pytest.raises(OutOfTime), time_limit(0.05):
        time.sleep(5)
    assert time.monotonic() - start < 2


def test_code_that_swallows_exceptions_is_interrupted_too():
    def swallows() -> None:
        try:
            time.sleep(5)
        except Exception:
            pytest.fail("the limit was swallowed")

    with pytest.raises(OutOfTime), time_limit(0.05):
        swallows()


def test_inner_limit_leaves_the_outer_one_armed():
    reached = []

    def nested() -> None:
        with pytest.raises(OutOfTime), time_limit(0.02):
            time.sleep(5)
        reached.append("after the inner limit")
        time.sleep(5)
        reached.append("after the outer limit")

    with pytest.raises(OutOfTime), time_limit(0.2):
        nested()
    assert reached == ["after the inner limit"]


def test_outer_limit_reaches_into_a_longer_inner_one():
    start = time.monotonic()
    with pytest.raises(OutOfTime), time_limit(0.05), time_limit(5):
        time.sleep(4)
    assert time.monotonic() - start < 2


def test_nothing_is_left_behind():
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(0.05):
        pass
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    time.sleep(0.1)


def test_outside_the_main_thread_the_block_runs_unlimited():
    done = []

    def work() -> None:
        with time_limit(0.01):
            time.sleep(0.05)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_budget_counts_from_its_start():
    assert Budget(10, time.monotonic() - 4).left == pytest.approx(6, abs=0.5)
