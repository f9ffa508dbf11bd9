"""How many GPUs a cell needs by their memory, and what the whole paper would take."""

import json
from functools import partial

import pytest

from isoflop.cli import main
from isoflop.config import UserError
from isoflop.design.family import train_flops
from isoflop.experiments.paper import BATCH_SEQUENCES, SEQUENCE_LENGTH, TRAIN_TOKENS, paper
from isoflop.megatron.layout import FREE_SHARE, choose_layout, fewest_nodes, gpu_bytes

MODELS = {cell.name: cell.model for cell in paper().cells}
SMALL, LARGE = "d512-E8-k2-320M-A170M", "d2048-E128-k16-52.2B-A7.1B"
GIVEN = {
    "gpus_per_node": 8,
    "batch_sequences": BATCH_SEQUENCES,
    "sequence_length": SEQUENCE_LENGTH,
}


@pytest.mark.parametrize("gigabytes", [80, 141])
@pytest.mark.parametrize("cell", [SMALL, "d1024-E256-k4-26.0B-A670M", LARGE])
def test_the_fewest_nodes_fit_and_half_of_them_do_not(cell, gigabytes):
    memory = {"gpu_memory_bytes": gigabytes * 1e9, **GIVEN}
    layout = fewest_nodes(
        partial(choose_layout, MODELS[cell], **memory), least_nodes=1, most_nodes=64
    )
    assert gpu_bytes(MODELS[cell], layout, SEQUENCE_LENGTH) <= FREE_SHARE * gigabytes * 1e9
    assert layout == choose_layout(MODELS[cell], nodes=layout.nodes, **memory)
    if layout.nodes > 1:
        with pytest.raises(UserError, match="no layout on"):
            choose_layout(MODELS[cell], nodes=layout.nodes // 2, **memory)


def test_no_more_nodes_are_tried_than_there_are():
    memory = {"gpu_memory_bytes": 141e9, **GIVEN}
    large, small = (partial(choose_layout, MODELS[cell], **memory) for cell in (LARGE, SMALL))
    assert fewest_nodes(large, least_nodes=1, most_nodes=3).nodes == 2
    with pytest.raises(UserError, match="no layout on 1 nodes"):
        fewest_nodes(large, least_nodes=1, most_nodes=1)
    assert fewest_nodes(small, least_nodes=4, most_nodes=64).nodes == 4


def planned(words, monkeypatch, capsys):
    words = ["--workers", "512", "--flops-per-second", "4e14", *words]
    monkeypatch.setattr("sys.argv", ["isoflop", "plan", "paper", *words])
    status = main()
    return status, capsys.readouterr()


def test_the_paper_s_grid_has_gpus_by_cell_and_hours_by_flops(monkeypatch, capsys):
    words = ["--gpu-memory-gb", "80", "--json"]
    status, said = planned(words, monkeypatch, capsys)
    assert status == 0
    runs = {run["name"]: run for run in json.loads(said.out)["runs"]}
    assert len(runs) == 65
    assert runs[f"{SMALL}-s1234"]["workers"] == 8
    assert runs[f"{LARGE}-s1234"]["workers"] > 8
    for cell, model in MODELS.items():
        flops = train_flops(model, train_tokens=TRAIN_TOKENS, sequence_length=SEQUENCE_LENGTH)
        assert runs[f"{cell}-s1234"]["worker_hours"] == pytest.approx(flops / 4e14 / 3600)
        assert "micro-batch" in runs[f"{cell}-s1234"]["layout"]


def test_ranks_are_the_fewest_gpus_of_a_run(monkeypatch, capsys):
    words = ["--gpu-memory-gb", "141", "--ranks", "32", "--json"]
    runs = json.loads(planned(words, monkeypatch, capsys)[1].out)["runs"]
    assert {run["workers"] for run in runs} == {32}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--gpu-memory-gb", "20"], "cells fit nowhere)"),
        (["--gpu-memory-gb", "141", "--workers", "8"], "no layout on 1 nodes x 8 GPUs of 141 GB"),
        (["--gpu-memory-gb", "141", "--workers", "4"], "at most --workers 4"),
        (["--gpu-memory-gb", "141", "--ranks", "12"], "give --ranks as a multiple of it"),
        (["--gpu-memory-gb", "141", "--ranks", "8", "--shard", "8"], "leave --shard"),
    ],
)
def test_what_fits_nowhere_is_told(words, told, monkeypatch, capsys):
    status, said = planned(words, monkeypatch, capsys)
    assert status == 2
    assert told in said.err
    assert said.err.count("\n") == 1
