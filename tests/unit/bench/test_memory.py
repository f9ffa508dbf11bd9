"""The plan's memory is the measured one, and all logits at once cost what they weigh."""

import json
import sys
from dataclasses import replace

import pytest

from isoflop.bench.machine import describe
from isoflop.bench.memory import MEMORY_CASES, MemoryCase, chosen_cases, measure_case
from isoflop.bench.report import memory_to_json, show_memory
from isoflop.bench.shapes import Shape, cpu_model
from isoflop.config import UserError
from isoflop.model.ops.build import native_available

TINY = Shape(name="tiny", model=cpu_model(64, 2, 8), batch_sequences=32, device="cpu")
LINUX = pytest.mark.skipif(
    sys.platform != "linux" or not native_available(), reason="Linux's mark, the native engine"
)


@LINUX
def test_the_plan_is_near_what_is_measured_on_a_small_model():
    row = measure_case(MemoryCase(name="tiny", shape=TINY, precision="float32"), 1)
    # The allocator is not the workers' here, and small models have rough edges.
    assert row.planned_share == pytest.approx(1.1, abs=0.3)


@LINUX
def test_all_logits_at_once_cost_more_than_chunks(monkeypatch):
    monkeypatch.setattr("isoflop.model.loss.CHUNK_BYTES", 1 << 20)
    shape = replace(TINY, model=replace(TINY.model, vocabulary_size=4096))
    chunked = MemoryCase(name="chunked", shape=shape, precision="float32")
    whole = replace(chunked, name="whole", loss="whole")
    rows = [measure_case(case, 1) for case in (chunked, whole)]
    logits = shape.batch_tokens * 4096 * 4
    assert rows[1].measured - rows[0].measured > 1.5 * logits
    assert rows[1].planned is None
    assert rows[1].planned_share is None


def test_a_case_without_room_is_not_begun(monkeypatch, capsys):
    monkeypatch.setattr("isoflop.bench.memory.free_memory", lambda device: 1000)
    row = measure_case(MemoryCase(name="tiny", shape=TINY, precision="float32"), 1)
    assert row.measured is None
    assert "0.0 GB are free" in row.reason
    machine = describe("cpu", 1, ())
    (data,) = json.loads(memory_to_json(machine, [row]))["cases"]
    assert data["measured"] is None
    assert data["planned"] == row.planned
    from rich.console import Console

    show_memory(machine, [row], Console(width=200))
    assert "are free" in capsys.readouterr().out


def test_the_cases_hold_the_papers_vocabulary_and_five_that_are_planned():
    planned = [case for case in MEMORY_CASES if case.loss == "chunked"]
    assert len({(case.shape.name, case.precision, case.recompute) for case in planned}) >= 5
    paper = [case for case in MEMORY_CASES if case.shape.model.vocabulary_size == 99_584]
    assert {case.loss for case in paper} == {"chunked", "whole"}
    assert all(case.shape.batch_tokens == 4096 for case in paper)
    assert len(chosen_cases(["d64-L4-E64-k2"])) == 1
    with pytest.raises(UserError, match="no shape 'x'; there are d64-L4-E64-k2"):
        chosen_cases(["x"])
