"""TriviaQA's answers: any alias, whatever its case, punctuation and articles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.graders import Verdict, grade_aliases

CORRECT, WRONG, NONE = Verdict.CORRECT, Verdict.WRONG, Verdict.UNGRADABLE


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("The Beatles", CORRECT),
        (" beatles ", CORRECT),
        ("the  BEATLES!", CORRECT),
        ("“Beatles”", CORRECT),
        ("Fab-Four", CORRECT),
        ("fab_four", CORRECT),
        ("a fab four", CORRECT),
        ("an fab four", CORRECT),
        ("ann fab four", WRONG),
        ("Beatle", WRONG),
        ("The Beatles and others", WRONG),
        ("theatre", WRONG),
        ("", NONE),
        ("the", NONE),
        ("?!", NONE),
        ("beatles " * 1000, NONE),
        ("beatles\x00", NONE),
        ("beatles\ud800", NONE),
    ],
)
def test_the_table(text, verdict):
    assert grade_aliases(text, ("The Beatles", "Fab Four")).verdict is verdict


@given(st.text())
def test_an_answer_is_its_own_alias_and_is_already_in_its_normal_form(text):
    grade = grade_aliases(text, (text,))
    assert grade.verdict in (CORRECT, NONE)
    if grade.answer is not None:
        assert grade_aliases(grade.answer, (text,)).answer == grade.answer
