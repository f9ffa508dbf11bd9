"""Shapes and types written in signatures are checked in every test; production pays nothing."""

import os

# Threads that wait for each other on a busy machine make small tests a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("isoflop", "beartype.beartype")

# The same examples in every run, however slow the machine: a failure can be repeated.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--record-golden`` writes the golden files anew; review their diff like code."""
    parser.addoption("--record-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def record_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are written instead of compared."""
    return bool(request.config.getoption("--record-golden"))
