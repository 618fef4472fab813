"""Options of ``pytest bench/``: the pytest-benchmark drivers over the same cases."""

import pytest

from bench import timing


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench", "cases of the benchmark against BatchNorm")
    group.addoption("--cases", help="shapes by name or pattern (default: those of --quick)")
    group.addoption("--filter", help="pattern on 'shape setting'")
    group.addoption("--device", dest="bench_device", help="cpu or cuda (default: cuda if any)")


def pytest_configure(config: pytest.Config) -> None:
    timing.keep_freed_memory()
