"""HumanEval, MBPP and their extended forms: the answer is a program that must pass tests.

Columns: HumanEval's task_id, prompt, canonical_solution, entry_point, test; MBPP's task_id, text,
code, test_list; EvalPlus's releases and hub data sets of both. Which tests are run is the business
of `programs`.

MBPP's rows 11 to 510 are the test split; 1 to 10 are for prompts. The three shots of the papers'
protocol (tasks 2, 3, 4) are themselves in MBPP+: there other rows are taken, see `load`.

Sources: arXiv:2107.03374; arXiv:2108.07732 (prompt: section 3); arXiv:2305.01210; decoding and
shots: arXiv:2508.18672 appendix B and lm-evaluation-harness, humaneval and mbpp version 1.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.tasks.columns import name_of, text_of, texts_of
from isoflop.evaluate.tasks.problem import (
    ANOTHER_SPLIT,
    BadRowError,
    Hub,
    Item,
    Split,
    Style,
    Task,
    Template,
)
from isoflop.evaluate.tasks.programs import (
    humaneval_plus_program,
    humaneval_program,
    mbpp_plus_program,
    mbpp_program,
)

HUMANEVAL_MAX_NEW_TOKENS = 1024
"""Of a completion: arXiv:2508.18672, appendix B."""

MBPP_MAX_NEW_TOKENS = 256
"""Of a program: lm-evaluation-harness's default, with which the papers' accuracies were made."""

MBPP_TEST_IDS = range(11, 511)
"""Rows of the test split. MBPP, arXiv:2108.07732 section 2.1."""

MBPP_PROMPT_IDS = range(1, 11)
"""Rows kept for prompts. The same."""

TESTS_SHOWN = 3
"""Tests in a prompt. arXiv:2108.07732, section 3."""

DOCSTRING_MARK = '"""'


def parse_humaneval(row: Mapping[str, Any]) -> Item:
    """A row of HumanEval."""
    return _completion(row, humaneval_program(row))


def parse_humaneval_plus(row: Mapping[str, Any]) -> Item:
    """A row of HumanEval+."""
    return _completion(row, humaneval_plus_program(row))


def parse_mbpp(row: Mapping[str, Any]) -> Item:
    """A row of MBPP, of whichever split."""
    name = name_of(row, "task_id")
    is_test = name in {str(number) for number in MBPP_TEST_IDS}
    is_shot = name in {str(number) for number in MBPP_PROMPT_IDS}
    if not is_test and not is_shot:
        raise BadRowError(ANOTHER_SPLIT, "neither a test nor a row for prompts")
    split: Split = "test" if is_test else "shots"
    question = _with_tests(text_of(row, "text", "prompt"), texts_of(row, "test_list"))
    code = text_of(row, "code")
    program = mbpp_program(row)
    return Item(
        id=name,
        question=question,
        answer=code,
        golds=(code,),
        program=program,
        split=split,
        sources=_mbpp_number(name),
    )


def parse_mbpp_plus(row: Mapping[str, Any]) -> Item:
    """A row of MBPP+; or of MBPP, where its rows for prompts are the shots."""
    if row.get("assertion") is None and row.get("test") is None:
        return parse_mbpp(row)
    text = text_of(row, "prompt")
    if row.get("test_list") is not None:
        tests = texts_of(row, "test_list")
    else:
        tests = tuple(text_of(row, "assertion").strip().split("\n"))
    code = text_of(row, "canonical_solution", "code")
    return Item(
        id=name_of(row, "task_id"),
        question=_with_tests(_sentence(text), tests),
        answer=code,
        golds=(code,),
        program=mbpp_plus_program(row),
        sources=_mbpp_number(name_of(row, "task_id")),
    )


def _mbpp_number(name: str | None) -> tuple[str, ...]:
    """MBPP's own number of a task: MBPP+ words some tasks anew, under the same number."""
    return () if name is None else (f"MBPP {name.removeprefix('Mbpp/')}",)


def _completion(row: Mapping[str, Any], program: str) -> Item:
    prompt, solution = text_of(row, "prompt"), text_of(row, "canonical_solution")
    return Item(
        id=name_of(row, "task_id"),
        question=prompt,
        answer=solution,
        golds=(solution,),
        program=program,
        head=prompt,
    )


def _sentence(prompt: str) -> str:
    """What is asked for: EvalPlus's release writes it as a docstring with a first assertion."""
    inside = prompt.strip().removeprefix(DOCSTRING_MARK).removesuffix(DOCSTRING_MARK)
    lines = inside.strip().split("\n")
    return "\n".join(line for line in lines if not line.startswith("assert ")).strip()


def _with_tests(text: str, tests: tuple[str, ...]) -> str:
    shown = "\n".join(tests[:TESTS_SHOWN])
    return f"{text} Your code should pass these tests:\n\n{shown}"


_COMPLETE: Mapping[Style, Template] = {"few_shot": Template()}
_DESCRIBE: Mapping[Style, Template] = {
    "few_shot": Template(
        ask="You are an expert Python programmer, and here is your task: {question}\n[BEGIN]\n",
        end="\n[DONE]",
    )
}
_COMPLETION_SAMPLING = Sampling(
    max_new_tokens=HUMANEVAL_MAX_NEW_TOKENS,
    stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
)
_DESCRIPTION_SAMPLING = Sampling(max_new_tokens=MBPP_MAX_NEW_TOKENS, stop=("[DONE]",))
_METRICS = ("accuracy", "bits_per_byte", "bits_per_token")

HUMANEVAL = Task(
    name="humaneval",
    version=2,
    source="arXiv:2508.18672, appendix B: no shots, greedy, 1,024 tokens",
    parse=parse_humaneval,
    templates=_COMPLETE,
    num_shots=0,
    scorer="program",
    sampling=_COMPLETION_SAMPLING,
    metrics=_METRICS,
    hub=Hub(path="openai/openai_humaneval", config=None, split="test"),
)

HUMANEVAL_PLUS = replace(
    HUMANEVAL,
    name="humaneval_plus",
    parse=parse_humaneval_plus,
    hub=Hub(path="evalplus/humanevalplus", config=None, split="test"),
)

MBPP = Task(
    name="mbpp",
    version=2,
    source="arXiv:2508.18672, appendix B: 3 fixed shots, greedy until [DONE]",
    parse=parse_mbpp,
    templates=_DESCRIBE,
    num_shots=3,
    scorer="program",
    sampling=_DESCRIPTION_SAMPLING,
    metrics=_METRICS,
    hub=Hub(
        path="google-research-datasets/mbpp", config="full", split="test", shots_split="prompt"
    ),
    shot_ids=("2", "3", "4"),
)

MBPP_PLUS = replace(
    MBPP,
    name="mbpp_plus",
    source="arXiv:2508.18672, appendix B: 3 shots; here rows that MBPP+ does not ask",
    parse=parse_mbpp_plus,
    hub=Hub(
        path="evalplus/mbppplus",
        config=None,
        split="test",
        shots_path="google-research-datasets/mbpp",
        shots_config="full",
        shots_split="prompt",
    ),
)
