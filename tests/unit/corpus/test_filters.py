"""Each measure against the obvious slow version or a table of hard cases; verdicts from measures."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes_corpus import GOOD_CODE, row
from isoflop.config import UserError, from_dict, override, to_dict
from isoflop.corpus.filters.comment_language import (
    corrected_rule,
    language_of_prose,
    published_rule,
)
from isoflop.corpus.filters.comments import (
    CommentShares,
    comment_shares,
    lint_score,
    tokens_of,
)
from isoflop.corpus.filters.config import FilterConfig, LengthConfig, LintConfig, RepetitionConfig
from isoflop.corpus.filters.decide import FILTERS, decide
from isoflop.corpus.filters.language import find_language, language_of_text
from isoflop.corpus.filters.repetition import longest_repeat
from isoflop.corpus.filters.syntax import COMPILE_ERRORS, error_kind, syntax_error


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("x = 1", None),
        ("", None),
        ("\ufeffx = 1", None),
        ("# -*- coding: no-such -*-\nx = 1", None),
        ("print 1", "SyntaxError"),
        ("\ufeff\ufeffx = 1", "SyntaxError"),
        ("return 1", "SyntaxError"),
        ("def f():\npass", "IndentationError"),
        ("if x:\n\ty\n        z", "TabError"),
        ("x = 'a\x00'", "ValueError|SyntaxError"),
        ("x = '\ud800'", "UnicodeEncodeError"),
        ("(" * 300 + ")" * 300, "SyntaxError|MemoryError|RecursionError"),
        ("-" * 100_000 + "1", "RecursionError|MemoryError|SyntaxError"),
        ("x" + ".y" * 100_000, "RecursionError|MemoryError"),
        ("x = 1" + "0" * 5000, "SyntaxError"),
        ("1 if " * 5000, "SyntaxError|MemoryError|RecursionError"),
    ],
)
def test_what_does_not_compile_and_why(text, kind):
    error = syntax_error(text)
    if kind is None:
        assert error is None
    else:
        assert re.fullmatch(kind, error_kind(error)), error
        error.encode("utf-8")
        assert "\n" not in error


@settings(max_examples=300)
@given(st.text(max_size=60))
def test_any_text_gets_an_answer_that_agrees_with_compile(text):
    try:
        compile(text.removeprefix("\ufeff"), "a", "exec", dont_inherit=True)
        compiles = True
    except COMPILE_ERRORS:
        compiles = False
    assert (syntax_error(text) is None) == compiles
    shares = comment_shares(text, tokens_of(text))
    assert 0 <= shares.of_tokens < 1
    assert 0 <= shares.of_lines <= 1
    assert isinstance(corrected_rule(tokens_of(text)), str)


@pytest.mark.parametrize(
    ("text", "of_tokens", "of_lines"),
    [
        ("", 0.0, 0.0),
        ("# a\n" * 50, 50 / 101, 1.0),
        ("x = 1  # a\n", 1 / 6, 0.0),
        ("# a\nx = 1\n", 1 / 7, 1 / 2),
        ("# a\n" * 10 + "x = 1\n" * 10, 10 / 61, 1 / 2),
        ('"""A\n\nB"""\nx = 1\n', 0.0, 3 / 4),
        ('def f():\n    """A."""\n    return 1\n', 0.0, 1 / 3),
        ('x = """A\nB"""\n', 0.0, 0.0),
        ("x = (1,\n# a\n2)\n", 1 / 12, 1 / 3),
        ("# a\nx = (\n", 0.0, 1 / 2),
        ("\n\n  \n", 0.0, 0.0),
    ],
)
def test_shares_of_comments(text, of_tokens, of_lines):
    shares = comment_shares(text, tokens_of(text))
    assert shares.of_tokens == pytest.approx(of_tokens)
    assert shares.of_lines == pytest.approx(of_lines)


@given(st.floats(-50, 10), st.floats(0, 1), st.floats(0, 1))
def test_the_corrected_penalty_never_helps_and_the_published_one_helps_the_bad(
    score, tokens, lines
):
    shares = CommentShares(of_tokens=tokens, of_lines=lines)
    assert lint_score(score, shares, "none") == score
    assert lint_score(score, shares, "per_line") <= score
    published = lint_score(score, shares, "published")
    assert published == score * (1 - tokens)
    assert (published >= score) if score < 0 else (published <= score)


def slow_longest_repeat(text, floor):
    """Every place and every length."""
    return max(
        (
            size
            for size in range(floor, len(text) // 2 + 1)
            for at in range(len(text) - 2 * size + 1)
            if text[at : at + size] == text[at + size : at + 2 * size]
        ),
        default=0,
    )


def test_the_longest_repeat_is_that_of_the_slow_search():
    rng = random.Random(0)
    for _ in range(400):
        letters = "abcé漢"[: rng.choice((1, 2, 3, 5))]
        text = "".join(rng.choice(letters) for _ in range(rng.randint(0, 60)))
        if rng.random() < 0.5:
            block = "".join(rng.choice("abcdef") for _ in range(rng.randint(1, 20)))
            at = rng.randint(0, len(text))
            text = text[:at] + block * rng.randint(2, 4) + text[at:]
        floor = rng.randint(1, 8)
        assert longest_repeat(text, floor) == slow_longest_repeat(text, floor), (text, floor)


def test_a_long_block_is_found_in_a_long_text():
    rng = random.Random(1)
    noise = ["".join(rng.choice("abcdefgh \n") for _ in range(size)) for size in (70_000, 60_001)]
    block = "".join(rng.choice("abcdefgh \n") for _ in range(1237))
    assert longest_repeat(noise[0] + block + block + noise[1]) == 1237
    assert longest_repeat(noise[0] + block + noise[1] + block) == 0
    assert longest_repeat("ab" * 50_000) == 50_000


@pytest.mark.parametrize(
    ("text", "published", "corrected"),
    [
        ("x = 1", "english_or_japanese", "none"),
        ("# read the file", "english_or_japanese", "english"),
        ("# the caf\u00e9 \u2014 it\u2019s open \u2192 now", "other_characters", "english"),
        ("# \u6570\u3092\u6570\u3048\u308b", "english_or_japanese", "japanese"),
        ("# \u8fd9\u662f\u4e2d\u6587\u7684\u6ce8\u91ca", "english_or_japanese", "chinese"),
        ("x = '\uc548\ub155'", "other_characters", "korean"),
        ("# \u0447\u0438\u0442\u0430\u0435\u043c", "other_characters", "cyrillic"),
        ("# digite um n\u00famero e o valor do produto", "other_characters", "portuguese"),
        ("# ingrese el n\u00famero que est\u00e1 en la lista", "other_characters", "spanish"),
        ("# xyzzy", "english_or_japanese", "latin"),
        ("x = (", "not_tokenizable", "not_tokenizable"),
    ],
)
def test_language_of_comments_by_both_rules(text, published, corrected):
    assert published_rule(tokens_of(text)) == published
    assert corrected_rule(tokens_of(text)) == corrected


def test_a_few_foreign_letters_do_not_rule():
    prose = "the list of the words in the file is not for you and this is it "
    assert language_of_prose(prose * 3 + "\u8fd9") == "english"


@pytest.mark.parametrize(
    ("text", "column", "path", "language"),
    [
        ("anything", "Rust", "a.py", "Rust"),
        ("anything", None, "src/A.PY", "Python"),
        ("int main() {", None, "a.cpp", "C++"),
        ("#!/usr/bin/env python3\nx", None, None, "Python"),
        ("#!/bin/sh\nx", None, "run", "Shell"),
        (GOOD_CODE, None, None, "Python"),
        ("import os\nx = os.getcwd()\nprint(x)\n", None, None, "Python"),
        ("#include <iostream>\nusing namespace std;\nint main() {\n}\n", None, None, "C++"),
        ('package main\n\nimport "fmt"\n\nfunc main() {\n\tx := 1\n}\n', None, None, "Go"),
        ('fn main() {\n    let mut x = 1;\n    println!("");\n}\n', None, None, "Rust"),
        ("const a = 1;\nfunction f() {\n  console.log(a);\n}\n", None, None, "JavaScript"),
        ("<!DOCTYPE html>\n<html>\n<body>\n</body>\n</html>\n", None, None, "HTML"),
        ("It was a bright cold day in April, and the clocks were striking.", None, None, None),
        ("", None, None, None),
    ],
)
def test_languages(text, column, path, language):
    assert find_language(text, column, path) == language


def test_real_python_is_told_by_its_text_alone():
    import sysconfig
    from pathlib import Path

    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:80]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    told = [language_of_text(text) for text in texts if text.strip()]
    assert told.count("Python") >= 0.95 * len(told)


MEASURED = {
    "language": "Python",
    "compiles": True,
    "pylint_score": 8.0,
    "comment_share": 0.1,
    "lint_score": 7.2,
    "comment_language": "english",
    "longest_repeat": 0,
}


@pytest.mark.parametrize(
    ("fields", "changes", "verdict"),
    [
        ({}, (), None),
        ({"language": None}, (), ("language", "unknown language")),
        ({"language": "Rust"}, (), ("language", "another language")),
        ({"language": "PYTHON"}, (), None),
        ({"compiles": False, "syntax_error": "TabError: x"}, (), ("syntax", "TabError")),
        ({"compiles": False, "syntax_error": "TabError: x"}, ("syntax=measure",), None),
        ({"compiles": None}, (), ("syntax", "not measured")),
        ({"lint_score": 6.99}, (), ("lint", "low score")),
        ({"lint_score": 7.0}, (), None),
        ({"lint_score": 6.99}, ("lint.threshold=None",), None),
        ({"lint_score": None, "lint_problem": "why"}, (), ("lint", "no score")),
        ({}, ('comment_language.allowed=("english","japanese")',), None),
        (
            {"comment_language": "chinese"},
            ('comment_language.allowed=("english",)',),
            ("comment_language", "chinese"),
        ),
        ({}, ("min_llm_score=6",), ("llm_score", "no score")),
        ({"llm_score": 5.5}, ("min_llm_score=6",), ("llm_score", "low score")),
        ({"llm_score": 6.0}, ("min_llm_score=6",), None),
        ({"longest_repeat": 100}, (), ("repetition", "repeated block")),
        ({"longest_repeat": 99}, (), None),
        ({"longest_repeat": 100}, ("repetition.min_text_characters=2000",), None),
        ({"longest_repeat": None}, (), ("repetition", "not measured")),
        ({}, ("length.max_characters=1499",), ("length", "too long")),
        ({}, ("length.min_characters=1501",), ("length", "too short")),
        ({}, ("length.min_characters=1500", "length.max_characters=1500"), None),
    ],
)
def test_verdicts(fields, changes, verdict):
    measured = row("x" * 1500, **{**MEASURED, **fields})
    judged = decide(measured, override(FilterConfig(), *changes))
    found = None if judged.rejected_by is None else (judged.rejected_by, judged.reason)
    assert found == verdict
    assert judged.rejected_by is None or judged.detail
    assert judged.text == measured.text


def test_the_first_filter_that_rejects_gives_the_reason_and_a_verdict_stays():
    bad = row("x" * 1500, language="Rust", compiles=False, syntax_error="SyntaxError: x")
    judged = decide(bad, FilterConfig())
    assert judged.rejected_by == "language"
    assert decide(judged, FilterConfig(language="Rust")) is judged


def test_measuring_only_rejects_nothing():
    for fields in ({}, {"language": "Rust"}, {"compiles": False, "longest_repeat": 10**6}):
        assert decide(row("x", **fields), FilterConfig().measuring_only).rejected_by is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: LintConfig(threshold=11.0),
        lambda: LintConfig(measure="none"),
        lambda: LintConfig(disabled=("E0401 C0301",)),
        lambda: RepetitionConfig(min_block_characters=10),
        lambda: LengthConfig(min_characters=5, max_characters=4),
        lambda: FilterConfig(min_llm_score=11.0),
        lambda: FilterConfig(language=""),
        lambda: override(FilterConfig(), "limits.cpu_seconds=0"),
        lambda: override(FilterConfig(), "lint.penalty=mine"),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(UserError):
        make()


def test_a_config_survives_its_text_form_and_names_every_filter():
    config = override(FilterConfig(), 'comment_language.allowed=("english",)', "min_llm_score=6")
    assert from_dict(FilterConfig, to_dict(config)) == config
    assert list(FILTERS)[:3] == ["language", "syntax", "lint"], "the paper's order"
