"""A small run of benchmarks/corpus_fuzz.py: no crash, nothing lost."""

import importlib.util
import random
from pathlib import Path

import pytest

from isoflop.corpus.filters.config import FilterConfig, Limits, LintConfig

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "corpus_fuzz.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("corpus_fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_changed_files_give_rows_or_one_line(fuzz):
    assert fuzz.fuzz_readers(300, random.Random(1)) == 0


def test_changed_programs_come_back_measured_or_with_a_reason(fuzz):
    config = FilterConfig(
        lint=LintConfig(measure="none", threshold=None), limits=Limits(cpu_seconds=10.0)
    )
    assert fuzz.fuzz_filters(200, random.Random(2), config) == 0


def test_changed_replies_are_parsed_or_have_their_reason(fuzz):
    assert fuzz.fuzz_replies(400, random.Random(3)) == 0
