"""Replies that are text: rewritten pages, translations, questions, stubs. Pure."""

import ast
import re

from isoflop.corpus.rewrite.code_replies import parse_code
from isoflop.corpus.rewrite.markdown import read_sections
from isoflop.corpus.rewrite.python_source import tree_of
from isoflop.corpus.rewrite.reasons import Note, Reason
from isoflop.corpus.rewrite.replies import (
    Parsed,
    Unusable,
    declines,
    noted,
    quoted,
    without_thinking,
)

MOST_QUESTION_CHARACTERS = 3500
"""Of a user's turn, as the reference's merge of instruction data has it."""

FEWEST_QUESTION_CHARACTERS = 10
"""Of a question. Chosen."""

MATH_V2_SECTIONS = ("problem", "approach", "solution", "verification")
"""Headings that the prompt `math_v2.md` asks for; the last may be missing."""

_FRAME_FIRST = re.compile(
    r"(?:(?:sure|certainly|of course|okay|ok|absolutely)[!,.]?\s*|[!,.]\s*)?(?:here(?:'|\u2019)?s|here is"
    r"|here are|below is|the following is|this is)\b[^\n]{0,160}?"
    r"(?:text|page|version|problem|solution|translation|answer|content|rewrite)[^\n]{0,80}:[ \t\r]*\n",
    re.IGNORECASE,
)
_FRAME_LAST = re.compile(
    r"\n[ \t]*(?:i hope (?:this|that)|let me know|please let me know|feel free"
    r"|if you (?:have|need|would like)|is there anything)\b[^\n]{0,300}\Z",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"```(?:markdown|md|text|latex|tex)?[ \t]*\n(?P<content>.*)\n```\Z", re.S)
"""These three are asked of a text without white space at its ends."""
_FINAL_ANSWER = re.compile(r"\\boxed\s{0,9}\{|^[ \t]*####[ \t]*\S", re.M)
_LABEL = re.compile(
    r"(?:[*_#]{0,3})[ \t]?(?:question|instruction|user|task|prompt)(?:[*_]{0,2})\s*:(?:[*_]{0,2})\s*",
    re.IGNORECASE,
)


def parse_text(reply: str, *, complete: bool) -> Parsed | Unusable:
    """The whole reply, less the words that a model puts around it."""
    text = without_thinking(reply, complete=complete)
    if isinstance(text, Unusable):
        return text
    if not complete:
        return Unusable(reason=Reason.TRUNCATED, detail=f"{len(text)} characters, then its limit")
    if declines(text):
        return Unusable(reason=Reason.DECLINED, detail=quoted(text))
    bare = without_frame(text)
    removed = Note.META_TEXT_REMOVED if bare != text.strip() else None
    return Parsed(text=bare + "\n", notes=noted(removed))


def parse_solved_page(reply: str, *, complete: bool) -> Parsed | Unusable:
    """A mathematical page with its final answer marked; a missing mark is noted."""
    parsed = parse_text(reply, complete=complete)
    if isinstance(parsed, Unusable):
        return parsed
    assert parsed.text is not None
    unmarked = None if _FINAL_ANSWER.search(parsed.text) else Note.NO_FINAL_ANSWER
    return Parsed(text=parsed.text, notes=parsed.notes + noted(unmarked))


def parse_structured_page(reply: str, *, complete: bool) -> Parsed | Unusable:
    """A page in fixed sections, of which only the last may be missing."""
    parsed = parse_solved_page(reply, complete=complete)
    if isinstance(parsed, Unusable):
        return parsed
    assert parsed.text is not None
    titles = [section.title.lower().strip(" :*") for section in read_sections(parsed.text)]
    missing = [
        wanted for wanted in MATH_V2_SECTIONS[:-1]
        if not any(title.startswith(wanted) for title in titles)
    ]  # fmt: skip
    if missing:
        detail = f"no heading {', '.join(missing)}: {quoted(parsed.text)}"
        return Unusable(reason=Reason.MISSING_SECTION, detail=detail)
    return parsed


def parse_question(reply: str, *, complete: bool) -> Parsed | Unusable:
    """One question about a code: the reply's first paragraph, less a label before it."""
    parsed = parse_text(reply, complete=complete)
    if isinstance(parsed, Unusable):
        return parsed
    assert parsed.text is not None
    text = _without_first(_LABEL, parsed.text.strip()).strip()
    question = re.split(r"\n\s*\n", text, maxsplit=1)[0].strip().strip('"').strip()
    return _question(question)


def parse_stub(reply: str, *, complete: bool) -> Parsed | Unusable:
    """A function's head with a docstring, which a user would ask to be completed."""
    parsed = parse_code(reply, complete=complete, language="python")
    if isinstance(parsed, Unusable):
        return parsed
    assert parsed.text is not None
    names = stub_names(parsed.text)
    if not names:
        detail = f"no function with a docstring: {quoted(parsed.text)}"
        return Unusable(reason=Reason.NOT_A_STUB, detail=detail)
    return _question(parsed.text.rstrip())


def stub_names(source: str) -> tuple[str, ...]:
    """Names of the functions of a source that have a docstring."""
    tree = tree_of(source)
    nodes = [] if tree is None else tree.body
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return tuple(node.name for node in functions if ast.get_docstring(node))


def without_frame(text: str) -> str:
    """A reply without "Here is the text:", "I hope this helps" and a fence around all of it.

    >>> without_frame("Sure! Here is the rewritten text:\\n\\n1 + 1 = 2\\n\\nI hope this helps!")
    '1 + 1 = 2'
    """
    text = _without_first(_FRAME_FIRST, text.strip())
    text = _FRAME_LAST.sub("", text, count=1).strip()
    wrapped = _WRAPPED.match(text)
    # Two blocks side by side also begin and end with a fence.
    if wrapped is not None and "```" not in wrapped["content"]:
        text = wrapped["content"]
    return text.strip()


def _without_first(pattern: re.Pattern[str], text: str) -> str:
    """The text without what fits the pattern at its beginning."""
    match = pattern.match(text)
    return text if match is None else text[match.end() :]


def _question(question: str) -> Parsed | Unusable:
    if len(question) > MOST_QUESTION_CHARACTERS:
        detail = f"{len(question)} characters of at most {MOST_QUESTION_CHARACTERS}"
        return Unusable(reason=Reason.QUESTION_TOO_LONG, detail=detail)
    if len(question) < FEWEST_QUESTION_CHARACTERS:
        return Unusable(reason=Reason.TOO_SHORT, detail=quoted(question))
    return Parsed(text=None, question=question)
