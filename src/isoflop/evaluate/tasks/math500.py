"""MATH and its 500-problem test set: answers in LaTeX.

Columns: problem, solution and, where it is given, answer; without it the answer is what the last
\\boxed{} of the solution holds.

Sources: MATH, arXiv:2103.03874; MATH-500, arXiv:2305.20050; prompt and four shots, arXiv:2206.14858
appendix D.
"""

from collections.abc import Mapping
from typing import Any

from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.tasks.columns import name_of, text_of
from isoflop.evaluate.tasks.problem import BadRowError, Hub, Item, Task, Template

MAX_NEW_TOKENS = 1024
"""Of a solution: arXiv:2508.18672, released test-time-compute settings."""

BOX = "\\boxed{"


def parse_math(row: Mapping[str, Any]) -> Item:
    """A row of MATH."""
    question, solution = text_of(row, "problem", "question"), text_of(row, "solution")
    gold = text_of(row, "answer") if row.get("answer") is not None else last_boxed(solution)
    if gold is None:
        raise BadRowError("no final answer", f"no {BOX}...}} in the solution")
    name = name_of(row, "unique_id", "idx", "id")
    return Item(id=name, question=question, answer=solution, golds=(gold,))


def last_boxed(solution: str) -> str | None:
    r"""What stands in the last \boxed{}, its own braces closed; None where there is none.

    >>> last_boxed(r"so $\boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    """
    _, found, rest = solution.rpartition(BOX)
    depth = 1
    for place, letter in enumerate(rest if found else ""):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[:place].strip() or None
    return None


_ASK = "Problem:\n{question}\n\nSolution:"

MATH500 = Task(
    name="math500",
    version=3,
    source="arXiv:2206.14858: 4 shots, greedy",
    parse=parse_math,
    templates={
        "few_shot": Template(ask=_ASK, lead=" "),
        "chain_of_thought": Template(ask=_ASK + " Let's think step by step.", lead=" "),
        "bare": Template(),
    },
    num_shots=4,
    scorer="latex",
    sampling=Sampling(max_new_tokens=MAX_NEW_TOKENS, stop=("Problem:",)),
    metrics=("accuracy", "bits_per_byte", "bits_per_token"),
    hub=Hub(
        path="HuggingFaceH4/MATH-500",
        config=None,
        split="test",
        shots_path="EleutherAI/hendrycks_math",
        shots_config="algebra",
        shots_split="train",
    ),
)
