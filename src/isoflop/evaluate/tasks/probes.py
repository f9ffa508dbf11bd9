"""This project's own probes and the papers' prompt-answer files: prompts that are ready as they are.

    probes         EvaluationItem rows, as `isoflop run` writes them: the final answer is compared
                   letter by letter; probes_seen and probes_held_out ask one split
    promptanswer   rows of prompt and answer: only the task loss is measured

Source of the second: arXiv:2508.18672, released evaluation data.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from isoflop.config import UserError, from_dict
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.tasks.columns import name_of, text_of
from isoflop.evaluate.tasks.problem import ANOTHER_SPLIT, BadRowError, Item, Task, Template
from isoflop.records import EvaluationItem

MAX_NEW_TOKENS = 64
"""Of a probe's answer: the default of `EvaluateConfig`."""


def parse_probe(row: Mapping[str, Any]) -> Item:
    """A row of EvaluationItem; its name is task, split and id."""
    try:
        item = from_dict(EvaluationItem, dict(row), "row")
    except UserError as error:
        raise BadRowError("no EvaluationItem", str(error)) from None
    if not item.answer or not item.final_answer.strip():
        raise BadRowError("no answer", f"item {item.id!r}")
    name = f"{item.task}/{item.split}/{item.id}"
    return Item(id=name, question=item.prompt, answer=item.answer, golds=(item.final_answer,))


def parse_prompt_answer(row: Mapping[str, Any]) -> Item:
    """A row of prompt and answer. The answer stays as it is, with its first and last white space."""
    prompt, answer = text_of(row, "prompt"), text_of(row, "answer")
    return Item(id=name_of(row, "id"), question=prompt, answer=answer, golds=())


def parse_seen(row: Mapping[str, Any]) -> Item:
    """As `parse_probe`, of the questions that the training text answers."""
    return _of_split(row, "seen")


def parse_held_out(row: Mapping[str, Any]) -> Item:
    """As `parse_probe`, of the others."""
    return _of_split(row, "held_out")


def _of_split(row: Mapping[str, Any], split: str) -> Item:
    if row.get("split") != split:
        raise BadRowError(ANOTHER_SPLIT)
    return parse_probe(row)


PROBES = Task(
    name="probes",
    version=1,
    source="this project's corpus: memory and reasoning probes",
    parse=parse_probe,
    templates={"few_shot": Template()},
    num_shots=0,
    scorer="exact",
    sampling=Sampling(max_new_tokens=MAX_NEW_TOKENS),
    metrics=("accuracy", "bits_per_byte", "bits_per_token"),
)

PROBES_SEEN = replace(PROBES, name="probes_seen", parse=parse_seen)
PROBES_HELD_OUT = replace(PROBES, name="probes_held_out", parse=parse_held_out)

PROMPT_ANSWER = Task(
    name="promptanswer",
    version=1,
    source="arXiv:2508.18672, section 3.2: bits of the gold answer given its prompt",
    parse=parse_prompt_answer,
    templates={"few_shot": Template()},
    num_shots=0,
    scorer="none",
    sampling=Sampling(max_new_tokens=1),
    metrics=("bits_per_byte", "bits_per_token"),
)
