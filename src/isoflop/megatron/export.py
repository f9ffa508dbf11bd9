"""`isoflop export STUDY DIR --to megatron`: a study's shards and a launch script for each cell.

    DIR/data/<source>/train.bin, .idx         the study's token shards, which Megatron-LM reads as
    DIR/data/<source>/validation.bin, .idx    they are; hard links where that is possible
    DIR/<cell>-s<seed>.sh                     torchrun pretrain_gpt.py with all arguments
    DIR/<cell>-s<seed>.json                   the same arguments for programs

Weights come back as Megatron-LM's own converter or the study's writes them, a Hugging Face Mixtral,
through `isoflop import`.
"""

import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isoflop.config import UserError
from isoflop.design.family import Cell
from isoflop.megatron.arguments import MegatronData, megatron_arguments, to_words
from isoflop.megatron.layout import MegatronLayout
from isoflop.sweep.study import StudyMap, read_study_map
from isoflop.tokens.shards import Shard, shard_paths

LayoutOf = Callable[[Cell], MegatronLayout]
"""The layout of each cell."""

SCRIPT = """#!/usr/bin/env bash
# {cell}, seed {seed}: {gpus} GPUs on {nodes} nodes. Run this on each node, with the first node's
# name in MASTER_ADDR, the node's number in NODE_RANK, and Megatron-LM's checkout in MEGATRON.
set -euo pipefail
cd "$(dirname "$0")"
export CUDA_DEVICE_MAX_CONNECTIONS=1
exec torchrun \\
    --nnodes {nodes} --nproc-per-node {gpus_per_node} --node-rank "${{NODE_RANK:-0}}" \\
    --master-addr "${{MASTER_ADDR:-127.0.0.1}}" --master-port "${{MASTER_PORT:-29500}}" \\
    "${{MEGATRON:?the folder of Megatron-LM}}/pretrain_gpt.py" \\
    {arguments}
"""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    scripts: tuple[Path, ...]
    num_tokens: int
    """Training tokens in the shards."""


def export_megatron(
    study_folder: Path,
    directory: Path,
    layout_of: LayoutOf,
    *,
    cell: str | None = None,
    save_steps: int | None = None,
) -> Exported:
    """Write shards and launch scripts of a prepared study.

    Args:
        cell: only this one; None: all.
        save_steps: as in `megatron_arguments`.

    Raises:
        UserError: no such cell, shards that are not there yet, an existing directory, or a cell
            that Megatron-LM would refuse.
    """
    study = read_study_map(study_folder)
    runs = [run for run in study.runs if cell in (None, run.cell)]
    if not runs:
        names = ", ".join(one.name for one in study.experiment.cells)
        raise UserError(f"{study_folder}: no cell {cell!r}; there are {names}")
    if directory.exists() and any(directory.iterdir()):
        raise UserError(f"{directory}: exists and is not empty; give a new folder")
    layouts = {run.cell: layout_of(study.cell(run.cell)) for run in runs}
    data, num_tokens = _copy_shards(study, study_folder, directory)
    scripts = []
    for run in runs:
        model, layout = study.cell(run.cell).model, layouts[run.cell]
        arguments = megatron_arguments(
            model,
            study.experiment.train,
            layout,
            data,
            seed=run.seed,
            checkpoints=f"checkpoints/{run.name}",
            save_steps=save_steps,
            cell=run.cell,
        )
        script = directory / f"{run.name}.sh"
        script.write_text(_script(run.cell, run.seed, layout, to_words(arguments)))
        script.chmod(0o755)
        (directory / f"{run.name}.json").write_text(json.dumps(arguments, indent=2) + "\n")
        scripts.append(script)
    return Exported(tuple(scripts), num_tokens)


def _script(cell: str, seed: int, layout: MegatronLayout, words: list[str]) -> str:
    lines: list[str] = []
    for word in words:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += " " + shlex.quote(word)
    return SCRIPT.format(
        cell=cell,
        seed=seed,
        gpus=layout.gpus,
        nodes=layout.nodes,
        gpus_per_node=layout.gpus_per_node,
        arguments=" \\\n    ".join(lines),
    )


def _copy_shards(study: StudyMap, root: Path, directory: Path) -> tuple[MegatronData, int]:
    train: dict[str, float] = {}
    validation: dict[str, float] = {}
    num_tokens = 0
    for stage, share in zip(study.tokens, study.experiment.corpus.shares, strict=True):
        if not study.folder(root, stage).done:
            raise UserError(
                f"{root / stage.path}: no shards yet; start `isoflop run` once, it makes them first"
            )
        for split, weights in (("train", train), ("validation", validation)):
            shard = Shard(root / stage.path / split)
            if not shard.num_tokens:
                continue  # Megatron-LM cannot open an empty shard.
            prefix = Path("data") / stage.name / split
            for source, target in zip(
                shard_paths(shard.prefix)[:2], shard_paths(directory / prefix)[:2], strict=True
            ):
                _link(source, target)
            weights[str(prefix)] = share
            num_tokens += shard.num_tokens if split == "train" else 0
    return MegatronData(train=train, validation=validation or None), num_tokens


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without links.
        shutil.copyfile(source, target)
