"""The table of hard cases: what counts as the same answer, and what nobody can crash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.corpus.config import ArithmeticProbe, PhoneBookProbe, ShortestPathProbe
from isoflop.corpus.probes.arithmetic import arithmetic
from isoflop.corpus.probes.phone_book import phone_book
from isoflop.corpus.probes.shortest_path import shortest_path
from isoflop.graders import Verdict, final_answer_in, grade, grade_item
from isoflop.records import EvaluationItem

CORRECT, WRONG, UNGRADABLE = Verdict.CORRECT, Verdict.WRONG, Verdict.UNGRADABLE

WHOLE = [
    # generated, gold, verdict
    ("25", "25", CORRECT),
    (" 25\n", "25", CORRECT),
    ("25", " 25 ", CORRECT),
    ("A  B\tC", "A B C", CORRECT),
    ("a\u00a0b", "a b", CORRECT),  # A no-break space is whitespace.
    ("25", "5", WRONG),
    ("5", "25", WRONG),
    ("2 5", "25", WRONG),
    ("025", "25", WRONG),
    ("25.0", "25", WRONG),
    ("+25", "25", WRONG),
    ("-5", "5", WRONG),
    ("25 26", "25", WRONG),
    ("#25", "25", WRONG),
    ("25\x00", "25", UNGRADABLE),
    ("25\ud800", "25", UNGRADABLE),
    ("9" * 1_000_000, "25", UNGRADABLE),
    ("\uff12\uff15", "25", WRONG),  # Full-width digits.
    ("25\ufffd", "25", WRONG),
    ("A b", "A B", WRONG),
    ("", "25", UNGRADABLE),
    (" \n\t", "25", UNGRADABLE),
]

WORKED = [
    ("a=3;b=6;#6", "6", CORRECT),
    ("#6", "6", CORRECT),
    ("a=3;# 6 \n", "6", CORRECT),
    ("#5;wait;#6", "6", CORRECT),  # The last mark counts,
    ("#6;wait;#5", "6", WRONG),  # also against the model.
    ("a=3;b=6;#16", "6", WRONG),
    ("a=3;b=6;#6;", "6", WRONG),
    ("a=3;#66", "6", WRONG),
    ("a=3;b=6;6", "6", UNGRADABLE),
    ("6", "6", UNGRADABLE),
    ("a=3;b=6;#", "6", UNGRADABLE),
    ("a=3;#6#", "6", UNGRADABLE),
    ("a=3;#6# ", "6", UNGRADABLE),
    ("", "6", UNGRADABLE),
]


@pytest.mark.parametrize(("generated", "gold", "verdict"), WHOLE)
def test_whole_answers(generated, gold, verdict):
    assert grade(generated, gold) is verdict


@pytest.mark.parametrize(("generated", "gold", "verdict"), WORKED)
def test_worked_solutions(generated, gold, verdict):
    assert grade(generated, gold, mark="#") is verdict


HOSTILE = [
    "\x00" * 1000,
    "\ud800",
    "#\udfff",
    "9" * 1_000_000,
    "#" + "9" * 1_000_000,
    "#" * 1_000_000,
    " " * 1_000_000,
    "\u202e6\u202c",
    "#1e999999999",
    "__import__('os').abort()",
    "(" * 100_000,
    "\U0010ffff",
]


@pytest.mark.parametrize("mark", [None, "#"])
@pytest.mark.parametrize("generated", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_output_is_never_correct_and_never_crashes(generated, mark):
    assert grade(generated, "6", mark=mark) in (WRONG, UNGRADABLE)


@given(st.text(st.characters(exclude_categories=())))
def test_an_answer_equals_itself_and_any_text_gets_a_verdict(text):
    readable = text.split() and not any(c == "\x00" or "\ud800" <= c <= "\udfff" for c in text)
    assert grade(text, text) is (CORRECT if readable else UNGRADABLE)
    assert grade(text, "6", mark="#") in Verdict


@given(st.text("0123456789 ;#=", max_size=12), st.text("0123456789", min_size=1, max_size=3))
def test_adding_the_right_final_step_makes_any_text_correct(work, gold):
    assert grade(f"{work}#{gold}", gold, mark="#") is CORRECT
    assert grade(f"{work}#{gold}1", gold, mark="#") is WRONG


def item(answer: str, final_answer: str) -> EvaluationItem:
    return EvaluationItem(
        id="i", task="t", split="seen", prompt="p", answer=answer, final_answer=final_answer
    )


def test_the_gold_answer_decides_whether_a_mark_is_asked_for():
    worked, whole = item("a=3;b=6;#6", "6"), item("6", "6")
    assert grade_item("#6", worked) is CORRECT
    assert grade_item("6", worked) is UNGRADABLE
    assert grade_item("6", whole) is CORRECT
    assert grade_item("#6", whole) is WRONG


GOLD = [
    item("a=3;#6", "6"),
    item("417", "417"),
    item(" zon mir", "zon mir"),
    item("C#", "C#"),
    item("#6", "#6"),
    item("a#b#c", "c"),
]


@pytest.mark.parametrize("one", GOLD, ids=lambda one: one.answer)
def test_the_gold_answer_itself_is_graded_correct(one):
    assert grade_item(one.answer, one) is CORRECT


@pytest.mark.parametrize(
    "texts",
    [
        phone_book(PhoneBookProbe(num_facts=40, num_statements=200, num_items=40), 0),
        arithmetic(ArithmeticProbe(num_problems=60, num_items=30), 0),
        shortest_path(ShortestPathProbe(num_problems=60, num_items=30), 0),
    ],
    ids=["phone book", "arithmetic", "shortest path"],
)
def test_gold_answers_of_the_probes_are_correct_and_those_of_other_items_are_told_apart(texts):
    for one in texts.items:
        assert grade_item(one.answer, one) is CORRECT
        for other in texts.items:
            same = other.final_answer.split() == one.final_answer.split()
            assert grade_item(other.answer, one) is (CORRECT if same else WRONG)


def test_ungradable_is_neither_correct_nor_wrong():
    assert [verdict.correct for verdict in (CORRECT, WRONG, UNGRADABLE)] == [True, False, None]
    assert final_answer_in("no mark", "#") is None
