"""Replies as models really write them: the code is found whole, or a typed reason says why not."""

import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.corpus.rewrite.code_blocks import MOST_PARTS
from isoflop.corpus.rewrite.code_replies import parse_code, parse_judged_code, parse_score
from isoflop.corpus.rewrite.markdown import MOST_ENDS_TRIED, read_sections
from isoflop.corpus.rewrite.reasons import Note, Reason
from isoflop.corpus.rewrite.replies import Parsed, Unusable
from isoflop.corpus.rewrite.scores import score_in
from isoflop.corpus.rewrite.text_replies import (
    parse_question,
    parse_structured_page,
    parse_stub,
)

CODE = "def add(a, b):\n    return a + b\n"
FENCED = f"```python\n{CODE}```"
GOOD = f"### Evaluation: 7\n\n### Suggestions:\n- Use types.\n\n### Improved Code:\n{FENCED}\n"

SECTION_SIGN = f'### Part one\n{CODE}### Part two\nprint("###")\n'
IN_DOCSTRING = 'def f():\n    """Say:\n\n```\nf()\n```\n    """\n    return 1\n'
IN_TEXT = 'TEXT = """\n```python\nx = 1\n```\n"""\n'
DRAFT = "```python\n" + "a_longer_draft = 1\n" * 9 + "```"
WITH_TAG = 'END = "</think>"\nprint(text.split("</think>"))\n'
WITH_TAGS = 'FORM = """\n<think>\n...\n</think>\n"""\n'

USABLE = [
    ("as asked", GOOD, CODE, ()),
    ("words after", GOOD + "\nI hope this helps!", CODE, ()),
    ("no blank lines", GOOD.replace("\n\n", "\n"), CODE, ()),
    ("Windows line ends", GOOD.replace("\n", "\r\n"), CODE, ()),
    ("three hashes in the code", GOOD.replace(CODE, SECTION_SIGN), SECTION_SIGN, ()),
    ("fence in a docstring", GOOD.replace(CODE, IN_DOCSTRING), IN_DOCSTRING, ()),
    ("block in a text", GOOD.replace(CODE, IN_TEXT), IN_TEXT, ()),
    ("heading without colon", GOOD.replace("Code:", "Code"), CODE, ()),
    ("bold headings", GOOD.replace("### Improved Code:", "**Improved Code:**"), CODE, ()),
    ("numbered headings", GOOD.replace("### Improved", "### 3. Improved"), CODE, ()),
    ("two hashes", GOOD.replace("###", "##"), CODE, ()),
    ("another title", GOOD.replace("Improved Code", "Refactored version of the code"), CODE, ()),
    ("no language", GOOD.replace("```python", "```"), CODE, ()),
    ("py", GOOD.replace("```python", "```py"), CODE, ()),
    ("Python in capitals", GOOD.replace("```python", "```Python"), CODE, ()),
    ("tildes", GOOD.replace("```", "~~~"), CODE, ()),
    ("four marks", GOOD.replace("```", "````"), CODE, ()),
    ("words after the language", GOOD.replace("```python", "```python title=a.py"), CODE, ()),
    ("thinking before", "<think>\n```python\nx = 1\n```\n</think>\n" + GOOD, CODE, ()),
    ("thinking opened by the template", "I think so.\n</think>\n" + GOOD, CODE, ()),
    ("drafts in such thinking", f"So:\n{DRAFT}\nor\n{DRAFT}\n</think>\n\n{GOOD}", CODE, ()),
    ("a draft without its last fence", f"So:\n{DRAFT[:-4]}\n</think>\n{GOOD}", CODE, ()),
    ("a draft behind words", f"So: {DRAFT}\n</think>\n{GOOD}", CODE, ()),
    ("a draft, the tag after words", f"So:\n{DRAFT}\nDone.</think>\n{GOOD}", CODE, ()),
    ("the tag in the code", GOOD.replace(CODE, WITH_TAG), WITH_TAG, ()),
    ("both tags in the code", GOOD.replace(CODE, WITH_TAGS), WITH_TAGS, ()),
    ("words about the tag", GOOD + "\nIt keeps `</think>` and the </think> tag.", CODE, ()),
    (
        "drafts that hold the tag",
        f"So:\n```python\n{WITH_TAG}```\n</think>\n{GOOD}",
        CODE,
        (),
    ),
    ("tokens after", GOOD + "<|im_end|>\n<|endoftext|>", CODE, ()),
    ("indented block", GOOD.replace(FENCED, "  ```python\n  x = 1\n  ```"), "x = 1\n", ()),
    ("one line", GOOD.replace(FENCED, "```python x = 1```"), "x = 1\n", ()),
    (
        "a fragment among the suggestions",
        GOOD.replace("- Use types.", "- Use\n```python\ndef f(a: int\n```\nand more"),
        CODE,
        (),
    ),
    (
        "no fences",
        GOOD.replace(FENCED, CODE),
        CODE,
        (Note.CODE_WITHOUT_FENCES,),
    ),
    (
        "unclosed but whole",
        GOOD.replace(FENCED, f"```python\n{CODE}"),
        CODE,
        (Note.UNCLOSED_FENCE,),
    ),
    (
        "two blocks: the longer one",
        GOOD.replace(FENCED, f"{FENCED}\nUse it so:\n```python\nadd(1, 2)\n```"),
        CODE,
        (Note.SEVERAL_CODE_BLOCKS,),
    ),
    (
        "two blocks: the one that compiles",
        GOOD.replace(FENCED, f"```python\n{CODE * 3}...(\n```\nor\n{FENCED}"),
        CODE,
        (Note.SEVERAL_CODE_BLOCKS,),
    ),
    (
        "code under another heading",
        GOOD.replace("### Improved Code:\n", ""),
        CODE,
        (Note.NO_CODE_HEADING,),
    ),
    ("no score", GOOD.replace("### Evaluation: 7\n", ""), CODE, (Note.NO_SCORE,)),
    ("score out of range", GOOD.replace(": 7", ": 11/10"), CODE, (Note.SCORE_OUT_OF_RANGE,)),
]

UNUSABLE = [
    ("nothing", "", True, Reason.EMPTY_REPLY),
    ("white space", " \n\t\n", True, Reason.EMPTY_REPLY),
    ("only tokens", "<|im_end|>", True, Reason.EMPTY_REPLY),
    ("no code", "### Evaluation: 7\n\nI like it.", True, Reason.NO_CODE),
    ("declined", "I'm sorry, but I can't rewrite this.", True, Reason.DECLINED),
    ("another language", GOOD.replace("python", "javascript"), True, Reason.NO_CODE),
    ("empty block", GOOD.replace(CODE, "\n"), True, Reason.NO_CODE),
    ("unclosed and broken", GOOD.replace(FENCED, "```python\ndef f(:"), True, Reason.UNCLOSED_CODE),
    ("cut in the code", GOOD.replace(FENCED, "```python\nx = 1\ny"), False, Reason.TRUNCATED),
    ("cut in whole code", GOOD.replace(FENCED, "```python\nx = 1\n"), False, Reason.TRUNCATED),
    ("cut before the code", GOOD.split("### Improved")[0], False, Reason.TRUNCATED),
    (
        "cut after a block among the suggestions",
        "### Evaluation: 7\n### Suggestions:\n```python\nx = 1\n```\n### Improved Code:\n",
        False,
        Reason.TRUNCATED,
    ),
    ("thinking without an end", "<think>\nLet me see", True, Reason.UNCLOSED_THINKING),
    ("cut while thinking", "<think>\nLet me see", False, Reason.TRUNCATED),
    ("nothing but thinking", "<think>x</think>", True, Reason.EMPTY_REPLY),
]


@pytest.mark.parametrize(
    ("reply", "code", "notes"), [c[1:] for c in USABLE], ids=[c[0] for c in USABLE]
)
def test_the_improved_code_is_found_whole(reply, code, notes):
    parsed = parse_judged_code(reply, complete=True, language="python")
    assert isinstance(parsed, Parsed), parsed
    assert parsed.text == code
    assert parsed.notes == notes
    missing = Note.NO_SCORE in notes or Note.SCORE_OUT_OF_RANGE in notes
    assert parsed.score == (None if missing else 7.0)


@pytest.mark.parametrize(
    ("reply", "complete", "reason"), [c[1:] for c in UNUSABLE], ids=[c[0] for c in UNUSABLE]
)
def test_what_cannot_be_used_has_its_reason(reply, complete, reason):
    parsed = parse_judged_code(reply, complete=complete, language="python")
    assert isinstance(parsed, Unusable), parsed
    assert parsed.reason is reason


def test_a_score_survives_code_that_cannot_be_used():
    parsed = parse_judged_code("### Evaluation: 4\n\nNo code.", complete=True, language="python")
    assert isinstance(parsed, Unusable)
    assert parsed.score == 4.0


def test_a_reply_cut_after_its_code_is_used_and_noted():
    parsed = parse_judged_code(GOOD + "\nThis co", complete=False, language="python")
    assert isinstance(parsed, Parsed)
    assert parsed.notes == (Note.CUT_AFTER_THE_CODE,)


def test_suggestions_are_the_lines_of_their_section_and_no_code():
    reply = GOOD.replace("- Use types.", "Short:\n- one\n\n- two\n```python\nx = 1\n```\n- three")
    parsed = parse_judged_code(reply, complete=True, language="python")
    assert isinstance(parsed, Parsed)
    assert parsed.suggestions == ("Short:", "- one", "- two", "- three")


@pytest.mark.parametrize(
    ("language", "tag", "code"),
    [
        ("cpp", "cpp", "#include <vector>\nint main() { return 0; }\n"),
        ("cpp", "c++", "int x;\n"),
        ("rust", "rust", "fn main() {}\n"),
        ("rust", "rs", "// ### no heading\nfn main() {}\n"),
    ],
)
def test_other_languages_have_their_own_fences(language, tag, code):
    reply = f"### Evaluation: 7\n### Improved Code:\n```{tag}\n{code}```"
    parsed = parse_judged_code(reply, complete=True, language=language)
    assert isinstance(parsed, Parsed)
    assert parsed.text == code


def test_scor_takes_code_without_headings_and_the_whole_reply_where_that_is_code():
    for reply in (FENCED, f"Here it is:\n\n{FENCED}\n\n### Notes\nIt adds.", CODE):
        parsed = parse_code(reply, complete=True, language="python")
        assert isinstance(parsed, Parsed)
        assert parsed.text == CODE


@pytest.mark.parametrize("end", ["\n</think>\n\n", "\nDone.</think>\n", "\nDone.\n</think>"])
def test_a_draft_in_thinking_that_the_template_opened_is_not_the_code(end):
    parsed = parse_code(f"So:\n{DRAFT}{end}{FENCED}", complete=True, language="python")
    assert isinstance(parsed, Parsed)
    assert parsed.text == CODE


A = "def a():\n    return 1\n"
B = "def b():\n    return a() + 2222222222\n"
JOINED = (Note.SEVERAL_CODE_BLOCKS, Note.BLOCKS_JOINED)
SEVERAL = (Note.SEVERAL_CODE_BLOCKS,)


def tagged(*codes):
    return "\nand\n".join(f"```python\n{code}```" for code in codes)


BLOCKS = [
    ("output", f"{tagged(A)}\nThis prints:\n```\n{'1234567890' * 9}\n```", A, SEVERAL),
    (
        "output like a program",
        f"{tagged(A)}\nIt says\n```\nx = 1111111111111111111\n```",
        A,
        SEVERAL,
    ),
    ("no word on any", f"```\n{A}```\nIt prints\n```\n[1, 2, 3, 4, 5, 6, 7, 8]\n```", A, SEVERAL),
    ("totals", f"```\n{A}```\nIt prints\n```\nTotal: 5555555555555555555555\n```", A, SEVERAL),
    ("usage", tagged(A, "print(a())\n" * 9), A, SEVERAL),
    ("imported usage", tagged(A, "from m import a\n\nresult = a()\nprint(result)\n"), A, SEVERAL),
    ("tests", tagged(A, f"def test_a():\n    assert a() == 1\n{'    # x' * 20}\n"), A, SEVERAL),
    ("two parts", tagged(A, B), f"{A}\n\n{B}", JOINED),
    (
        "imports first",
        tagged("import os\n", "print(os.sep)\n"),
        "import os\n\n\nprint(os.sep)\n",
        JOINED,
    ),
    (
        "what runs, last",
        tagged(A, 'if __name__ == "__main__":\n    a()\n'),
        f'{A}\n\nif __name__ == "__main__":\n    a()\n',
        JOINED,
    ),
    ("lines that are explained", tagged(A + B, A, B), A + B, SEVERAL),
    ("one line again", tagged("x = [1]\nprint(x)\n", "print(x)\n"), "x = [1]\nprint(x)\n", SEVERAL),
    (
        "written anew",
        tagged("# a long remark\n" + A, "def a():\n    return 2\n"),
        "def a():\n    return 2\n",
        SEVERAL,
    ),
    (
        "before and after",
        "Original code:\n" + tagged("x = 1  # long\n") + "\nNew:\n" + tagged("x = 2\n"),
        "x = 2\n",
        SEVERAL,
    ),
    ("a snippet first", tagged("x = 1\n", A + B), A + B, SEVERAL),
    (
        "two ways with the same imports",
        tagged(f"import os\n{A}", "import os\n\ndef b(): ...\n"),
        f"import os\n{A}",
        SEVERAL,
    ),
    (
        "usage of what does not compile",
        tagged(A + "(\n") + "\nUsage:\n" + tagged("print(a())\n"),
        A + "(\n",
        SEVERAL,
    ),
    ("one block, labelled", f"Example:\n{tagged(A)}", A, ()),
    ("a manifest", tagged('{"name": "x"}\n'), '{"name": "x"}\n', ()),
]


@pytest.mark.parametrize(
    ("reply", "code", "notes"), [c[1:] for c in BLOCKS], ids=[c[0] for c in BLOCKS]
)
def test_of_several_blocks_the_program_is_taken(reply, code, notes):
    parsed = parse_code(reply, complete=True, language="python")
    assert isinstance(parsed, Parsed), parsed
    assert (parsed.text, parsed.notes) == (code, notes)


@pytest.mark.parametrize(
    "reply",
    [
        '{"score": 7, "code": "x = 1"}',
        '```\n{"score": 7, "code": "x = f(1)"}\n```',
        '{"score": 7,\n "code": null}',
        "[1, 2, 3, 4]\n[5, 6]",
    ],
)
def test_data_is_no_code(reply):
    parsed = parse_code(reply, complete=True, language="python")
    assert isinstance(parsed, Unusable)
    assert parsed.reason is Reason.NO_CODE


def test_work_on_very_many_parts_is_bounded():
    many = tagged(*(f"def f{n}():\n    return f{n - 1}()\n" for n in range(MOST_PARTS + 1)))
    parsed = parse_code(many, complete=True, language="python")
    assert isinstance(parsed, Parsed)
    assert parsed.notes == SEVERAL


def test_one_word_is_no_code_although_it_compiles():
    parsed = parse_code("None", complete=True, language="python")
    assert isinstance(parsed, Unusable)
    assert parsed.reason is Reason.NO_CODE


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("7/10", 7.0),
        ("Score: **8**", 8.0),
        ("**Score:** 8 / 10", 8.0),
        ("Rating - 6.5", 6.5),
        ("I rate this 9 out of 10 because 3 of 4 functions are good", 9.0),
        ("On a scale of 1 to 10: 4", 4.0),
        ("Evaluation (1-10): 5", 5.0),
        ("7,5/10", 7.5),
        (r"$\boxed{6}$", 6.0),
        ("0", 0.0),
        ("10/10", 10.0),
        ("Score: ten of ten", Reason.NO_SCORE),
        ("Score (out of 10): 6", 6.0),
        ("**Score** (max 10): 6", 6.0),
        ("Score (1=bad, 10=good): 6", 6.0),
        ("Score on 10: 6", 6.0),
        ("Rating [0..10]: 4", 4.0),
        ("Rating [0..10] 4", 4.0),
        ("Score (7/10): good", 7.0),
        ("Score: [7/10]", 7.0),
        ("7 (out of 10)", 7.0),
        ("Only 2 of 10 functions have docstrings.\nScore: 8", 8.0),
        ("Only 2 of 10 functions have docstrings.", Reason.NO_SCORE),
        ("3/10 functions lack docstrings; I rate it 8", 8.0),
        ("Score: 8 (previously 5/10)", 8.0),
        ("Criterion 1: 5/10\nCriterion 2: 6/10\nOverall: 8/10", 8.0),
        ("1. Naming: 3/10 ... Overall score: 9/10", 9.0),
        ("Criterion 1: 5/10\nCriterion 2: 6/10", Reason.NO_SCORE),
        ("Score: 5\nScore: 6", Reason.NO_SCORE),
        ("3 of 3 functions", Reason.NO_SCORE),
        ("Evaluation: Python 3 code. Score: 6", 6.0),
        ("I'd rate this 7/10. With tests it could be 9/10.", 7.0),
        ("7/10 because names are bad", 7.0),
        ("a score of 7 showing care", 7.0),
        ('{"score": 7}', 7.0),
        ("Score: \uff17/10", 7.0),
        ("Score: 7\uff0f\uff11\uff10", 7.0),
        ("7\u00bd/10", Reason.NO_SCORE),
        ("Score: 8 - good", 8.0),
        ("12/10", Reason.SCORE_OUT_OF_RANGE),
        ("-1", Reason.SCORE_OUT_OF_RANGE),
        ("Score: 85", Reason.SCORE_OUT_OF_RANGE),
        ("Score: 85%", Reason.NO_SCORE),
        ("8 or 9", Reason.NO_SCORE),
        ("Score: 8-9", Reason.NO_SCORE),
        ("Score: 70/100", Reason.NO_SCORE),
        ("good", Reason.NO_SCORE),
        ("", Reason.NO_SCORE),
        ("v2 of file3.py", Reason.NO_SCORE),
    ],
)
def test_scores_as_they_are_written(text, score):
    assert score_in(text) == score


def test_the_score_stage_wants_a_score():
    assert parse_score("### Score: 6", complete=True) == Parsed(text=None, score=6.0)
    for reply, complete, reason in (
        ("It is good.", True, Reason.NO_SCORE),
        ("It is goo", False, Reason.TRUNCATED),
        ("### Score: 60", True, Reason.SCORE_OUT_OF_RANGE),
    ):
        parsed = parse_score(reply, complete=complete)
        assert isinstance(parsed, Unusable)
        assert parsed.reason is reason


SEEDS = [case[1] for case in USABLE] + [case[1] for case in UNUSABLE]
PIECES = [
    "```",
    "```python\n",
    "\n",
    "###",
    "### Improved Code:\n",
    "<think>",
    "</think>",
    "7/10",
    '"""',
    "**",
]


def mutated(draw: random.Random) -> str:
    """A reply with parts lost, doubled, moved or put in."""
    text = draw.choice(SEEDS)
    for _ in range(draw.randint(1, 6)):
        a, b = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
        text = draw.choice(
            [
                text[:a] + text[b:],
                text[:b] + text[a:],
                text[b:] + text[:a],
                text[:a] + draw.choice(PIECES) + text[a:],
                text[:a] + chr(draw.choice([0, 0xD800, 0x2028, 0x85, 65])) + text[a:],
            ]
        )
    return text


PARSERS = (
    partial(parse_judged_code, language="python"),
    partial(parse_code, language="cpp"),
    parse_score,
    parse_structured_page,
    parse_question,
    parse_stub,
)


def test_thousands_of_broken_replies_crash_nothing():
    draw = random.Random(0)
    outcomes = {Parsed: 0, Unusable: 0}
    for number in range(3000):
        reply, complete = mutated(draw), number % 2 == 0
        parsed = PARSERS[number % len(PARSERS)](reply, complete=complete)
        outcomes[type(parsed)] += 1
        if isinstance(parsed, Unusable):
            parsed.detail.encode("utf-8")
        elif parsed.text is not None:
            assert parsed.text.strip()
    assert min(outcomes.values()) > 500


@settings(max_examples=100)
@given(st.text(), st.booleans())
def test_any_text_has_an_outcome(reply, complete):
    assert isinstance(
        parse_judged_code(reply, complete=complete, language="python"), Parsed | Unusable
    )


@settings(max_examples=100)
@given(st.lists(st.sampled_from([*PIECES, "a\n", "~~~\n", "# x\n", "    ```\n"]), max_size=40))
def test_every_line_is_in_one_section_or_block(pieces):
    text = "".join(pieces)
    sections = read_sections(text)
    found = sum(s.prose.count("\n") + bool(s.prose) for s in sections)
    blocks = [b for s in sections for b in s.blocks]
    inside = sum(b.content.count("\n") for b in blocks)
    assert found + inside <= text.count("\n") + 1
    assert [b.line for b in blocks] == sorted(b.line for b in blocks)


def test_work_on_hostile_fences_is_linear():
    calls = 0

    def never(content: str) -> bool:
        nonlocal calls
        calls += 1
        return False

    lines = 1000
    read_sections("```python\n```\n" * lines, never)
    assert calls <= MOST_ENDS_TRIED * lines


def test_a_reply_behind_much_white_space_is_quoted():
    found = parse_score(" \n" * 5000 + "no figure here", complete=False)
    assert (found.reason, found.detail) == (Reason.TRUNCATED, "no figure here")
