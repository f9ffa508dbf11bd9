"""A plan's figures agree with each other and survive both ways of showing them."""

import json
import subprocess
import sys
from dataclasses import asdict, fields, replace

import pytest

from isoflop.config import UserError
from isoflop.design.estimate import ONE_CPU_CORE, estimate_memory
from isoflop.design.family import Cell, vary_experts
from isoflop.design.plan import (
    PlanRow,
    format_count,
    format_quantity,
    format_seconds,
    plan,
    plan_to_json,
    plan_to_table,
    total_seconds,
)
from isoflop.experiments.paper import TRAIN_TOKENS, paper_cells
from isoflop.model.config import ModelConfig

BASE = ModelConfig(
    vocabulary_size=512,
    num_layers=2,
    d_model=32,
    num_heads=2,
    d_expert=64,
    num_experts=16,
    top_k=2,
    sequence_length=128,
)
CELLS = vary_experts(BASE, [2, 4, 16])


def rows_of(**changes) -> list[PlanRow]:
    values = {"train_tokens": 10_500, "batch_tokens": 1024, "sequence_length": 128}
    return plan(**{"cells": CELLS, **values, **changes})


def test_figures_of_a_row_agree_with_each_other():
    for row, cell in zip(rows_of(seeds=(0, 1, 2)), CELLS, strict=True):
        assert row.cell == cell.name
        assert row.train_tokens == 10 * 1024
        assert row.train_flops == row.train_tokens * row.train_flops_per_token_megatron
        assert row.train_flops_per_token_6n == 6 * row.active_params
        assert row.tpp * row.total_params == pytest.approx(row.train_tokens)
        assert row.active_tpp * row.active_params == pytest.approx(row.train_tokens)
        assert row.sparsity + row.density == 1
        assert row.active_params - row.active_params_without_embeddings == 2 * 512 * 32


def test_smaller_micro_batches_need_less_memory_and_are_those_estimated():
    whole, parts = rows_of()[0], rows_of(micro_batch_tokens=256)[0]
    assert parts.memory_bytes < whole.memory_bytes
    assert whole.memory_bytes == estimate_memory(CELLS[0].model, micro_batch_tokens=1024).total
    assert parts.memory_bytes == estimate_memory(CELLS[0].model, micro_batch_tokens=256).total


def test_the_memory_is_that_of_the_asked_way_to_compute():
    plain, torch_ops = rows_of()[0], rows_of(ops="torch")[0]
    assert plain.memory_bytes < torch_ops.memory_bytes
    ways = {"micro_batch_tokens": 1024, "recompute": "layers", "precision": "bfloat16"}
    row = rows_of(recompute="layers", precision="bfloat16")[0]
    assert row.memory_bytes == estimate_memory(CELLS[0].model, **ways).total


def test_time_grows_with_sparsity_at_equal_flops_and_sums_over_seeds():
    rows = rows_of(seeds=(3, 4))
    times = [row.estimated_seconds for row in rows]
    assert times == sorted(times)
    assert total_seconds(rows) == pytest.approx(2 * sum(times))


def test_tokens_beyond_whole_batches_cost_no_time():
    assert rows_of(train_tokens=10_240) == rows_of(train_tokens=10_500)


def test_an_unknown_speed_leaves_the_time_unknown():
    rows = rows_of(machine=None)
    assert [row.estimated_seconds for row in rows] == [None] * 3
    assert total_seconds(rows) is None
    assert total_seconds([*rows, *rows_of(machine=ONE_CPU_CORE)]) is None
    assert json.loads(plan_to_json(rows))[0]["estimated_seconds"] is None
    assert "one after the other" not in plan_to_table(rows)


def test_json_holds_every_figure_exactly():
    rows = plan(
        paper_cells(), train_tokens=TRAIN_TOKENS, batch_tokens=4_194_304, sequence_length=4096
    )
    loaded = json.loads(plan_to_json(rows))
    assert len(loaded) == 65
    back = [PlanRow(**{**item, "seeds": tuple(item["seeds"])}) for item in loaded]
    assert back == rows
    assert set(loaded[0]) == {field.name for field in fields(PlanRow)}
    assert loaded[0]["train_tokens"] == 125_002_842_112


def test_the_table_shows_every_cell_whole():
    rows = plan(
        paper_cells(),
        train_tokens=TRAIN_TOKENS,
        batch_tokens=4_194_304,
        sequence_length=4096,
        machine=None,
    )
    text = plan_to_table(rows)
    lines = text.splitlines()
    assert "…" not in text
    assert [line.split()[0] for line in lines[1:66]] == [row.cell for row in rows]
    figures = "1 320M 169M 0.750 1.11G 1.01G 125B 1.389e+20 390 739"
    assert " ".join(lines[1].split()[1:11]) == figures
    assert lines[-1].startswith("65 cells, 65 runs, ")
    assert len({len(line) for line in lines[1:66]}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": []}, "at least one cell"),
        ({"cells": [*CELLS, CELLS[0]]}, "two cells are named"),
        ({"train_tokens": 1023}, "train_tokens=1023 must be at least one batch of 1024 tokens"),
        ({"batch_tokens": 0}, "at least one batch of 0 tokens"),
        ({"sequence_length": 129}, "sequence_length=129 must be 1 to the model's"),
        ({"seeds": ()}, "one or more different numbers"),
        ({"seeds": (1, 1)}, "one or more different numbers"),
        ({"micro_batch_tokens": 1000}, "micro_batch_tokens=1000 must divide batch_tokens=1024"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        rows_of(**changes)


def test_a_cell_may_have_any_name_and_keeps_its_place():
    cells = [Cell(name="b", model=BASE), Cell(name="a", model=replace(BASE, num_experts=2))]
    assert [row.cell for row in rows_of(cells=cells)] == ["b", "a"]
    assert asdict(rows_of(cells=cells)[0])["num_experts"] == 16


@pytest.mark.parametrize(
    ("number", "count", "quantity"),
    [
        (0, "0", "0"),
        (999, "999", "999"),
        (999_499, "999K", "999k"),
        (999_500, "1M", "1M"),
        (125_002_842_112, "125B", "125G"),
        (1_200_000_000_000_000, "1.2e+15", "1.2P"),
    ],
)
def test_numbers_are_rounded_before_their_unit_is_chosen(number, count, quantity):
    assert format_count(number) == count
    assert format_quantity(number) == quantity


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60.0, "1.0 min"), (3600.0, "1.0 h"), (8.64e7, "1,000.0 d")],
)
def test_times_are_shown_in_their_largest_unit(seconds, text):
    assert format_seconds(seconds) == text


def test_planning_loads_neither_torch_nor_a_terminal_library():
    program = (
        "import sys, isoflop.design.plan, isoflop.experiments.paper as paper; paper.paper_cells();"
        "sys.exit(bool({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
