"""`isoflop export`: a checkpoint for Hugging Face's programs or verl, a study for Megatron-LM."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from isoflop.commands import grpo
from isoflop.commands.megatron import layouts
from isoflop.config import UserError


class ExportFormat(StrEnum):
    """What can be written."""

    HF = "hf"
    VERL = "verl"
    MEGATRON = "megatron"


class WeightType(StrEnum):
    """What exported weights are stored in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="hf, verl: a checkpoint's folder, or a run's: then its last checkpoint. megatron: a "
        "study's folder, e.g. runs/demo.",
    ),
]
Directory = Annotated[Path, typer.Argument(help="The new folder to write.")]
To = Annotated[
    ExportFormat,
    typer.Option(
        help="hf: a Mixtral for transformers. verl: a run of GRPO. megatron: shards, scripts."
    ),
]
Dtype = Annotated[WeightType, typer.Option(help="hf: of the weights; bfloat16 changes the logits.")]
TokenizerFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="hf: a tokenizer.json, or none. Default: the checkpoint's or study's."
    ),
]
EndOfText = Annotated[
    str | None, typer.Option(help="hf: token of --tokenizer FILE that ends documents.")
]
MaxShardBytes = Annotated[
    int | None, typer.Option(min=1, help="hf: of one weights file. Default: 5,000,000,000.")
]
OneCell = Annotated[str | None, typer.Option(help="megatron: this cell only.")]
Nodes = Annotated[int, typer.Option(min=1, help="megatron: machines.")]
GpusPerNode = Annotated[int, typer.Option(min=1, help="megatron: GPUs of each.")]
GpuMemory = Annotated[
    float, typer.Option(min=1, help="megatron: of one GPU; the layout is chosen to fit.")
]
Size = Annotated[int | None, typer.Option(min=1, help="megatron: chosen from memory if left out.")]
Task = Annotated[str | None, typer.Option(help="verl: as in `isoflop grpo`.")]
SaveInterval = Annotated[
    int | None, typer.Option(min=1, help="megatron: steps between checkpoints.")
]


def export_command(
    source: Source,
    directory: Directory,
    to: To,
    dtype: Dtype = WeightType.FLOAT32,
    tokenizer: TokenizerFile = None,
    end_of_text: EndOfText = None,
    max_shard_bytes: MaxShardBytes = None,
    cell: OneCell = None,
    nodes: Nodes = 1,
    gpus_per_node: GpusPerNode = 8,
    gpu_memory_gb: GpuMemory = 80,
    pipeline_parallel: Size = None,
    expert_parallel: Size = None,
    micro_batch_sequences: Size = None,
    save_interval: SaveInterval = None,
    task: Task = None,
    data: grpo.Data = None,
    prompt: grpo.Prompt = None,
    validate: grpo.Validate = None,
    changes: grpo.Settings = None,
) -> None:
    """Write a checkpoint or a study in a form that other programs read."""
    settings, reader = (data, prompt, validate, changes), (tokenizer, end_of_text)
    if to is ExportFormat.VERL:
        grpo.export_verl(source, directory, reader, dtype.value, max_shard_bytes, task, settings)
        return
    if task or any(settings):
        raise UserError("--task, --data, --prompt, --validate and --set go with --to verl")
    if to is ExportFormat.HF:
        _export_hf(source, directory, dtype, tokenizer, end_of_text, max_shard_bytes)
        return
    from isoflop.megatron.export import export_megatron
    from isoflop.sweep.study import read_study_map

    sizes = (pipeline_parallel, expert_parallel, micro_batch_sequences)
    train = read_study_map(source).experiment.train
    layout_of = layouts(train, nodes, gpus_per_node, gpu_memory_gb, sizes)
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
