"""What was measured comes back exactly; what was not is empty."""

import csv
import json
from dataclasses import replace

from tests.fakes_analysis import checkpoint, flat, loss_row, rows_of, score_row, sparse_helps

from isoflop.analysis.table import FACTS, LOSS_FIELDS, SCORE_FIELDS, TIMES, table, write_table


def read(folder):
    with (folder / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return lines, json.loads((folder / "table.json").read_text())


def test_every_number_is_read_back_exactly(tmp_path):
    rows = rows_of(sparse_helps, flat, seeds=2)
    write_table(rows[::-1], tmp_path)
    lines, objects = read(tmp_path)
    by_run = {(row.run, row.step): row for row in rows}
    assert len(lines) == len(objects) == len(rows)
    for line, found in zip(lines, objects, strict=True):
        row = by_run[line["run"], int(line["step"])]
        for name in (*FACTS, *TIMES):
            assert found[name] == getattr(row, name)
        router = 6 * row.num_experts * row.d_model * row.num_layers * row.tokens
        assert found["train_flops_with_router"] == row.train_flops + router
        for loss in row.losses:
            for field in LOSS_FIELDS:
                assert found[f"{loss.source}.{loss.split}.{field}"] == getattr(loss, field)
        for score in row.scores:
            for field in SCORE_FIELDS:
                assert found[f"{score.task}.{score.split}.{field}"] == getattr(score, field)
        assert float(line["train_loss"]) == row.train_loss
        assert float(line["memory.seen.accuracy"]) == found["memory.seen.accuracy"]


def test_not_measured_is_empty_and_null(tmp_path):
    rows = [
        checkpoint(seed=0, scores=(score_row("memory", "seen", 0.0),)),
        checkpoint(seed=1, losses=(loss_row("code", "validation", 2.0),), seconds=None),
    ]
    write_table(rows, tmp_path)
    lines, objects = read(tmp_path)
    assert lines[0]["memory.seen.accuracy"] == "0.0"
    assert objects[0]["memory.seen.accuracy"] == 0
    assert lines[1]["memory.seen.accuracy"] == ""
    assert objects[1]["memory.seen.accuracy"] is None
    assert lines[0]["code.validation.loss"] == ""
    assert lines[1]["seconds"] == ""


def test_only_the_last_columns_depend_on_times(tmp_path):
    rows = rows_of(flat, flat, seeds=1)
    slower = [replace(row, tokens_per_second=1.0, seconds=None) for row in rows]
    (names, first), (_, second) = table(rows), table(slower[::-1])
    assert names[-len(TIMES) :] == TIMES
    assert [line[: -len(TIMES)] for line in first] == [line[: -len(TIMES)] for line in second]
    assert first != second


def test_lines_are_ordered_by_size_seed_and_step():
    names, lines = table(rows_of(flat, flat)[::-1])
    places = [names.index(name) for name in ("total_params", "cell", "seed", "step")]
    keys = [[line[place] for place in places] for line in lines]
    assert keys == sorted(keys)


def test_no_rows_give_a_head_alone(tmp_path):
    write_table([], tmp_path)
    assert read(tmp_path) == ([], [])


def test_names_with_commas_quotes_and_line_ends_survive(tmp_path):
    name = 'a,"b"\n<c>'
    write_table([checkpoint(cell=name)], tmp_path)
    lines, objects = read(tmp_path)
    assert lines[0]["cell"] == objects[0]["cell"] == name
