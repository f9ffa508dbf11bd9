"""A study's table.csv comes back as the rows it was written from."""

import pytest
from tests.fakes_analysis import flat, rows_of, sparse_helps

from isoflop.analysis.table import sort_rows, write_table
from isoflop.analysis.tables import read_table
from isoflop.analysis.tables.checkpoints import checkpoint_rows, study_of
from isoflop.config import UserError


def test_written_and_read_rows_are_equal(tmp_path):
    rows = [
        row.__class__(
            **{
                **vars(row),
                "losses": tuple(
                    at_step_of(x, row)
                    for x in sorted(row.losses, key=lambda x: (x.source, x.split))
                ),
                "scores": tuple(at_step_of(x, row) for x in sorted(row.scores, key=by_name)),
            }
        )
        for row in rows_of(sparse_helps, flat, seeds=2)
    ]
    write_table(rows, tmp_path)
    assert list(checkpoint_rows(read_table(tmp_path / "table.csv"))) == sort_rows(rows)
    assert list(checkpoint_rows(read_table(tmp_path / "table.json"))) == sort_rows(rows)


def by_name(score):
    return score.task, score.split


def at_step_of(item, row):
    return item.__class__(**{**vars(item), "step": row.step, "tokens": row.tokens})


def test_a_study_of_a_table_has_its_cells_and_seeds(tmp_path):
    rows = rows_of(sparse_helps, flat, seeds=3, steps=(50, 100))
    write_table(rows, tmp_path)
    study = study_of(read_table(tmp_path / "table.csv"))
    assert {cell.name: len(cell.rows) for cell in study.cells} == {
        f"E{e}-k{k}": 3 for e, k in ((2, 2), (4, 2), (8, 2), (16, 2), (32, 2), (64, 2), (32, 4))
    }
    assert study.unfinished == ()


def test_without_experts_no_comparison_is_made_and_said(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("cell,tokens,total_params,train_loss\na,1000,500,2.0\n")
    with pytest.raises(UserError, match="at equal active parameters need num_experts, top_k"):
        study_of(read_table(path))


def test_a_score_of_few_columns_keeps_what_is_there_and_nothing_else(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "cell,tokens,total_params,active_params,num_experts,top_k,gsm8k.accuracy\n"
        "a,1000,500,200,8,2,0.25\n"
    )
    (row,) = checkpoint_rows(read_table(path))
    (score,) = row.scores
    assert (score.task, score.split, score.accuracy, score.num_items) == (
        *("gsm8k", "held_out", 0.25),
        None,
    )
    assert (row.train_loss, row.num_layers, row.losses) == (None, None, ())
