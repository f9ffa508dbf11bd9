"""Runs come out of trackers' files as they were logged."""

import json
import struct

import pytest
from wandb.proto import wandb_internal_pb2

from isoflop.analysis.tables import read_table
from isoflop.config import UserError

SHAPE = {"cell": "E8-k2", "seed": 0, "active_params": 200, "total_params": 500}


def records(config, rows):
    """An offline run's records, as wandb writes them."""
    found = []
    record = wandb_internal_pb2.Record()
    record.run.run_id, record.run.display_name = "x1", "my run"
    for name, value in config.items():
        record.run.config.update.add(key=name, value_json=json.dumps(value))
    found.append(record.SerializeToString())
    for row in rows:
        record = wandb_internal_pb2.Record()
        for name, value in row.items():
            record.history.item.add(nested_key=name.split("|"), value_json=json.dumps(value))
        found.append(record.SerializeToString())
    return found


def wandb_file(path, found, cut=0):
    """A LevelDB log: blocks of 32 KiB, records split where a block ends."""
    data = bytearray(b":W&B\xe1\xbe\x00")
    for record in found:
        first = True
        while True:
            left = 32768 - len(data) % 32768
            if left < 7:
                data += bytes(left)
                continue
            part, record = record[: left - 7], record[left - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, True): 4, (False, False): 3}
            data += struct.pack("<IHB", 0, len(part), kind[first, not record]) + part
            first = False
            if not record:
                break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(data[: len(data) - cut]))


def test_an_offline_run_of_wandb_is_read_with_its_config(tmp_path):
    rows = [
        {"train/loss": 3.0, "_step": 0, "step": 10, "tokens": 1000},
        {"loss/web/validation": 2.9, "_step": 1, "step": 10},
        {"train/loss": 2.5, "_step": 2, "step": 20, "tokens": 2000},
    ]
    wandb_file(tmp_path / "wandb" / "offline-run-1" / "run-x1.wandb", records(SHAPE, rows))
    table = read_table(tmp_path / "wandb")
    assert table.runs == ("my run", "my run")
    assert table.cells == ("E8-k2", "E8-k2")
    assert table.number("train_loss").tolist() == [3.0, 2.5]
    assert table.number("web.validation.loss")[0] == 2.9
    assert table.number("tokens").tolist() == [1000, 2000]
    assert table.number("final").tolist() == [0, 1]


def test_long_and_cut_files_of_wandb_give_every_whole_record(tmp_path):
    rows = [{"train/loss": 3.0 - i / 1e4, "step": i + 1, "note|x": "y" * 900} for i in range(200)]
    path = tmp_path / "run-x1.wandb"
    wandb_file(path, records({**SHAPE, "tokens_per_step": 64}, rows))
    table = read_table(path)
    assert len(table) == 200
    assert table.number("tokens").tolist() == [64.0 * (i + 1) for i in range(200)]
    wandb_file(path, records({**SHAPE, "tokens_per_step": 64}, rows), cut=100)
    assert len(read_table(path)) == 199


def test_wandb_without_tokens_or_figures_says_what_to_log(tmp_path):
    path = tmp_path / "run-x1.wandb"
    wandb_file(path, records(SHAPE, [{"train/loss": 3.0, "step": 1}]))
    with pytest.raises(UserError, match="no run tells its tokens; log `tokens`"):
        read_table(path)
    wandb_file(path, records(SHAPE, [{"my figure": 3.0}]))
    with pytest.raises(UserError, match="no run there logged a figure"):
        read_table(path)
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="not an offline run"):
        read_table(path)


def test_what_our_mirror_wrote_into_tensorboard_is_read(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "E8-k2-s0"
    writer = SummaryWriter(str(folder))
    for step in (10, 20):
        writer.add_scalar("train/loss", 3.0 - step / 20, step)
        writer.add_scalar("loss/web/validation", 2.0, step)
    writer.close()
    (folder / "columns.json").write_text(json.dumps({**SHAPE, "tokens_per_step": 64}))
    table = read_table(tmp_path)
    assert table.runs == ("E8-k2-s0", "E8-k2-s0")
    assert table.number("train_loss").tolist() == [2.5, 2.0]
    assert table.number("web.validation.loss").tolist() == [2.0, 2.0]
    assert table.number("tokens").tolist() == [640, 1280]
    (folder / "columns.json").write_text("[1]")
    with pytest.raises(UserError, match="expected an object, got"):
        read_table(tmp_path)


def test_an_exported_chart_of_wandb_becomes_a_line_a_run_and_step(tmp_path):
    path = tmp_path / "chart.csv"
    head = '"Step","a - train/loss","a - train/loss__MIN","a - train/loss__MAX","b - train/loss"'
    path.write_text(f"{head}\n1,3.0,3.0,3.0,3.1\n2,2.5,2.5,2.5,\n")
    shapes = {run: {**SHAPE, "cell": run, "tokens_per_step": 10} for run in "ab"}
    (tmp_path / "chart.columns.json").write_text(json.dumps(shapes))
    table = read_table(path)
    assert table.runs == ("a", "b", "a")
    assert table.number("train_loss").tolist() == [3.0, 3.1, 2.5]
    assert table.number("tokens").tolist() == [10, 10, 20]
