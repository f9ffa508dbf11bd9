"""GSM8K and GSM-Plus: word problems whose answer is a number.

Columns: question and answer, where the answer is a worked solution that ends in "#### 18" (both
the hub's `openai/gsm8k` and the released JSONL); GSM-Plus has solution and answer apart.

A GSM-Plus row whose answer is the word None asks something that cannot be answered; no number
can be right, so it is set aside and counted instead of being a wrong answer for every model.

Sources: GSM8K, arXiv:2110.14168; GSM-Plus, arXiv:2402.19255; prompt and shots, arXiv:2508.18672
appendix B; step-by-step prompt, arXiv:2205.11916; programs as answers, arXiv:2211.10435.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.tasks.columns import name_of, text_of
from isoflop.evaluate.tasks.problem import BadRowError, Hub, Item, Style, Task, Template

FINAL_MARK = "####"
"""What stands before the final answer of a solution. GSM8K."""

UNANSWERABLE = "None"
"""GSM-Plus's answer to a question that lacks what is needed ("critical thinking")."""

MAX_NEW_TOKENS = 256
"""Of an answer: lm-evaluation-harness's default, with which the papers' accuracies were made."""

FUNCTION_HEAD = "def simple_math_problem():\n"
"""First line of an answer that is a program. The name is the one the released code calls."""

_CALCULATION = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
"""GSM8K's calculator mark: <<16-3-4=9>>."""

_PLAIN_ARITHMETIC = re.compile(r"[0-9+\-*/(). ]+")


def parse_gsm8k(row: Mapping[str, Any]) -> Item:
    """A row of GSM8K."""
    question, solution = text_of(row, "question"), text_of(row, "answer")
    gold = _final_answer(solution)
    if gold is None:
        raise BadRowError("no final answer", f"nothing follows {FINAL_MARK!r}")
    return Item(id=name_of(row, "id"), question=question, answer=solution, golds=(gold,))


def parse_gsm_plus(row: Mapping[str, Any]) -> Item:
    """A row of GSM-Plus, or of GSM8K where its training rows are the shots."""
    if row.get("solution") is None:
        return parse_gsm8k(row)
    question, gold = text_of(row, "question"), text_of(row, "answer").strip()
    if gold == UNANSWERABLE:
        raise BadRowError("no answer", "the question cannot be answered")
    solution = text_of(row, "solution")
    if FINAL_MARK not in solution:
        solution = f"{solution.rstrip()}\n{FINAL_MARK} {gold}"
    seed = row.get("seed_question")
    sources = (seed,) if isinstance(seed, str) else ()
    return Item(
        id=name_of(row, "id"), question=question, answer=solution, golds=(gold,), sources=sources
    )


def worked_steps(item: Item) -> Item:
    """The solution as prose: no calculator marks, and "The answer is" before the number."""
    steps, _, _ = item.answer.rpartition(FINAL_MARK)
    prose = _CALCULATION.sub("", steps).strip()
    return replace(item, answer=f"{prose}\nThe answer is {item.golds[0]}.")


def worked_program(item: Item) -> Item:
    """The solution as the body of a function, a line for each of its calculator marks.

    Raises:
        BadRowError: no marks, one that is not plain arithmetic, or the last is not the answer.
    """
    steps = _CALCULATION.findall(item.answer)
    if not steps or not all(_PLAIN_ARITHMETIC.fullmatch(expression) for expression, _ in steps):
        raise BadRowError("no program", "the solution's calculations are no plain arithmetic")
    if _digits(steps[-1][1]) != _digits(item.golds[0]):
        raise BadRowError("no program", "the last calculation is not the answer")
    lines = [f"    step_{number} = {text.strip()}" for number, (text, _) in enumerate(steps, 1)]
    body = "\n".join([*lines, f"    return step_{len(steps)}"])
    return replace(item, answer=body, head=FUNCTION_HEAD)


def _final_answer(solution: str) -> str | None:
    _, found, final = solution.rpartition(FINAL_MARK)
    return final.strip() or None if found else None


def _digits(number: str) -> str:
    return number.replace(",", "").strip()


_ASK = "Question: {question}\nAnswer:"
_SAMPLING = Sampling(max_new_tokens=MAX_NEW_TOKENS, stop=("Question:",))
_TEMPLATES: Mapping[Style, Template] = {
    "few_shot": Template(ask=_ASK, lead=" "),
    "chain_of_thought": Template(
        ask=_ASK + " Let's think step by step.", lead=" ", rewrite=worked_steps
    ),
    "code": Template(
        ask="Question: {question}\nAnswer as a Python function:\n" + FUNCTION_HEAD,
        rewrite=worked_program,
        scorer="output",
        sampling=Sampling(max_new_tokens=MAX_NEW_TOKENS, stop=("\nQuestion:", "\ndef ")),
    ),
    "bare": Template(),
}
_METRICS = ("accuracy", "accuracy_flexible", "bits_per_byte", "bits_per_token")

GSM8K = Task(
    name="gsm8k",
    version=3,
    source="arXiv:2508.18672, appendix B: 4 shots, greedy, extended strict match",
    parse=parse_gsm8k,
    templates=_TEMPLATES,
    num_shots=4,
    scorer="number",
    sampling=_SAMPLING,
    metrics=_METRICS,
    hub=Hub(path="openai/gsm8k", config="main", split="test", shots_split="train"),
)

GSM_PLUS = replace(
    GSM8K,
    name="gsm_plus",
    source="arXiv:2508.18672, appendix B: 5 shots; here from GSM8K's training rows, not its tests",
    parse=parse_gsm_plus,
    num_shots=5,
    hub=Hub(
        path="qintongli/GSM-Plus",
        config=None,
        split="test",
        shots_path="openai/gsm8k",
        shots_config="main",
        shots_split="train",
    ),
)
