"""Benchmarks: run with ``make benchmark``. Every ratio is of two medians of one run, printed under pytest's table."""

import pytest

_RATIOS: list[str] = []


@pytest.fixture
def report():
    """Takes a line that belongs under the table of timings."""
    return _RATIOS.append


def pytest_terminal_summary(terminalreporter):
    if _RATIOS:
        terminalreporter.section("ratios")
        for line in _RATIOS:
            terminalreporter.write_line(line)
