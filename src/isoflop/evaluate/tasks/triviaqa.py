"""TriviaQA without context: a question whose answer may be spelt in several ways.

Columns: question with answer.aliases and answer.value (the hub's `mandarjoshi/trivia_qa`), or with
golden_answers, a list. The first alias is the gold continuation, as in the harness's prompts. The
prompt ends the question with a question mark of its own, so that most end in two: the protocol of
the papers' scores, kept for comparison.

Sources: arXiv:1705.03551; prompt and stops: lm-evaluation-harness, triviaqa version 3.
"""

from collections.abc import Mapping
from typing import Any

from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.tasks.columns import name_of, text_of, texts_of
from isoflop.evaluate.tasks.problem import Hub, Item, Task, Template

MAX_NEW_TOKENS = 256
"""Of an answer: lm-evaluation-harness's default."""


def parse_triviaqa(row: Mapping[str, Any]) -> Item:
    """A row of TriviaQA."""
    question = _unquoted(text_of(row, "question"))
    answer = row.get("answer")
    if isinstance(answer, Mapping):
        aliases = texts_of(answer, "aliases")
        value = answer.get("value")
        spellings = (*aliases, value) if isinstance(value, str) and value.strip() else aliases
    else:
        spellings = texts_of(row, "golden_answers", "aliases")
    golds = tuple(dict.fromkeys(text for text in spellings if text.strip()))
    # An empty list of spellings is refused by name, like any other missing answer.
    first, *_ = texts_of({"answer": list(golds)}, "answer")
    name = name_of(row, "question_id", "id")
    return Item(id=name, question=question, answer=first, golds=golds)


def _unquoted(question: str) -> str:
    """Without the quotation marks of comma-separated files, which some copies kept."""
    quoted = len(question) > 1 and question[0] == question[-1] == '"' and '""' in question
    return question[1:-1].replace('""', '"') if quoted else question


TRIVIAQA = Task(
    name="triviaqa",
    version=1,
    source="arXiv:2508.18672, appendix B: 4 shots, greedy until a newline, full stop or comma",
    parse=parse_triviaqa,
    templates={"few_shot": Template(ask="Question: {question}?\nAnswer:", lead=" ")},
    num_shots=4,
    scorer="aliases",
    sampling=Sampling(max_new_tokens=MAX_NEW_TOKENS, stop=("\n", ".", ",")),
    metrics=("accuracy", "bits_per_byte", "bits_per_token"),
    hub=Hub(
        path="mandarjoshi/trivia_qa",
        config="rc.nocontext",
        split="validation",
        shots_split="train",
    ),
)
