"""Pages lose what surrounds their text, and not a formula of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.corpus.fidelity.math import formulas_in
from isoflop.corpus.rewrite.math_rules import tidy_page

THREAD = """Bessel functions - Mathematics Stack Exchange

Bessel functions

Asked 2018-05-30

12

How to prove $J_0(0) = 1$?

bessel-functions  special-functions

asked 2018-05-30 02:40  user523373

2  Have you tried $x = 0$? - user302797 2018-05-30

1 Answer

3

By the series.

42

answered 2018-05-30 16:08  user23

-1

Thanks! - user523373 2018-05-31"""

SPHINX = "\n\n".join(
    [
        "Waves - SymPy 1.11.1 documentation",
        "Contents",
        "Expand",
        "Toggle table of contents sidebar",
        "- Installation",
        "Toggle child pages in navigation",
        "Toggle table of contents sidebar",
        "Waves#",
        "- A list item that is a sentence.",
        "class TWave(A)[source]#",
        ">>> x = 1",
        "Next",
        "Control Module",
        "Previous",
        "Utilities",
        "Copyright © 2022 SymPy Development Team",
        "Last updated on Nov 02, 2022",
        "On this page",
        "- Waves",
        "- More",
    ]
)

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)

CASES = [
    ("a vote after a date", "T\n\nAsked 2020-01-31\n\n3\n\n$x$ is what?", "T\n\n$x$ is what?"),
    ("a number that is an answer", "T\n\n3\n\n$x$ is what?", "T\n\n3\n\n$x$ is what?"),
    ("a date in a sentence", "It was asked 2020-01-31 by me.", "It was asked 2020-01-31 by me."),
    ("an exercise that says expand", "Expand\n\n$(x+1)^2$", "Expand\n\n$(x+1)^2$"),
    ("contents of a box", "Contents\n\nA box of $3$ balls.", "Contents\n\nA box of $3$ balls."),
    ("contents of a page", "Table of Contents\n\n- One\n\n- Two\n\nText $x$.", "Text $x$."),
    ("a short list", "- one\n- two\n- three\nText.", "- one\n- two\n- three\nText."),
    ("a long list of sentences", "\n".join(f"- Item {n} ends." for n in range(20)), None),
    ("a long list of formulas", "\n".join(f"- $x = {n}$" for n in range(20)), None),
    ("a menu", "\n".join(f"- Page {n}" for n in range(20)) + "\nText.", "Text."),
    ("metadata", "T\n\nText $x$.\n\nTitle\tT\nCanonical name\tT\nOwner\tme", "T\n\nText $x$."),
    ("a table with a title", "Title\tAge\nAnn\t3", "Title\tAge\nAnn\t3"),
    ("a permalink sign", "Sums¶\n\nText.", "Sums\n\nText."),
    ("a hash in music", "Music in C#\n\nText.", "Music in C#\n\nText."),
    (
        "an empty picture",
        'Text.\n\n[image: ]\n\n[image: A circle.]")',
        "Text.\n\n[image: A circle.]",
    ),
    ("targets of links", "Text [a][1].\n\n[1]: http://example.org/a", "Text [a][1]."),
    ("a footer", "Text.\n\nPrivacy policy\nAll rights reserved.\nSign up", "Text."),
    (
        "privacy in a text",
        "Differential privacy policy design.",
        "Differential privacy policy design.",
    ),
    ("a copyright in a long page", "© 2020 A.\n\n" + "Text " * 40, "© 2020 A.\n\n" + "Text " * 40),
    ("a list of primes", "Primes:\n" + "\n".join(f"- {n}" for n in PRIMES) + "\nEnd", None),
    ("a list of results", "\n".join(f"- case {n} gives {n * n} apples" for n in range(12)), None),
    ("a list of powers", "\n".join(f"- term x^{n}" for n in range(12)), None),
    ("a text below a copyright line", "Theorem.\n\n© 2020 A\n\nAnswer: 42\n\n$x=1$", None),
    ("a question below a copyright line", "Text.\n\n© 2020 A\n\nWhich one is prime?", None),
    ("many words below a copyright line", "© 2020 A\n\n" + "Word by word\n" * 9, None),
    (
        "a formula above a copyright line",
        "T.\n\nNext\n\nSo $x=1$\n\n© 2020 A",
        "T.\n\nNext\n\nSo $x=1$",
    ),
    ("a foot with stray words", "Text.\n\n© 2020 A\n\nAbout us\nContact", "Text."),
    (
        "a foot with contents",
        "Text.\n\n© 2020 A\n\nOn this page\n- Using dict=True\n- Why?",
        "Text.",
    ),
    ("metadata that a text interrupts", "T\n\nTitle\tT\nAs $a=b$.\nCanonical name\tT", None),
    ("a text below metadata", "T\n\nTitle\tT\nCanonical name\tT\n\nAs $a=b$.", "T\n\nAs $a=b$."),
    ("fractions in lines", "3\n---\n4\n\n1\n____\n2", None),
    ("a subtraction without its result", "12\n-5\n---", None),
    ("a rule between paragraphs", "Some.\n\n---\n\nMore.\n\n____", "Some.\n\nMore."),
    ("a power in lines", "x\n^\n2", None),
    ("a sign that was left over", "a term\n^\n\nText.", "a term\n\nText."),
    ("a signature after a formula", "Asked 2020-01-31\n\n$a - b$ - user1 2020-02-01", "$a - b$"),
    ("a minus that is no signature", "$a$ - b 2020", "$a$ - b 2020"),
]


@pytest.mark.parametrize(("page", "text"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_hard_cases(page, text):
    assert tidy_page(page)[0].strip() == (page if text is None else text).strip()


def test_a_thread_keeps_question_answer_and_comments():
    text, removed = tidy_page(THREAD)
    assert text == (
        "Bessel functions\n\nHow to prove $J_0(0) = 1$?\n\nHave you tried $x = 0$?\n\n"
        "By the series.\n\n42\n\nThanks!\n"
    )
    assert removed == {
        "answer count": 1, "date": 3, "signature": 2, "site title": 1, "tags": 1, "votes": 3,
    }  # fmt: skip


def test_a_page_of_documentation_keeps_its_body():
    text, removed = tidy_page(SPHINX)
    assert text == "Waves\n\n- A list item that is a sentence.\n\nclass TWave(A)\n\n>>> x = 1\n"
    assert removed == {"markup": 2, "site foot": 9, "site head": 7}


LINES = st.sampled_from(
    [
        *THREAD.split("\n"),
        *SPHINX.split("\n"),
        "$x^2$",
        "\\[y\\]",
        "a $b$ c",
        "Title\tx",
        "Canonical name\tx",
    ]
)


@settings(max_examples=300)
@given(st.lists(LINES, max_size=60))
def test_nothing_is_added_and_no_formula_is_touched(lines):
    page = "\n".join(lines)
    text, removed = tidy_page(page)
    assert not formulas_in(text) - formulas_in(page)
    ahead = iter(page.split("\n"))
    for line in text.split("\n"):
        # Every line is, in order, a line of the page or a part of one.
        assert not line or any(line in other for other in ahead)
    assert all(number > 0 for number in removed.values())


@settings(max_examples=200)
@given(st.text())
def test_any_page_has_a_result_and_a_second_pass_takes_little(page):
    once, _ = tidy_page(page)
    assert len(once) <= len(page) + 1
