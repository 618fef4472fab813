"""MIXNORM_AUTOTUNE: what is timed, kept and read; with a stand-in for the timer."""

import dataclasses
import json

import pytest
import torch

from mixnorm_cuda.kernels.triton import autotune, config, launch, ops
from mixnorm_cuda.kernels.triton.config import BUDGETS, Budget
from tests.kernels.triton.cases import Case

PRODUCTS = autotune.CANDIDATES["dot_components"]


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """Each timing's budget of the evaluation; 192 threads resident are said to be fastest."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(autotune.VARIABLE, "1")
    fewer = {"resident_threads": (192, 768), "threads": (64, 256)}
    monkeypatch.setattr(autotune, "CANDIDATES", fewer)
    autotune._load.cache_clear()
    seen: list[Budget] = []

    def milliseconds(call):
        call()
        budget = config.budget_of("evaluate")
        seen.append(budget)
        return abs(budget.resident_threads - 192) + abs(budget.threads - 64) / 1000

    monkeypatch.setattr(autotune, "milliseconds", milliseconds)
    yield seen
    autotune._load.cache_clear()


def evaluate(case: Case) -> torch.Tensor:
    return ops.evaluate(case.x, case.mixture, *case.affine, eps=1e-5, mixing_scale=True)


def test_the_fastest_is_found_and_kept(timed, device):
    case = Case((3, 6, 5, 5), device=device)
    first = evaluate(case)
    assert len(timed) == 5
    kept = json.loads(autotune.cache_file().read_text())
    (budgets,) = kept.values()
    best = dataclasses.replace(BUDGETS["evaluate"], resident_threads=192, threads=64)
    assert budgets == {"evaluate": dataclasses.asdict(best)}
    torch.testing.assert_close(evaluate(case), first)
    assert len(timed) == 5
    autotune._load.cache_clear()  # as another process
    evaluate(case)
    assert len(timed) == 5
    evaluate(Case((3, 6, 5, 4), device=device))
    assert len(timed) == 10


def test_the_tuned_budgets_are_used(timed, device, monkeypatch):
    case = Case((3, 6, 5, 5), device=device)
    evaluate(case)
    used = []
    choose = config.choose_launch
    monkeypatch.setattr(config, "choose_launch", lambda *a: used.append(a[-1]) or choose(*a))
    evaluate(case)
    assert {budget.resident_threads for budget in used} == {192}


def test_whether_moments_use_matrix_units_is_measured(timed, device, monkeypatch):
    """Whatever the table takes for five components."""
    case = Case((2, 32, 3, 3), 5, device=device)
    started = []
    run = launch.run
    monkeypatch.setattr(
        launch, "run", lambda *a, **o: started.append(a[0].__name__) or run(*a, **o)
    )
    monkeypatch.setattr(autotune, "CANDIDATES", {"dot_components": PRODUCTS})
    for fastest in PRODUCTS:

        def milliseconds(call, fastest=fastest):
            return abs(config.budget_of("moments").dot_components - fastest)

        monkeypatch.setenv("XDG_CACHE_HOME", f"{autotune.cache_file().parent}/{fastest}")
        monkeypatch.setattr(autotune, "milliseconds", milliseconds)
        ops.moments(case.x, case.mixture, eps=1e-5)
        assert ("_dot_moments_kernel" in started) == (fastest == 1)
        assert ("_moments_kernel" in started) == (fastest == 0)
        started.clear()


def test_a_broken_cache_is_tuned_over(timed, device):
    autotune.cache_file().parent.mkdir(parents=True)
    autotune.cache_file().write_text('{"evaluate": {"evaluate": {"no_such_number": 1}}}')
    evaluate(Case((3, 6, 5, 5), device=device))
    assert len(timed) == 5


def test_without_the_variable_nothing_is_timed_or_read(timed, device, monkeypatch):
    monkeypatch.delenv(autotune.VARIABLE)
    evaluate(Case((3, 6, 5, 5), device=device))
    assert timed == []
    assert not autotune.cache_file().exists()
    assert config.budget_of("evaluate") == BUDGETS["evaluate"]
