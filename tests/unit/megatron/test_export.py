"""A prepared study for Megatron-LM: the same token stream by megatron-core's own data set."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fakes import tiny_experiment
from isoflop.config import UserError
from isoflop.folders import locked
from isoflop.megatron.export import export_megatron
from isoflop.megatron.layout import MegatronLayout
from isoflop.sweep.stages import prepare
from isoflop.sweep.study import map_study, write_study_map
from isoflop.tokens.shards import Shard

LAYOUT = MegatronLayout(nodes=1, gpus_per_node=4, expert_parallel=2, micro_batch_sequences=2)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A study's folder with shards and without runs."""
    folder = tmp_path_factory.mktemp("study")
    experiment = tiny_experiment(folder)
    root = folder / "runs" / "tiny"
    root.mkdir(parents=True)
    with locked(root):
        planned = map_study(experiment)
        write_study_map(planned, root)
        prepare(planned, root, Console(quiet=True).print)
    return root


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("megatron") / "out"
    export_megatron(study, folder, lambda _: LAYOUT)
    return folder


def test_every_cell_has_a_script_that_the_shell_reads(exported):
    scripts = sorted(path.name for path in exported.glob("*.sh"))
    assert scripts == ["E2-k2-s0.sh", "E4-k2-s0.sh"]
    for script in scripts:
        subprocess.run(["bash", "-n", exported / script], check=True)
    # What torchrun is given, without a torchrun.
    told = subprocess.run(
        [
            "bash",
            "-c",
            f'torchrun() {{ printf \'%s\\n\' "$@"; }}; exec() {{ "$@"; }}; '
            f"cd {exported}; MEGATRON=/m; source ./E4-k2-s0.sh",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    assert told[told.index("--nproc-per-node") + 1] == "4"
    assert "/m/pretrain_gpt.py" in told
    assert told[told.index("--num-experts") + 1] == "4"
    blend = told[told.index("--train-data-path") + 1 :][:6]
    assert blend[1::2] == [f"data/{name}/train" for name in ("memory", "reasoning", "notes")]
    assert json.loads((exported / "E4-k2-s0.json").read_text())["--moe-router-topk"] == ["2"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cell": "E9"}, "no cell 'E9'; there are E2-k2, E4-k2"),
        (
            {"layout": MegatronLayout(nodes=1, gpus_per_node=3)},
            "batch_sequences=8 must be a multiple",
        ),
    ],
)
def test_mistakes_are_told_and_leave_nothing(study, tmp_path, change, told):
    layout = change.get("layout", LAYOUT)
    with pytest.raises(UserError, match=told):
        export_megatron(study, tmp_path / "out", lambda _: layout, cell=change.get("cell"))
    assert not list(tmp_path.glob("out/*.sh"))


def test_an_existing_folder_is_not_written_into(study, exported):
    with pytest.raises(UserError, match="exists and is not empty"):
        export_megatron(study, exported, lambda _: LAYOUT)


MEGATRON = """
import sys
import numpy as np
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

class Tokenizer:
    unique_identifiers = {"class": "none"}
    eod = 0
    pad = -1
    vocab_size = int(sys.argv[5])

prefixes, length, samples, out = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
config = GPTDatasetConfig(
    random_seed=1234, sequence_length=length, tokenizer=Tokenizer(), path_to_cache=None,
    blend_per_split=[(prefixes, [1.0] * len(prefixes)), None, None],
    reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False,
    create_attention_mask=False, mid_level_dataset_surplus=0.005,
)
built = BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config).build()
whole = built[0]
parts = whole.datasets if len(prefixes) > 1 else [whole]
found = {}
for number, part in enumerate(parts):
    order = np.argsort(part.shuffle_index)
    rows = [part[int(place)] for place in order]
    found[f"order{number}"] = part.document_index
    found[f"tokens{number}"] = np.concatenate([row["tokens"].numpy() for row in rows])
    found[f"labels{number}"] = np.concatenate([row["labels"].numpy() for row in rows])
np.savez(out, **found)
"""


@pytest.mark.skipif(importlib.util.find_spec("megatron") is None, reason="needs megatron-core")
def test_megatron_cores_data_set_gives_the_shards_token_stream(exported, tmp_path):
    names = ("memory", "reasoning", "notes")
    prefixes = [exported / "data" / name / "train" for name in names]
    length, samples = 32, 120
    command = [sys.executable, "-W", "ignore", "-c", MEGATRON, ",".join(map(str, prefixes))]
    out = tmp_path / "read.npz"
    done = subprocess.run(
        [*command, str(length), str(samples), str(out), "288"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    read = np.load(out)
    for number, prefix in enumerate(prefixes):
        shard = Shard(prefix)
        order = read[f"order{number}"]
        # Its own order of documents, ours in bytes: all of them, as often as its epochs ask.
        assert set(order.tolist()) == set(range(shard.num_documents))
        stream = np.concatenate([shard.document(int(document)) for document in order])
        tokens, labels = read[f"tokens{number}"], read[f"labels{number}"]
        assert len(tokens) >= 40 * length
        assert np.array_equal(tokens, stream[: len(tokens)])
        assert np.array_equal(labels, stream[1 : len(labels) + 1])
