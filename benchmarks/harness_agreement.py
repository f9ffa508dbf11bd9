"""lm-evaluation-harness on a checkpoint: our model against its own on the export, and our tasks against its.

    python benchmarks/harness_agreement.py CHECKPOINT --data DIR [--limit 200] [--rounds 3] [--json]

Four of the harness's stock tasks (gsm8k, gsm_plus, hellaswag, triviaqa) redirected to the local files
in DIR, with four worked examples, the first rows of a file that is not asked. Both models answer in
turns in one process, float32, one thread; item by item their answers and log-likelihoods are
compared, and speeds are told whatever they say. Then `isoflop eval` asks the same items: prompts,
answers and verdicts are compared with the harness's.
"""

import argparse
import gzip
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from isoflop.evaluate.tasks.command import evaluate_checkpoint_on
from isoflop.evaluate.tasks.load import load_task
from isoflop.evaluate.tasks.results import TaskItemRow
from isoflop.harness import HarnessModel
from isoflop.model.huggingface.export import export_checkpoint
from isoflop.model.huggingface.tokenizer import study_tokenizer
from isoflop.records import read_rows
from isoflop.sweep.lineage import open_tokenizer
from isoflop.tokens.config import TokenizerConfig

SHOTS = 4
SHOT_ROWS = 8
"""Rows of a shots' file: the first SHOTS are shown."""

STOCK = Path(lm_eval.__file__).parent / "tasks"
TASKS = {
    "gsm8k": "gsm8k/gsm8k.yaml",
    "gsm_plus": "gsm_plus/gsm_plus.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "triviaqa": "triviaqa/default.yaml",
}
ANSWERS = ("gsm8k", "gsm_plus", "triviaqa")
"""Tasks that generate."""


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def hellaswag_row(row: dict[str, Any]) -> dict[str, Any]:
    """The stock task's columns, from which it makes the same query again."""
    activity = row["activity_label"]
    context = row["query"].removeprefix(f"{activity}: ")
    return {**row, "ctx_a": context, "ctx_b": "", "label": str(row["label"])}


def triviaqa_row(row: dict[str, Any]) -> dict[str, Any]:
    aliases = row["golden_answers"]
    return {**row, "answer": {"aliases": aliases, "value": aliases[0]}}


def gsm_plus_shot(row: dict[str, Any]) -> dict[str, Any]:
    solution = row["answer"]
    answer = solution.rpartition("####")[2].strip()
    return {"question": row["question"], "solution": solution, "answer": answer}


def write_data(data: Path, folder: Path, limit: int) -> dict[str, tuple[Path, Path]]:
    """For each task a file of rows to ask and one of rows for shots."""
    sources: dict[str, tuple[list, list]] = {
        "gsm8k": (
            list(rows_of(data / "gsm8k_test.jsonl.gz")),
            list(rows_of(data / "gsm8k_train.jsonl.gz")),
        ),
        "gsm_plus": (
            [
                {name: row[name] for name in ("question", "solution", "answer")}
                for row in rows_of(data / "gsm_plus_testmini_sample.jsonl.gz")
                if row["answer"] != "None"
            ],
            [gsm_plus_shot(row) for row in rows_of(data / "gsm8k_train.jsonl.gz")],
        ),
    }
    for name, file, change in (
        ("hellaswag", "hellaswag_val_shared.jsonl.gz", hellaswag_row),
        ("triviaqa", "triviaqa_sample.jsonl.gz", triviaqa_row),
    ):
        rows = [change(row) for row in rows_of(data / file)]
        sources[name] = (rows[SHOT_ROWS:], rows[:SHOT_ROWS])
    written = {}
    for name, (asked, shots) in sources.items():
        paths = folder / f"{name}.asked.jsonl", folder / f"{name}.shots.jsonl"
        for path, rows in zip(paths, (asked[:limit], shots[:SHOT_ROWS]), strict=True):
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        written[name] = paths
    return written


def write_tasks(files: dict[str, tuple[Path, Path]], folder: Path) -> None:
    """The stock tasks' own files, redirected."""
    for name, (asked, shots) in files.items():
        split = "validation" if name in ("hellaswag", "triviaqa") else "test"
        (folder / f"local_{name}.yaml").write_text(
            f"include: {STOCK / TASKS[name]}\n"
            f"task: local_{name}\n"
            "dataset_path: json\ndataset_name: null\n"
            f"dataset_kwargs: {{data_files: {{train: {shots}, {split}: {asked}}}}}\n"
            f"fewshot_split: train\nfewshot_config: {{sampler: first_n}}\nnum_fewshot: {SHOTS}\n"
        )


def ask(model: Any, name: str, manager: TaskManager) -> tuple[dict[str, float], list[dict], float]:
    """Figures, samples by item and filter, and seconds."""
    begun = time.perf_counter()
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[f"local_{name}"],
        task_manager=manager,
        log_samples=True,
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    seconds = time.perf_counter() - begun
    figures = {
        key: value
        for key, value in found["results"][f"local_{name}"].items()
        if isinstance(value, float) and "stderr" not in key
    }
    return figures, found["samples"][f"local_{name}"], seconds


def difference(ours: list[dict], theirs: list[dict]) -> dict[str, Any]:
    """Items whose answers differ, and the largest difference of a log-likelihood in nats."""
    answers, nats = 0, 0.0
    for one, other in zip(ours, theirs, strict=True):
        assert one["doc_id"] == other["doc_id"]
        assert one["arguments"] == other["arguments"]
        for mine, yours in zip(one["resps"], other["resps"], strict=True):
            if isinstance(mine[0], str):
                answers += mine != yours
            else:
                nats = max(nats, abs(float(mine[0][0]) - float(yours[0][0])))
    return {"answers_that_differ": answers, "largest_difference_nats": nats}


def compare_models(
    ours: Any, theirs: Any, manager: TaskManager, rounds: int
) -> dict[str, dict[str, Any]]:
    rows = {}
    for name in TASKS:
        mine, yours = ask(ours, name, manager), ask(theirs, name, manager)
        seconds: dict[str, list[float]] = {"ours": [mine[2]], "theirs": [yours[2]]}
        for _ in range(rounds - 1):
            seconds["ours"].append(ask(ours, name, manager)[2])
            seconds["theirs"].append(ask(theirs, name, manager)[2])
        ratios = [b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
        rows[name] = {
            "figures": {"ours": mine[0], "harness": yours[0]},
            "equal_figures": mine[0] == yours[0],
            "num_samples": len(mine[1]),
            **difference(mine[1], yours[1]),
            "seconds": {key: statistics.median(value) for key, value in seconds.items()},
            "speed_ratio_median": statistics.median(ratios),
            "speed_ratio_least": min(ratios),
            "speed_ratio_most": max(ratios),
        }
    return rows


def compare_tasks(
    checkpoint: Path,
    files: dict[str, tuple[Path, Path]],
    samples_of: Callable[[str], list[dict]],
    folder: Path,
) -> dict[str, dict[str, Any]]:
    """`isoflop eval` on the same items: prompts, answers and verdicts."""
    reader = open_tokenizer(checkpoint, None, None)
    rows = {}
    for name, (asked, shots) in files.items():
        loaded = load_task(name, data=asked, shots=SHOTS, shots_data=shots)
        _, out = evaluate_checkpoint_on(checkpoint, reader, loaded, out=folder)
        assert out is not None
        items = list(read_rows(out / "items.jsonl", TaskItemRow))
        by_filter: dict[str, dict[int, dict]] = {}
        for sample in samples_of(name):
            by_filter.setdefault(sample.get("filter", "none"), {})[sample["doc_id"]] = sample
        first = next(iter(by_filter.values()))
        prompts = [
            loaded.problems[place].prompt == _context(first[place]) for place in range(len(items))
        ]
        row: dict[str, Any] = {"items": len(items), "equal_prompts": sum(prompts)}
        if name in ANSWERS:
            texts = [items[place].generated == first[place]["resps"][0][0] for place in first]
            row["equal_answers"] = sum(texts)
            strict = by_filter.get("strict-match", first)
            row["verdicts_that_differ"] = [
                {
                    "item": items[place].item,
                    "generated": items[place].generated,
                    "ours": items[place].correct,
                    "harness": strict[place]["exact_match"],
                }
                for place in strict
                if bool(items[place].correct) != bool(strict[place]["exact_match"])
            ]
        else:
            row["verdicts_that_differ"] = [
                {"item": items[place].item, "ours": items[place].correct}
                for place in first
                if bool(items[place].correct) != bool(first[place]["acc"])
            ]
        rows[name] = row
    return rows


def _context(sample: dict) -> str:
    return (
        next(iter(sample["arguments"].values()))["arg_0"]
        if isinstance(sample["arguments"], dict)
        else sample["arguments"][0][0]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # The harness and its libraries warn of each other.
    warnings.simplefilter("ignore")
    checkpoint = arguments.checkpoint
    reader = open_tokenizer(checkpoint, None, None)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        files = write_data(arguments.data, folder, arguments.limit)
        write_tasks(files, folder)
        ours = HarnessModel(str(checkpoint))
        config = TokenizerConfig(path=str(reader.path), end_of_text=reader.end_of_text)
        tokenizer = study_tokenizer(reader.path, config, ours.max_length)
        export_checkpoint(checkpoint, folder / "hf", tokenizer=tokenizer)
        theirs = HFLM(pretrained=str(folder / "hf"), device="cpu", dtype="float32", batch_size=16)
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        models = compare_models(ours, theirs, manager, arguments.rounds)
        tasks = compare_tasks(
            checkpoint, files, lambda name: ask(ours, name, manager)[1], folder / "eval"
        )
    result = {"models": models, "tasks": tasks, "lm_eval": lm_eval.__version__}
    if arguments.json:
        print(json.dumps(result, indent=2, default=str))
        return
    for name, row in models.items():
        print(
            f"{name}: figures equal: {row['equal_figures']} {row['figures']['ours']}; "
            f"{row['answers_that_differ']} of {row['num_samples']} answers differ, log-likelihoods "
            f"by at most {row['largest_difference_nats']:.1e} nats; {row['seconds']['ours']:.1f} s "
            f"against {row['seconds']['theirs']:.1f} s, {row['speed_ratio_median']:.1f} times as "
            f"fast ({row['speed_ratio_least']:.1f} to {row['speed_ratio_most']:.1f})"
        )
    for name, row in tasks.items():
        print(f"isoflop eval {name}: {json.dumps(row)[:2000]}")


if __name__ == "__main__":
    main()
