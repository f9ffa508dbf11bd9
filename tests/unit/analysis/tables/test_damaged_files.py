"""A file that is damaged, or holds something else than runs, is refused in one line that names it."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.unit.analysis.tables.test_trackers import SHAPE, records, wandb_file

from isoflop.analysis.tables import read_table
from isoflop.config import UserError

HEAD = "cell,tokens,total_params,active_params,num_experts,top_k,train_loss"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a,,500,200,8,2,2.0", r"t.csv:3: tokens is empty; every line needs it"),
        ("a,nan,500,200,8,2,2.0", r"t.csv:3: tokens is empty"),
        (",1000,500,200,8,2,2.0", r"t.csv:3: cell is empty; every line needs it"),
    ],
)
def test_a_line_without_tokens_or_cell_is_refused(tmp_path, line, words):
    path = tmp_path / "t.csv"
    path.write_text(f"{HEAD}\na,500,500,200,8,2,2.0\n{line}\n")
    with pytest.raises(UserError, match=words):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", r"t.json: holds '5'; it must hold a list of objects"),
        ("null", r"t.json: holds 'None'; it must hold"),
        ('"runs"', r"t.json: holds 'runs'; it must hold"),
        ("[" * 100_000 + "]" * 100_000, r"t.json: nested too deeply"),
    ],
)
def test_json_that_is_no_table_is_refused(tmp_path, text, words):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_table(path)


def test_json_lines_nested_too_deeply_are_refused_with_their_line(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("{}\n" + "[" * 100_000 + "\n")
    with pytest.raises(UserError, match=r"t.jsonl:2: nested too deeply"):
        read_table(path)


@pytest.mark.parametrize(
    ("step", "columns", "words"),
    [
        (
            "first",
            {"a": {**SHAPE, "tokens_per_step": 10}},
            r"chart.csv:2: Step is 'first'; it must",
        ),
        ("1", [1], r"chart.columns.json: expected an object, got '\[1\]'; write an object of runs"),
        ("1", {"a": [1]}, r"chart.columns.json: run 'a' is '\[1\]'; write an object of runs"),
        ("1", {"a": {**SHAPE, "tokens_per_step": "10"}}, r"run 'a': tokens_per_step is '10'; it"),
    ],
)
def test_a_chart_with_a_fault_is_refused(tmp_path, step, columns, words):
    (tmp_path / "chart.csv").write_text(f'"Step","a - train/loss"\n{step},3.0\n')
    (tmp_path / "chart.columns.json").write_text(json.dumps(columns))
    with pytest.raises(UserError, match=words):
        read_table(tmp_path / "chart.csv")


def test_a_damaged_record_of_wandb_is_refused(tmp_path):
    path = tmp_path / "run-x1.wandb"
    rows = [{"train/loss": 3.0, "step": 1}]
    wandb_file(path, [*records({**SHAPE, "tokens_per_step": 64}, rows), b"\xff" * 40])
    with pytest.raises(UserError, match=r"run-x1.wandb: record 3 is damaged; copy"):
        read_table(path)
    wandb_file(path, records({**SHAPE, "tokens_per_step": "64"}, rows))
    with pytest.raises(UserError, match=r"run-x1.wandb: the run's config: tokens_per_step is '64'"):
        read_table(path)


def test_steps_of_a_tracker_without_tokens_are_left_out_and_said(tmp_path):
    path = tmp_path / "run-x1.wandb"
    rows = [{"train/loss": 3.0, "step": 1, "tokens": 64}, {"train/loss": 2.9, "step": 2}]
    wandb_file(path, records(SHAPE, rows))
    table = read_table(path)
    assert table.number("train_loss").tolist() == [3.0]
    assert "steps without tokens: 1, left out" in table.notes


def event_file(folder, tensors):
    """Events whose scalars are the given tensors, as TensorFlow's writers store them."""
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for step, tensor in enumerate(tensors, start=1):
        value = summary_pb2.Summary.Value(tag="train/loss", tensor=tensor)
        summary = summary_pb2.Summary(value=[value])
        writer.add_event(event_pb2.Event(step=step, summary=summary))
    writer.close()
    (folder / "columns.json").write_text(json.dumps({**SHAPE, "tokens_per_step": 64}))
    return next(Path(folder).glob("events.out.tfevents.*"))


def stored_tensors():
    from tensorboard.util.tensor_util import make_tensor_proto

    content = make_tensor_proto(np.float32(0))
    content.ClearField("float_val")
    content.tensor_content = np.float32(2.5).tobytes()
    return make_tensor_proto(np.float32(3.5)), content, make_tensor_proto(np.float64(1.5))


def test_scalars_of_every_way_to_store_them_are_read(tmp_path):
    from tensorboard.util.tensor_util import make_tensor_proto

    event_file(tmp_path / "run", [*stored_tensors(), make_tensor_proto("some text")])
    assert read_table(tmp_path).number("train_loss").tolist() == [3.5, 2.5, 1.5]


def test_a_damaged_event_file_is_refused_and_one_that_was_cut_gives_its_whole_records(tmp_path):
    file = event_file(tmp_path / "run", stored_tensors())
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    assert read_table(tmp_path).number("train_loss").tolist() == [3.5, 2.5]
    for damaged in (b"something else entirely", whole[:-6] + b"\xff" + whole[-5:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"tfevents.*: record \d is damaged; copy"):
            read_table(tmp_path)
