"""`isoflop export`: a checkpoint for Hugging Face's programs, or a study for Megatron-LM."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ExportFormat(StrEnum):
    """What can be written."""

    HF = "hf"
    MEGATRON = "megatron"


class WeightType(StrEnum):
    """What exported weights are stored in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


Size = Annotated[int | None, typer.Option(min=1, help="megatron: chosen from memory if left out.")]


def export_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="hf: a checkpoint's folder, or a run's: then its last checkpoint. megatron: a "
            "study's folder, e.g. runs/demo.",
        ),
    ],
    directory: Annotated[Path, typer.Argument(help="The new folder to write.")],
    to: Annotated[
        ExportFormat,
        typer.Option(help="hf: a Mixtral that transformers opens. megatron: shards and scripts."),
    ],
    dtype: Annotated[
        WeightType, typer.Option(help="hf: of the weights; bfloat16 changes the logits.")
    ] = WeightType.FLOAT32,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="hf: a tokenizer.json, or none. Default: the checkpoint's or study's.",
        ),
    ] = None,
    end_of_text: Annotated[
        str | None, typer.Option(help="hf: token of --tokenizer FILE that ends documents.")
    ] = None,
    max_shard_bytes: Annotated[
        int | None, typer.Option(min=1, help="hf: of one weights file. Default: 5,000,000,000.")
    ] = None,
    cell: Annotated[str | None, typer.Option(help="megatron: this cell only.")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="megatron: machines.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="megatron: GPUs of each.")] = 8,
    gpu_memory_gb: Annotated[
        float, typer.Option(min=1, help="megatron: of one GPU; the layout is chosen to fit.")
    ] = 80,
    pipeline_parallel: Size = None,
    expert_parallel: Size = None,
    micro_batch_sequences: Size = None,
    save_interval: Annotated[
        int | None, typer.Option(min=1, help="megatron: steps between checkpoints.")
    ] = None,
) -> None:
    """Write a checkpoint or a study in a form that other programs read."""
    if to is ExportFormat.HF:
        _export_hf(source, directory, dtype, tokenizer, end_of_text, max_shard_bytes)
        return
    from isoflop.design.family import Cell
    from isoflop.megatron.export import export_megatron
    from isoflop.megatron.layout import MegatronLayout, choose_layout
    from isoflop.sweep.study import read_study_map

    train = read_study_map(source).experiment.train

    def layout_of(one: Cell) -> MegatronLayout:
        chosen = (pipeline_parallel, expert_parallel, micro_batch_sequences)
        if any(chosen):
            pipeline, expert, micro = (size or 1 for size in chosen)
            return MegatronLayout(
                nodes=nodes,
                gpus_per_node=gpus_per_node,
                pipeline_parallel=pipeline,
                expert_parallel=expert,
                micro_batch_sequences=micro,
            )
        return choose_layout(
            one.model,
            nodes=nodes,
            gpus_per_node=gpus_per_node,
            gpu_memory_bytes=gpu_memory_gb * 1e9,
            batch_sequences=train.batch_sequences,
            sequence_length=train.sequence_length,
            cell=one.name,
        )

    done = export_megatron(source, directory, layout_of, cell=cell, save_steps=save_interval)
    scripts = "\n".join(map(str, done.scripts))
    typer.echo(f"{directory / 'data'}: {done.num_tokens:,} training tokens\n{scripts}")


def _export_hf(
    checkpoint: Path,
    directory: Path,
    dtype: WeightType,
    tokenizer: str | None,
    end_of_text: str | None,
    max_shard_bytes: int | None,
) -> None:
    from isoflop.model.checkpoint import checkpoint_folder
    from isoflop.model.huggingface.export import MAX_SHARD_BYTES, export_checkpoint
    from isoflop.sweep.lineage import find_study, find_tokenizer

    checkpoint = checkpoint_folder(checkpoint)
    study = find_study(checkpoint)
    done = export_checkpoint(
        checkpoint,
        directory,
        tokenizer=find_tokenizer(checkpoint, study, tokenizer, end_of_text),
        lineage=None if study is None else study.lineage(),
        dtype=dtype.value,
        max_shard_bytes=max_shard_bytes or MAX_SHARD_BYTES,
    )
    typer.echo(f"{directory}\n{done.line()}")
