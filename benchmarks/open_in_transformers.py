"""Does a checkpoint say the same in transformers? Export it, open it there, compare.

    python benchmarks/open_in_transformers.py CHECKPOINT [--prompts FILE] [--json]

Twenty prompts, of the study's questions or of a file, one a line: token ids, logits and the
greedy text of both programs, in float32; then how far weights in bfloat16 move the logits.
"""

import argparse
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

from isoflop.evaluate.run import read_items
from isoflop.evaluate.sampling.ours import greedy
from isoflop.model.checkpoint import load_checkpoint
from isoflop.model.huggingface import export_checkpoint
from isoflop.model.transformer import Transformer
from isoflop.sweep.lineage import StudyCheckpoint, find_study, find_tokenizer, open_tokenizer
from isoflop.sweep.stages import item_files
from isoflop.tokens.tokenizer import Tokenizer

NUM_PROMPTS = 20
NEW_TOKENS = 24
"""Greedy tokens after each prompt, at most."""


def study_prompts(study: StudyCheckpoint) -> list[str]:
    """Questions of all tasks, evenly spaced."""
    items = read_items(list(item_files(study.study, study.root).values()))
    return [items[place * len(items) // NUM_PROMPTS].prompt for place in range(NUM_PROMPTS)]


def opened(folder: Path, dtype: torch.dtype) -> Any:
    """transformers' model of a directory; a missing or unknown tensor ends the run."""
    theirs, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True
    )
    if any(loading.values()):
        raise SystemExit(f"{folder}: not all tensors fit: {loading}")
    return theirs.eval()


def compare(
    ours: Transformer, tokenizer: Tokenizer, theirs: Any, auto: Any, prompts: list[str]
) -> list[dict[str, Any]]:
    """One row a prompt; each is read after an end of text, as evaluation does."""
    end, length = auto.eos_token_id, ours.config.sequence_length
    asked = [(end, *auto(prompt)["input_ids"])[: length - 1] for prompt in prompts]
    samples = greedy(ours, tokenizer, asked, max_new_tokens=NEW_TOKENS, batch_sequences=len(asked))
    answers = [list(sample.tokens) for sample in samples]
    rows = []
    for tokens, answer in zip(asked, answers, strict=True):
        batch = torch.tensor([list(tokens)])
        room = min(NEW_TOKENS, length - len(tokens))
        with torch.no_grad():
            whole = theirs.generate(
                batch, attention_mask=torch.ones_like(batch), max_new_tokens=room
            )[0, len(tokens) :].tolist()
            logits, expected = ours(batch).logits, theirs(batch).logits.float()
        said = whole[: whole.index(end)] if end in whole else whole
        rows.append(
            {
                "prompt": auto.decode(tokens[1:]),
                "ours": auto.decode(answer),
                "transformers": auto.decode(said),
                "same_tokens": answer == said,
                "largest_difference": (logits - expected).abs().max().item(),
                "largest_logit": expected.abs().max().item(),
            }
        )
    return rows


def measure(checkpoint: Path, prompts_file: Path | None) -> dict[str, Any]:
    """Rows in float32, and the largest differences of bfloat16 weights and arithmetic."""
    study = find_study(checkpoint)
    if study is None and prompts_file is None:
        raise SystemExit(f"{checkpoint}: no study lies around it; give --prompts FILE")
    prompts = (
        prompts_file.read_text(encoding="utf-8").splitlines()[:NUM_PROMPTS]
        if prompts_file
        else study_prompts(study)
    )
    tokenizer = find_tokenizer(checkpoint, study, None, None)
    ours, reader = load_checkpoint(checkpoint), open_tokenizer(checkpoint, None, None)
    result: dict[str, Any] = {"checkpoint": str(checkpoint)}
    with tempfile.TemporaryDirectory() as home:
        folders = {name: Path(home) / name for name in ("float32", "bfloat16")}
        for name, folder in folders.items():
            export_checkpoint(checkpoint, folder, tokenizer=tokenizer, dtype=name)
        auto = transformers.AutoTokenizer.from_pretrained(folders["float32"])
        cases = {
            "float32": opened(folders["float32"], torch.float32),
            "bfloat16 weights": opened(folders["bfloat16"], torch.float32),
            "bfloat16 weights and arithmetic": opened(folders["bfloat16"], torch.bfloat16),
        }
        for name, theirs in cases.items():
            rows = compare(ours, reader, theirs, auto, prompts)
            if name == "float32":
                result["prompts"] = rows
            result[name] = {
                "num_prompts": len(rows),
                "num_same_text": sum(row["same_tokens"] for row in rows),
                "largest_difference": max(row["largest_difference"] for row in rows),
                "largest_logit": max(row["largest_logit"] for row in rows),
            }
    result["transformers"] = transformers.__version__
    result["torch"] = torch.__version__
    return result


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prompts", type=Path, help="prompts, one a line")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # transformers warns of its own torch calls; what it says of the model is checked above.
    warnings.simplefilter("ignore")
    transformers.logging.disable_progress_bar()
    result = measure(arguments.checkpoint, arguments.prompts)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{arguments.checkpoint}, transformers {result['transformers']}")
    for row in result["prompts"]:
        word = "same" if row["same_tokens"] else "DIFFERS"
        print(
            f"  {row['prompt'][-40:]!r:44} {row['ours'][:24]!r:28} {word:8} "
            f"{row['largest_difference']:.1e}"
        )
    for name in ("float32", "bfloat16 weights", "bfloat16 weights and arithmetic"):
        row = result[name]
        print(
            f"{name}: {row['num_same_text']} of {row['num_prompts']} greedy texts the same, logits "
            f"differ by at most {row['largest_difference']:.1e} of {row['largest_logit']:.1f}"
        )


if __name__ == "__main__":
    main()
