"""Replies that hold code: with a score and suggestions (SGCR), or code alone. Pure.

Every rule answers a way in which models break the form that was asked of them; the tables of
`tests/unit/corpus/rewrite` are the list.
"""

import re

from isoflop.corpus.rewrite.code_blocks import choose_block, is_data
from isoflop.corpus.rewrite.markdown import Section, read_sections
from isoflop.corpus.rewrite.python_source import is_python
from isoflop.corpus.rewrite.reasons import Note, Reason
from isoflop.corpus.rewrite.replies import (
    Parsed,
    Unusable,
    declines,
    noted,
    quoted,
    without_thinking,
)
from isoflop.corpus.rewrite.scores import score_in

_KINDS = (
    ("code", re.compile(r"\b(?:code|implementation|refactored|rewritten|program)\b")),
    ("suggestions", re.compile(r"\b(?:suggestions?|feedback|recommendations?|improvements?)\b")),
    ("score", re.compile(r"\b(?:evaluation|score|rating|grade|assessment)\b")),
)
"""Kinds of sections by words of their titles, the first that fits."""

_TITLE_CHARACTERS = 60
"""A longer bold line is a sentence, not a heading."""


def parse_judged_code(reply: str, *, complete: bool, language: str) -> Parsed | Unusable:
    """Score, suggestions and improved code: SGCR and the merged prompt.

    A score that is missing or out of range is noted; the code is what the stage makes.
    """
    text = without_thinking(reply, complete=complete)
    if isinstance(text, Unusable):
        return text
    sections = _read(text, language)
    kinds = _kinds(sections)
    score = _score(sections, kinds)
    number = score if isinstance(score, float) else None
    code = _code(text, sections, kinds, complete=complete, language=language)
    if isinstance(code, Unusable):
        return Unusable(reason=code.reason, detail=code.detail, score=number)
    missing = None if number is not None else Note(str(score))
    return Parsed(
        text=code.text,
        score=number,
        suggestions=_suggestions(sections, kinds),
        notes=noted(missing) + code.notes,
    )


def parse_code(reply: str, *, complete: bool, language: str) -> Parsed | Unusable:
    """Code alone, with or without words about it: SCOR and its kin."""
    text = without_thinking(reply, complete=complete)
    if isinstance(text, Unusable):
        return text
    sections = _read(text, language)
    return _code(text, sections, _kinds(sections), complete=complete, language=language)


def parse_score(reply: str, *, complete: bool) -> Parsed | Unusable:
    """A score and nothing else."""
    text = without_thinking(reply, complete=complete)
    if isinstance(text, Unusable):
        return text
    sections = read_sections(text)
    score = _score(sections, _kinds(sections))
    if isinstance(score, float):
        return Parsed(text=None, score=score)
    # A cut judgement may have ended before its score.
    return Unusable(reason=score if complete else Reason.TRUNCATED, detail=quoted(text))


def _read(text: str, language: str) -> list[Section]:
    return read_sections(text, is_python if language == "python" else None)


def _kinds(sections: list[Section]) -> list[str | None]:
    """The kind of each section; one without a kind of its own belongs to the one before it."""
    kinds: list[str | None] = []
    for section in sections:
        title = section.title.split(":")[0].lower()
        kind = None
        if len(title) <= _TITLE_CHARACTERS:
            kind = next((name for name, words in _KINDS if words.search(title)), None)
        kinds.append(kind or (kinds[-1] if kinds else None))
    return kinds


def _score(sections: list[Section], kinds: list[str | None]) -> float | Reason:
    judged = [s for s, kind in zip(sections, kinds, strict=True) if kind == "score"]
    if not judged:
        before_code = [s for s, kind in zip(sections, kinds, strict=True) if kind is None]
        return score_in("\n".join(section.prose for section in before_code))
    first: float | Reason = Reason.NO_SCORE
    for section in judged:
        for text in (section.title, section.prose, f"{section.title}\n{section.prose}"):
            found = score_in(text)
            if isinstance(found, float):
                return found
            if found is Reason.SCORE_OUT_OF_RANGE:
                first = found
    return first


def _suggestions(sections: list[Section], kinds: list[str | None]) -> tuple[str, ...]:
    lines = []
    for section, kind in zip(sections, kinds, strict=True):
        if kind == "suggestions":
            _, colon, rest = section.title.partition(":")
            lines += [rest] * bool(colon) + section.prose.split("\n")
    return tuple(line.strip() for line in lines if line.strip())


def _code(
    text: str,
    sections: list[Section],
    kinds: list[str | None],
    *,
    complete: bool,
    language: str,
) -> Parsed | Unusable:
    """The code of a reply, from its own section where there is one."""
    pairs = list(zip(sections, kinds, strict=True))
    own = [block for section, kind in pairs if kind == "code" for block in section.blocks]
    other = [
        block for section, kind in pairs if kind not in ("code", "suggestions", "score")
        for block in section.blocks
    ]  # fmt: skip
    blocks = own or other
    if not blocks and not any(kind == "code" for kind in kinds):
        # Some models put the code under the heading before it.
        blocks = [block for section, _ in pairs for block in section.blocks]
    has_heading = any(kind in ("score", "suggestions") for kind in kinds)
    found = choose_block(blocks, language)
    if found is None:
        bare = _bare_code(text, sections, kinds, language) if complete else None
        if bare is not None:
            return Parsed(text=bare, notes=noted(Note.CODE_WITHOUT_FENCES))
        return _no_code(text, complete=complete)
    unclosed = not found.block.closed or any(not block.closed for block in blocks)
    if not complete and (unclosed or (has_heading and not own)):
        return Unusable(reason=Reason.TRUNCATED, detail=quoted(found.block.content))
    if not found.block.closed and not (language == "python" and is_python(found.block.content)):
        return Unusable(reason=Reason.UNCLOSED_CODE, detail=quoted(found.block.content))
    notes = found.notes + noted(
        None if found.block.closed else Note.UNCLOSED_FENCE,
        None if complete else Note.CUT_AFTER_THE_CODE,
        Note.NO_CODE_HEADING if has_heading and not own else None,
    )
    return Parsed(text=found.block.content, notes=notes)


def _bare_code(
    text: str, sections: list[Section], kinds: list[str | None], language: str
) -> str | None:
    """Code that stands in its section, or is the whole reply, without fences."""
    if language != "python":
        return None
    first = next((s for s, k in zip(sections, kinds, strict=True) if k == "code"), None)
    start = 0 if first is None else first.line
    code = "\n".join(text.split("\n")[start:]).strip() + "\n"
    # One word compiles too.
    looks_like_code = "\n" in code.strip() or "(" in code or "=" in code
    return code if looks_like_code and is_python(code) and not is_data(code) else None


def _no_code(text: str, *, complete: bool) -> Unusable:
    reason = Reason.DECLINED if declines(text) else Reason.NO_CODE
    return Unusable(reason=reason if complete else Reason.TRUNCATED, detail=quoted(text))
