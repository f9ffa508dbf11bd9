"""Pages, translations, questions and stubs: the model's own words around them are taken off."""

import pytest

from isoflop.corpus.rewrite.reasons import Note, Reason
from isoflop.corpus.rewrite.replies import Parsed, Unusable
from isoflop.corpus.rewrite.text_replies import (
    MOST_QUESTION_CHARACTERS,
    parse_question,
    parse_solved_page,
    parse_structured_page,
    parse_stub,
    parse_text,
)

PAGE = "**Question.** What is 2 + 2?\n\n**Solution.** 2 + 2 = 4.\n\n#### 4"


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (PAGE, PAGE),
        (f"Here is the rewritten text:\n\n{PAGE}", PAGE),
        (f"Sure! Here's the text of the page, step by step:\n{PAGE}", PAGE),
        (f"{PAGE}\n\nI hope this helps! Let me know.", PAGE),
        (f"{PAGE}\n\nLet me know if you need more.", PAGE),
        (f"```markdown\n{PAGE}\n```", PAGE),
        ("This is a triangle: it has three sides.", "This is a triangle: it has three sides."),
        ("Here is a proof.\nIt is short.", "Here is a proof.\nIt is short."),
        # The page's own words further down are no frame.
        ("Let x = 1.\nHere is the solution:\nx = 1", "Let x = 1.\nHere is the solution:\nx = 1"),
        ("```\na\n```\nand\n```\nb\n```", "```\na\n```\nand\n```\nb\n```"),
    ],
)
def test_only_the_frame_is_taken_off(reply, text):
    parsed = parse_text(reply, complete=True)
    assert isinstance(parsed, Parsed)
    assert parsed.text == text + "\n"
    assert (parsed.notes == ()) == (reply.strip() == text)


def test_thinking_and_last_tokens_are_no_part_of_the_text():
    parsed = parse_text(f"<think>easy</think>{PAGE}<|eot_id|>", complete=True)
    assert parsed == Parsed(text=PAGE + "\n")


@pytest.mark.parametrize(
    ("reply", "complete", "reason"),
    [
        (PAGE, False, Reason.TRUNCATED),
        ("I cannot help with that.", True, Reason.DECLINED),
        ("", True, Reason.EMPTY_REPLY),
    ],
)
def test_what_cannot_be_used(reply, complete, reason):
    parsed = parse_text(reply, complete=complete)
    assert isinstance(parsed, Unusable)
    assert parsed.reason is reason


def test_a_page_without_a_marked_answer_is_noted():
    for reply, noted in ((PAGE, False), (r"So \boxed{4}.", False), ("It is 4.", True)):
        parsed = parse_solved_page(reply, complete=True)
        assert isinstance(parsed, Parsed)
        assert (Note.NO_FINAL_ANSWER in parsed.notes) == noted


def test_a_structured_page_needs_its_sections_but_the_last():
    whole = "## Problem\nx\n## Approach\ny\n## Solution\n\\boxed{1}\n"
    assert isinstance(parse_structured_page(whole, complete=True), Parsed)
    assert isinstance(parse_structured_page(whole.replace("## ", "### "), complete=True), Parsed)
    for heading in ("Problem", "Approach", "Solution"):
        broken = parse_structured_page(whole.replace(f"## {heading}", "so"), complete=True)
        assert isinstance(broken, Unusable)
        assert broken.reason is Reason.MISSING_SECTION
        assert heading.lower() in broken.detail


def test_a_question_is_one_paragraph_without_its_label():
    for reply in (
        "Write a function that adds.",
        'Question: "Write a function that adds."',
        "**Question:** Write a function that adds.\n\nIt should be short.",
    ):
        parsed = parse_question(reply, complete=True)
        assert isinstance(parsed, Parsed)
        assert parsed.question == "Write a function that adds."
    for reply, reason in (
        ("Why?", Reason.TOO_SHORT),
        ("Why " * MOST_QUESTION_CHARACTERS, Reason.QUESTION_TOO_LONG),
    ):
        bad = parse_question(reply, complete=True)
        assert isinstance(bad, Unusable)
        assert bad.reason is reason


def test_a_label_inside_a_question_is_no_label():
    found = parse_question("How do I parse the line `question: x` in Python?", complete=True)
    assert found.question == "How do I parse the line `question: x` in Python?"


def test_a_stub_is_a_function_with_a_docstring():
    stub = 'def add(a: int, b: int) -> int:\n    """Add.\n\n    >>> add(1, 2)\n    3\n    """'
    parsed = parse_stub(f"```python\n{stub}\n```", complete=True)
    assert isinstance(parsed, Parsed)
    assert parsed.question == stub
    for reply in ("```python\nx = 1\n```", "```python\ndef f():\n    return 1\n```"):
        bad = parse_stub(reply, complete=True)
        assert isinstance(bad, Unusable)
        assert bad.reason is Reason.NOT_A_STUB
