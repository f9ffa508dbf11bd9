"""Graders against published verdicts on real model answers, every disagreement listed.

    python benchmarks/grader_agreement.py --data DIR [--json]

DIR holds, as .jsonl.gz or .jsonl:
    gsm8k_example_model_solutions    four models on GSM8K's test set, `is_correct` (openai/grade-school-math)
    gsm8k_tora_code_34b_generations  ToRA-Code 34B on the same, its extracted `pred` (microsoft/ToRA)
    math_8_samples_with_rm_scores    eight answers to each of 51 MATH problems, `score` (QwenLM/Qwen2.5-Math)

Beside ours, "first number" is how the released evaluation of arXiv:2508.18672 reads what follows a
mark: digits up to the first comma, so that "1,234" is 1.
Exit status 1 if GSM8K agreement is under 99.5%.
"""

import argparse
import dataclasses
import gzip
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoflop.graders import Grade, Verdict, grade_latex, grade_math

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
MARK = "\nA:"
"""How those models announce a final answer."""

LEAST_AGREEMENT = 0.995
FIRST_NUMBER = re.compile(r"-?[0-9]+")


@dataclasses.dataclass(frozen=True)
class Judged:
    """One answer with its published verdict and ours."""

    source: str
    item: str
    gold: str
    answer: str
    published: bool
    ours: Grade
    first_number: bool | None = None
    """Verdict of the released scripts' reading; None: not a number task."""

    @property
    def agrees(self) -> bool:
        return (self.ours.verdict is Verdict.CORRECT) == self.published


def rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    packed, plain = folder / f"{name}.jsonl.gz", folder / f"{name}.jsonl"
    if not packed.exists() and not plain.exists():
        raise SystemExit(f"{packed}: not found; --data names the folder that holds it")
    with gzip.open(packed, "rt") if packed.exists() else plain.open() as file:
        yield from map(json.loads, file)


def model_solutions(folder: Path) -> Iterator[Judged]:
    for number, row in enumerate(rows(folder, "gsm8k_example_model_solutions")):
        gold = row["ground_truth"].rpartition(MARK)[2].strip()
        for model in MODELS:
            text = row[model]["solution"]
            grade = grade_math(text, gold, "strict", marks=(MARK,))
            stated = text.rpartition(MARK)[2] if MARK in text else ""
            found = FIRST_NUMBER.search(stated)
            first = found is not None and found[0] == gold.replace(",", "")
            yield Judged(
                model, str(number), gold, text[-80:], row[model]["is_correct"], grade, first
            )


def tool_users(folder: Path) -> Iterator[Judged]:
    """Published is ToRA's rule (its eval/grader.py): its own extraction, within 1e-3 of the gold
    answer, of a hundredth or of a hundred times it."""
    for row in rows(folder, "gsm8k_tora_code_34b_generations"):
        gold = float(row["gt"].replace(",", ""))
        try:
            predicted = float(row["pred"][0].replace(",", ""))
        except ValueError:
            predicted = math.nan
        published = any(abs(predicted - wanted) < 1e-3 for wanted in (gold / 100, gold, gold * 100))
        text = row["code"][0]
        grade = grade_math(text, row["gt"], "flexible", marks=("\\boxed{",))
        yield Judged("tora", str(row["idx"]), row["gt"], text[-80:], published, grade)


def math_samples(folder: Path) -> Iterator[Judged]:
    for row in rows(folder, "math_8_samples_with_rm_scores"):
        for place, (text, score) in enumerate(zip(row["code"], row["score"], strict=True)):
            grade = grade_latex(text, row["gt"])
            yield Judged("math", f"{row['idx']}/{place}", row["gt"], text[-80:], score, grade)


def wilson(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    share, spread = count / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return middle - half, middle + half


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sets = {
        "GSM8K, four models": list(model_solutions(arguments.data)),
        "GSM8K, ToRA-Code 34B": list(tool_users(arguments.data)),
        "MATH, 8 samples each": list(math_samples(arguments.data)),
    }
    report = []
    for name, judged in sets.items():
        agreed = sum(one.agrees for one in judged)
        low, high = wilson(agreed, len(judged))
        row = {"set": name, "n": len(judged), "agreed": agreed, "low": low, "high": high}
        row["ungradable"] = sum(one.ours.verdict is Verdict.UNGRADABLE for one in judged)
        row["correct"] = sum(one.ours.verdict is Verdict.CORRECT for one in judged)
        if judged[0].first_number is not None:
            row["first_number_agreed"] = sum(one.first_number == one.published for one in judged)
        row["disagreements"] = [
            {
                "source": one.source,
                "item": one.item,
                "gold": one.gold,
                "end_of_answer": one.answer,
                "published": one.published,
                "ours": one.ours.verdict.value,
                "ours_answer": one.ours.answer,
            }
            for one in judged
            if not one.agrees
        ]
        report.append(row)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        for row in report:
            print(
                f"{row['set']}: {row['agreed']} of {row['n']} agree, "
                f"{100 * row['agreed'] / row['n']:.2f}% ({100 * row['low']:.2f} to "
                f"{100 * row['high']:.2f}), ours: {row['correct']} correct, "
                f"{row['ungradable']} ungradable"
            )
            if "first_number_agreed" in row:
                print(f"    first number after the mark: {row['first_number_agreed']} agree")
            for one in row["disagreements"]:
                print(f"    {json.dumps(one, ensure_ascii=False)}")
    gsm8k = report[0]
    return 0 if gsm8k["agreed"] / gsm8k["n"] >= LEAST_AGREEMENT else 1


if __name__ == "__main__":
    sys.exit(main())
