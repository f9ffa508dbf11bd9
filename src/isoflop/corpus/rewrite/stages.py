"""Every rewriting by name: its prompt, how its reply is read, and what must hold afterwards.

Sources: arXiv:2505.02881 and its released scripts for the stages, their limits and their order; the
prompts are our own words (`isoflop.corpus.prompts`), named by a digest of their text.
"""

import ast
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import Literal

from isoflop.config import UserError
from isoflop.corpus.rewrite.code_replies import parse_code, parse_judged_code, parse_score
from isoflop.corpus.rewrite.python_source import tree_of
from isoflop.corpus.rewrite.reasons import Reason
from isoflop.corpus.rewrite.replies import Parsed, Unusable
from isoflop.corpus.rewrite.text_replies import (
    parse_question,
    parse_solved_page,
    parse_structured_page,
    parse_stub,
    parse_text,
    stub_names,
)
from isoflop.corpus.rows import TextRow

SHORTEST_REWRITE = 51
"""Characters: the reference drops replies of 50 and fewer (SCOR and math)."""

CODE_NEW_TOKENS = 8192
"""Longest reply. arXiv:2505.02881: 8,192 for Python and math, 16,384 for C++ and Rust."""

LONG_CODE_NEW_TOKENS = 16_384

PROMPT_DIGEST_HEX_DIGITS = 12
"""Of a prompt's text."""

Parse = Callable[..., Parsed | Unusable]
"""``parse(reply, complete=...)``; complete: the model ended by itself, not at its limit."""

Check = Callable[[TextRow, Parsed], Unusable | None]
"""Whether a parsed reply fits the text that it was made from."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One way to rewrite."""

    name: str
    summary: str
    prompt: str
    """Name of the file in `isoflop.corpus.prompts`, without ".md"."""
    parse: Parse
    makes: Literal["code", "text", "score", "pair"]
    """Code in `language`; any text; a score on the text, which stays; a question to it."""
    language: Literal["python", "cpp", "rust"] | None
    """Of the code that comes out. Python must compile. None: no code."""
    asks: Literal["text", "pair"] = "text"
    """What is sent: the text, or the row's question and solution in two requests."""
    min_characters: int = 1
    """Of the new text."""
    max_new_tokens: int = CODE_NEW_TOKENS
    """Default for one reply."""
    check: Check | None = None


def check_translation(parent: TextRow, parsed: Parsed) -> Unusable | None:
    """Comments and docstrings may change; the rest of the code may not."""
    before, after = tree_of(parent.text), tree_of(parsed.text or "")
    if before is None or after is None:
        return None
    if _without_docstrings(before) == _without_docstrings(after):
        return None
    return Unusable(reason=Reason.CODE_CHANGED, detail="the syntax trees differ")


def check_stub(parent: TextRow, parsed: Parsed) -> Unusable | None:
    """The stub must name a function that the code has."""
    tree = tree_of(parent.text)
    nodes = [] if tree is None else list(ast.walk(tree))
    there = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    asked = stub_names(parsed.question or "")
    if there.isdisjoint(asked):
        detail = f"the code has no function {', '.join(asked)}"
        return Unusable(reason=Reason.NOT_A_STUB, detail=detail)
    return None


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="sgcr",
            summary="score, suggestions, improved style of Python",
            prompt="sgcr",
            parse=partial(parse_judged_code, language="python"),
            makes="code",
            language="python",
        ),
        Stage(
            name="scor",
            summary="self-contained and optimised Python",
            prompt="scor",
            parse=partial(parse_code, language="python"),
            makes="code",
            language="python",
            min_characters=SHORTEST_REWRITE,
        ),
        Stage(
            name="merged",
            summary="SGCR and SCOR in one prompt: the paper's negative result (appendix E.3)",
            prompt="merged",
            parse=partial(parse_judged_code, language="python"),
            makes="code",
            language="python",
            min_characters=SHORTEST_REWRITE,
        ),
        Stage(
            name="score",
            summary="a score from 0 to 10; the text stays",
            prompt="score",
            parse=parse_score,
            makes="score",
            language=None,
            max_new_tokens=64,
        ),
        Stage(
            name="refactor",
            summary="the smallest changes that mend Python",
            prompt="refactor",
            parse=partial(parse_code, language="python"),
            makes="code",
            language="python",
        ),
        Stage(
            name="translate_comments",
            summary="comments and docstrings in another language",
            prompt="translate_comments",
            parse=partial(parse_code, language="python"),
            makes="code",
            language="python",
            check=check_translation,
        ),
        Stage(
            name="sgcr_cpp",
            summary="score, suggestions, improved style of C++",
            prompt="sgcr_cpp",
            parse=partial(parse_judged_code, language="cpp"),
            makes="code",
            language="cpp",
            max_new_tokens=LONG_CODE_NEW_TOKENS,
        ),
        Stage(
            name="sgcr_rust",
            summary="score, suggestions, improved style of Rust",
            prompt="sgcr_rust",
            parse=partial(parse_judged_code, language="rust"),
            makes="code",
            language="rust",
            max_new_tokens=LONG_CODE_NEW_TOKENS,
        ),
        Stage(
            name="instruct_stub",
            summary="instruction pair: a stub with a docstring, and the code",
            prompt="instruct_stub",
            parse=parse_stub,
            makes="pair",
            language=None,
            check=check_stub,
        ),
        Stage(
            name="instruct_question",
            summary="instruction pair: a question, and the code",
            prompt="instruct_question",
            parse=parse_question,
            makes="pair",
            language=None,
        ),
        Stage(
            name="math_v1",
            summary="a page without its frame, step by step, final answer marked",
            prompt="math_v1",
            min_characters=SHORTEST_REWRITE,
            parse=parse_solved_page,
            makes="text",
            language=None,
        ),
        Stage(
            name="math_v2",
            summary="a worked problem in fixed sections, final answer boxed",
            prompt="math_v2",
            min_characters=SHORTEST_REWRITE,
            parse=parse_structured_page,
            makes="text",
            language=None,
        ),
        Stage(
            name="translate_math",
            summary="a question and its solution in another language",
            prompt="translate_math",
            parse=parse_text,
            makes="text",
            language=None,
            asks="pair",
        ),
    )
}


def find_stage(name: str) -> Stage:
    """The stage of that name.

    Raises:
        UserError: there is none.
    """
    if name not in STAGES:
        raise UserError(f"stage {name!r} is not known; choose one of {', '.join(STAGES)}")
    return STAGES[name]


@cache
def prompt_text(stage: Stage, target_language: str) -> str:
    """The instructions of a stage; a translation's name its target language."""
    folder = resources.files("isoflop.corpus") / "prompts"
    text = (folder / f"{stage.prompt}.md").read_text(encoding="utf-8")
    return text.replace("{language}", target_language).strip()


def prompt_digest(prompt: str) -> str:
    """Names the words of a prompt."""
    return hashlib.sha256(prompt.encode("utf-8")).hexdigest()[:PROMPT_DIGEST_HEX_DIGITS]


def _without_docstrings(tree: ast.Module) -> str:
    """The tree as text, every docstring made empty."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            first.value.value = ""
    return ast.dump(tree)
