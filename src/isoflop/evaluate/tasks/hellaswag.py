"""HellaSwag: which of four endings is the likeliest.

Columns: ctx_a, ctx_b, activity_label, endings, label (the hub's `Rowan/hellaswag`), or query,
endings, label, where the query is already put together. Bracketed marks of the wikiHow rows are
taken out as lm-evaluation-harness does, or no score would compare.

Sources: arXiv:1905.07830; lm-evaluation-harness, hellaswag version 1.
"""

import re
from collections.abc import Mapping
from typing import Any

from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.tasks.columns import any_text_of, name_of, quoted, text_of, texts_of
from isoflop.evaluate.tasks.problem import BadRowError, Hub, Item, Task, Template

_BRACKETED = re.compile(r"\[.*?\]")


def parse_hellaswag(row: Mapping[str, Any]) -> Item:
    """A row of HellaSwag."""
    if row.get("query") is not None:
        question = text_of(row, "query")
    else:
        context = f"{text_of(row, 'ctx_a')} {any_text_of(row, 'ctx_b').capitalize()}"
        question = without_marks(f"{text_of(row, 'activity_label')}: {context}")
    choices = tuple(without_marks(ending) for ending in texts_of(row, "endings"))
    if not all(choice.strip() for choice in choices):
        raise BadRowError("empty text", "one of the endings")
    label = name_of(row, "label")
    places = {str(place): choice for place, choice in enumerate(choices)}
    if label not in places:
        raise BadRowError("no answer", f"label is {quoted(label)}, of {len(choices)} endings")
    gold = places[label]
    name = name_of(row, "ind_in_val", "ind")
    return Item(id=name, question=question, answer=gold, golds=(gold,), choices=choices)


def without_marks(text: str) -> str:
    """The text without wikiHow's bracketed marks.

    >>> without_marks("Baking [title] First step [substeps] Mix.")
    'Baking. First step Mix.'
    """
    return _BRACKETED.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


HELLASWAG = Task(
    name="hellaswag",
    version=1,
    source="arXiv:2508.18672, appendix B: 4 shots, log-likelihood of each ending",
    parse=parse_hellaswag,
    templates={"few_shot": Template(lead=" ")},
    num_shots=4,
    scorer="choice",
    sampling=Sampling(max_new_tokens=1),
    metrics=(
        "accuracy",
        "accuracy_per_character",
        "accuracy_per_byte",
        "bits_per_byte",
        "bits_per_token",
    ),
    hub=Hub(path="Rowan/hellaswag", config=None, split="validation", shots_split="train"),
)
