"""Examine transformers' Mixtral, Qwen-MoE and OLMoE with random weights, and ours, and publish it.

    python benchmarks/doctor_on_transformers.py [--out docs/results/doctor] [--seed 0]

Writes rows.json, every law on every model, and README.md, the table with what each
broken law means for whoever trains or reads such a model. Needs no network.
Exit status 0 unless a law fails or errs on ours, or a law is broken that the page does not explain.
"""

import argparse
import datetime
import json
import platform
import sys
import tempfile
from pathlib import Path

import torch
import transformers

from isoflop import __version__
from isoflop.doctor.hugging_face_files import quiet_transformers
from isoflop.doctor.law import LawRow
from isoflop.doctor.laws import LAWS, examine
from isoflop.doctor.report import is_healthy, number, open_subject, rows_to_json
from isoflop.model.checkpoint import save_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
"""Of all models; numbers of experts differ as they do in the published ones."""

OURS = "isoflop E8 k2"
"""The shape of the Mixtral."""

MEANINGS = {
    "even-use-costs-one": "`load_balancing_loss_func` multiplies each expert's tokens by its "
    "probability without dividing by k, so that even use costs k (the measured value). A "
    "coefficient of one paper or program is k times as strong here; divide it by k, and do not "
    "compare balance losses of models that differ in k.",
    "layers-do-not-cancel": "The same function adds up the counts and the probabilities of all "
    "layers before it multiplies them. Layers that overload opposite halves of their experts look "
    "even (1.0 in units of even use, where the mean over layers is the other value), so a low "
    "balance loss does not say that any layer is balanced: look at `router_logits` layer by layer.",
    "router-in-float32": "The router's product runs in the model's own type, and only its softmax "
    "in float32. In bfloat16 the logits are off by the measured share of their spread: experts "
    "whose logits are near each other change places between two programs, or between training and "
    "sampling. Compare the chosen experts before looking for another cause.",
    "reported-loss-is-cross-entropy": "With `output_router_logits=True` the model's `loss` is the "
    "cross-entropy plus the coefficient times the balance loss (measured at coefficient 1). "
    "Training and evaluation losses that a trainer logs from it, and perplexities made of them, "
    "move with the coefficient; recompute the cross-entropy from the logits before comparing runs.",
    "balance-acts-as-configured": "The config's `router_aux_loss_coef` has no effect (measured "
    "strength 0) as long as `output_router_logits` is False, which is the default. Fine-tuning "
    "such a model without setting it trains without any balance loss, and nothing says so.",
    "accumulation-keeps-balance": "Under transformers' `Trainer` the cross-entropy is divided by "
    "the targets of all micro-batches, but each micro-batch adds its balance loss in full: M "
    "micro-batches make it about M times as strong. Each is also asked to be even by itself; in a "
    "model as even as random weights are, that is most of the measured relative difference of the "
    "gradient, while the notes give its strength along the gradient of the whole batch. Divide the "
    "coefficient by the number of accumulation steps. The real `Trainer` (accelerate 1.15.0) on a "
    "Mixtral E8 k2 of 2 layers of width 32, one batch of 8 sequences: 8.2 times as strong in 8 "
    "accumulation steps as in one, and 8 times the balance loss in the loss it logs.",
    "ranks-keep-balance": "The same for data-parallel processes: `Trainer` multiplies the loss by "
    "their number, balance loss included, before gradients are averaged. Simulated in one process "
    "by that arithmetic. There is no option for balance over the whole batch.",
}
"""What each law that transformers breaks means for a user; each was checked by reading the code."""


def hugging_face_models() -> dict[str, transformers.PreTrainedModel]:
    """Random weights from seed 0, as each class draws them."""
    few = {"num_experts_per_tok": 2}
    many = {"num_experts": 16, "num_experts_per_tok": 4}
    configs = {
        "Mixtral E8 k2": transformers.MixtralConfig(
            **SHAPE, **few, num_local_experts=8, intermediate_size=128
        ),
        "Qwen2-MoE E16 k4": transformers.Qwen2MoeConfig(
            **SHAPE, **many, moe_intermediate_size=64, shared_expert_intermediate_size=128
        ),
        "Qwen3-MoE E16 k4": transformers.Qwen3MoeConfig(
            **SHAPE, **many, moe_intermediate_size=64, head_dim=16, norm_topk_prob=True
        ),
        "OLMoE E16 k8": transformers.OlmoeConfig(
            **{**SHAPE, **many, "num_key_value_heads": 4, "num_experts_per_tok": 8},
            intermediate_size=64,
        ),
    }
    models = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        models[name] = transformers.AutoModelForCausalLM.from_config(config)
    return models


def our_model() -> Transformer:
    """Ours in the shape of the Mixtral."""
    config = ModelConfig(
        vocabulary_size=512,
        num_layers=4,
        d_model=64,
        num_heads=4,
        num_key_value_heads=2,
        d_expert=128,
        num_experts=8,
        top_k=2,
        sequence_length=256,
    )
    return Transformer(config, seed=0)


def examine_all(seed: int) -> dict[str, list[LawRow]]:
    """Every law on every model, each from a directory on disk as a user has it."""
    rows = {}
    with tempfile.TemporaryDirectory() as root:
        with quiet_transformers():
            for name, model in hugging_face_models().items():
                model.save_pretrained(Path(root) / name)
        (Path(root) / OURS).mkdir()
        save_checkpoint(our_model(), Path(root) / OURS)
        for folder in sorted(Path(root).iterdir(), key=lambda path: (path.name == OURS, path.name)):
            print(folder.name, file=sys.stderr)
            rows[folder.name] = examine(open_subject(folder, "cpu"), seed)
    return rows


def cell(row: LawRow) -> str:
    """A verdict as the table shows it: the measured value where the law is broken."""
    if row.verdict == "fail":
        value = "no finite number" if row.value is None else number(row.value)
        return f"**{value}** (must be {number(row.expected)})"
    return {"pass": "pass", "not applicable": "n/a", "error": "**error**"}[row.verdict]


def page(rows: dict[str, list[LawRow]], seed: int, day: str) -> str:
    """README.md."""
    by_law = {law.name: [found[place] for found in rows.values()] for place, law in enumerate(LAWS)}
    lines = [
        "# The doctor on transformers' Mixtures of Experts, and on ours",
        "",
        f"{len(LAWS)} laws on four models of transformers with random weights (4 layers of width 64; "
        "seed 0) and on ours in the Mixtral's shape. Where a law is broken the measured value stands; "
        "what each law says and which public bug it knows: docs/reference.md.",
        "",
        f"`python benchmarks/doctor_on_transformers.py --seed {seed}`, {day}; isoflop {__version__}, "
        f"transformers {transformers.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, float32 on a CPU unless a law says bfloat16. "
        "All rows: rows.json. On a model of yours: `isoflop doctor PATH`.",
        "",
        "| law | " + " | ".join(rows) + " |",
        "| --- |" + " --- |" * len(rows),
    ]
    for law in LAWS:
        lines.append(f"| {law.name} | " + " | ".join(map(cell, by_law[law.name])) + " |")
    lines += ["", "## What each broken law means for you", ""]
    for law, found in by_law.items():
        if any(row.verdict == "fail" for row in found):
            lines.append(f"- **{law}.** {MEANINGS[law]} Known from {found[0].catches}.")
            lines += notes(dict(zip(rows, found, strict=True)))
    lines += ["", "## Not applicable", ""]
    for law, found in by_law.items():
        reasons = sorted({row.reason or "" for row in found if row.verdict == "not applicable"})
        lines += [f"- {law}: {'; '.join(reasons)}"] if reasons else []
    lines += ["", "## What this does not show", "", LIMITS, ""]
    return "\n".join(lines)


def notes(found: dict[str, LawRow]) -> list[str]:
    """What helps to read the broken laws' numbers, once where all models have the same."""
    texts = {
        name: row.reason for name, row in found.items() if row.verdict == "fail" and row.reason
    }
    if len(set(texts.values())) == 1:
        return [f"  Note: {next(iter(texts.values()))}."]
    told = "; ".join(f"{name} {text}" for name, text in texts.items())
    return [f"  Notes: {told}."] if told else []


LIMITS = (
    "Random weights and short sequences on one CPU: a law that passes here may break in another type, "
    "on another device or in another version. `ranks-keep-balance` on ours judges `train_step` as several "
    "processes call it, a thread each (`doctor/own_ranks.py`); gloo and FSDP2 stand outside it. "
    "`bfloat16-is-near-float32` says nothing of "
    "transformers' models, whose weights are rounded too. A training step of a transformers model is what "
    "its `Trainer` does with it, re-done here by its arithmetic; users of other trainers meet the model's "
    "part only (the first five of the broken laws). `resume` on theirs covers weights and AdamW, not "
    "the `Trainer`'s data position. That a law is broken does not say that somebody erred: the "
    "Switch paper itself asks for balance on each device's own tokens, and bfloat16 routers are common."
)


def main() -> int:
    """Measure, write, and say whether the page explains all there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results/doctor"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = examine_all(options.seed)
    flat = [row for found in rows.values() for row in found]
    unexplained = {row.law for row in flat if row.verdict == "fail"} - MEANINGS.keys()
    errors = [row for row in flat if row.verdict == "error"]
    if unexplained or errors or not is_healthy(rows[OURS]):
        print(f"not published: {sorted(unexplained)}, {errors}", file=sys.stderr)
        print(json.dumps([r.reason for r in rows[OURS] if r.verdict == "fail"]), file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "rows.json").write_text(rows_to_json(flat) + "\n", encoding="utf-8")
    day = datetime.date.today().isoformat()
    (options.out / "README.md").write_text(page(rows, options.seed, day), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
