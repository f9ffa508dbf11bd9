"""Matching, arguments, comparison of values, pages: pure parts of the comparison."""

import ast
import threading
from array import array
from collections import deque
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.corpus.fidelity import Pair, compare_page, summarise, wilson
from isoflop.corpus.fidelity.arguments import CALLS, calls_for
from isoflop.corpus.fidelity.functions import functions_of, match_functions
from isoflop.corpus.fidelity.inside import MARK
from isoflop.corpus.fidelity.kinds import kinds_of
from isoflop.corpus.fidelity.math import final_answer, formulas_in
from isoflop.corpus.fidelity.observations import equal, judge_calls, reports_in
from isoflop.corpus.fidelity.values import Encoding, encode
from isoflop.corpus.rows import TextRow


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner):
        self.inner = inner


@dataclass
class Point:
    x: object


def ring(length):
    first = last = Point(0)
    for number in range(1, length):
        last.x = Point(number)
        last = last.x
    last.x = first
    return first


def nested(depth):
    return [nested(depth - 1)] if depth else []


def functions(source):
    return functions_of(ast.parse(source))


def matched(before, after):
    found = match_functions(functions(before), functions(after))
    return {m.before.name: (m.after and m.after.name, m.how) for m in found}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("def f(a): 1", "def f(b): 2", {"f": ("f", "same name")}),
        ("def isEven(n): 1", "def is_even(n): 1", {"isEven": ("is_even", "same words")}),
        ("def Is_Even(n): 1", "def iseven(n): 1", {"Is_Even": ("iseven", "same words")}),
        ("def f(n, m): 1", "def g(n, m): 1\ndef h(x): 1", {"f": ("g", "same place")}),
        ("def f(n): 1", "def compute(value): 1", {"f": ("compute", "same place")}),
        ("def f(n): 1", "def compute(a, b): 1", {"f": (None, "none")}),
        # Two candidates: a guess would be worse than none.
        ("def f(n): 1", "def g(n): 1\ndef h(n): 1", {"f": (None, "none")}),
        ("def f(n): 1\ndef g(n): 2", "def h(n): 1", {"f": (None, "none"), "g": (None, "none")}),
        # Names go before words, whatever the order.
        (
            "def ab(n): 1\ndef a_b(n): 2",
            "def a_b(n): 1\ndef x_y(m): 1",
            {"a_b": ("a_b", "same name"), "ab": ("x_y", "same place")},
        ),
        ("def f(n): 1\ndef f(n, m): 2", "def f(n): 1", {"f": ("f", "same name")}),
    ],
)
def test_functions_find_their_counterparts(before, after, expected):
    assert matched(before, after) == expected


@settings(max_examples=100)
@given(*[st.lists(st.sampled_from(["f", "F", "g", "g_", "hI", "h_i", "_x"]), max_size=5)] * 2)
def test_no_counterpart_is_taken_twice(before, after):
    sources = [
        "".join(f"def {name}(a): {n}\n" for n, name in enumerate(names))
        for names in (before, after)
    ]
    found = matched(*sources)
    taken = [name for name, _ in found.values() if name is not None]
    assert len(taken) == len(set(taken))
    assert set(found) == set(before)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("def f(x: int): 1", "int"),
        ("def f(x: 'str'): 1", "str"),
        ("def f(x: list[str]): 1", "list[str]"),
        ("def f(x: List[List[int]]): 1", "list[list]"),
        ("def f(x: Optional[dict]): 1", "dict"),
        ("def f(x: int | None = None): 1", "int"),
        ("def f(x=2.5): 1", "float"),
        ("def f(x): return x.upper()", "str"),
        ("def f(x): return x.items()", "dict"),
        ("def f(x): return x % 2", "int"),
        ("def f(x): return x[0][1]", "list[list]"),
        ("def f(x):\n    for y in x: pass", "list[int]"),
        ("def f(x): return int(x)", "digits"),
        ("def f(nums): return nums", "list[int]"),
        ("def f(text): return text", "str"),
        ("def f(n): return n", "int"),
    ],
)
def test_the_likeliest_kind(source, kind):
    (function,) = functions(source)
    assert kinds_of(function, function.parameters[0])[0] == kind


@pytest.mark.parametrize(
    "source",
    [
        "def f(): 1",
        "def f(a, b=1, *more, c, d=2, **rest): 1",
        "def f(a, /, b): 1",
        "def f(x: Any): return 'abc' + str(12345)",
    ],
)
def test_arguments_fit_the_head_are_literals_and_repeat_with_the_seed(source):
    (function,) = functions(source)
    calls = calls_for(function, function, seed=3)
    assert calls == calls_for(function, function, seed=3)
    assert 1 <= len(calls) <= CALLS
    assert len(set(calls)) == len(calls)
    for call in calls:
        given = len(call.positional)
        assert function.required <= given
        assert function.takes_more or given <= function.most
        assert {name for name, _ in call.keywords} == {
            p.name for p in function.parameters if p.by_name and p.default is None
        }
        for literal in (*call.positional, *(value for _, value in call.keywords)):
            assert literal == "set()" or ast.literal_eval(literal) is not NotImplemented


def test_annotations_of_the_function_after_help():
    before, after = (
        functions("def f(thing): return thing")[0],
        functions("def f(thing: str): return thing")[0],
    )
    alone = {type(ast.literal_eval(c.positional[0])) for c in calls_for(before, before, seed=0)}
    helped = [type(ast.literal_eval(c.positional[0])) for c in calls_for(before, after, seed=0)]
    assert int in alone
    assert helped.count(str) > len(helped) / 2


def test_the_code_s_own_constants_are_among_the_arguments():
    (function,) = functions("def f(n):\n    return n == 4321")
    given = {
        literal for call in calls_for(function, function, seed=0) for literal in call.positional
    }
    assert given & {"4320", "4321", "4322"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, False),
        (10**12, 10**12 + 1, False),
        (1e12, 1e12 + 1e-3, True),
        (0, False, False),
        (Fraction(1, 7), Fraction(1, 9), False),
        (Fraction(1, 7), Fraction(2, 14), True),
        (Decimal("1.0"), Decimal("2.0"), False),
        (date(2000, 1, 1), date(2001, 1, 1), False),
        (timedelta(days=1), timedelta(hours=24), True),
        (range(3), range(4), False),
        (deque([1]), deque([1, 3]), False),
        (UUID(int=1), UUID(int=2), False),
        (PurePosixPath("a"), PurePosixPath("b"), False),
        (array("i", [1]), array("i", [2]), False),
        ({1: 2}.values(), {1: 3}.values(), False),
        (list(range(300)), [*range(299), 0], False),
        (Point(1), Point(2), False),
        (Point(1), Point(1), True),
        (Slotted(1), Slotted(2), False),
        (Slotted(1), Slotted(1), True),
        (ring(3), ring(3), True),
        (ring(3), ring(4), False),
        (int, str, False),
        (0.1 + 0.2, 0.3, True),
        (float("nan"), float("nan"), True),
        (float("inf"), float("inf"), True),
        (0.1, 0.2, False),
        (1, True, False),
        ("1", 1, False),
        ([1], (1,), False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({1, 2}, {2, 1}, True),
        (2**80, 2**80 + 1, False),
        (None, 0, False),
        (b"a", "a", False),
        ([1, 2], [1], False),
    ],
)
def test_encoded_values_are_equal_as_the_values_are(one, other, same):
    assert equal(encode(one), encode(other)) is same


@pytest.mark.parametrize("value", [lambda x: x, [threading.Lock()], Point(nested), nested(100)])
def test_what_has_no_value_to_compare_is_told(value):
    encoding = Encoding()
    encoding.of(value)
    assert encoding.opaque


def test_shared_parts_are_looked_at_within_bounds():
    value = []
    for _ in range(39):
        value = [value, value]
    encoding = Encoding()
    encoding.of(value)
    assert encoding.opaque


def seen(value=1, raised=None, printed="", time_up=False, absent=False, **more):
    return {"value": ["int", value], "raised": raised, "printed": printed, "time_up": time_up,
            "absent": absent, "arguments": None, "errors": "", "opaque": False, **more}  # fmt: skip


def test_what_is_opaque_says_only_where_it_differs():
    opaque = seen(opaque=True)
    judged = judge_calls(["f()"], [opaque], [opaque], [opaque])
    assert (judged.verdict, judged.reason) == ("not comparable", "opaque result")
    assert judge_calls(["f()"], [opaque], [opaque], [seen(2)]).verdict == "different"


@pytest.mark.parametrize(("key", "kind"), [("errors", "error output"), ("globals", "globals")])
def test_chance_beside_the_result_hides_no_result(key, kind):
    first, again, after = seen(**{key: "1"}), seen(**{key: "2"}), seen(**{key: "3"})
    assert judge_calls(["f()"], [first], [again], [after]).verdict == "same"
    assert judge_calls(["f()"], [first], [first], [after]).differs_in == (kind,)


def test_a_call_of_the_wrong_kind_compares_nothing():
    wrong = seen(raised="TypeError")
    judged = judge_calls(["f()", "f(1)"], [wrong, seen()], [wrong, seen()], [seen(2), seen()])
    assert (judged.verdict, judged.calls, judged.compared) == ("same", 2, 1)


def test_chance_in_one_call_makes_the_function_not_comparable():
    judged = judge_calls(["f()"] * 2, [seen(1), seen(1)], [seen(2), seen(1)], [seen(5), seen(1)])
    assert (judged.verdict, judged.reason) == ("not comparable", "not deterministic")


def test_reports_are_found_among_what_a_program_prints():
    stdout = f'x{MARK}{{"call": 0}}\nnoise\n{MARK}{{"call": 1\n{MARK}{{"call": 2}}\n'
    assert reports_in(stdout) == {0: {"call": 0}, 2: {"call": 2}}


@given(st.integers(0, 200), st.integers(0, 200))
def test_wilson_s_interval_holds_the_share_and_shrinks(successes, more):
    trials = successes + more
    rate = wilson(successes, trials)
    if not trials:
        assert (rate.share, rate.low, rate.high) == (None, None, None)
        return
    assert 0 <= rate.low <= rate.share <= rate.high <= 1
    tenfold = wilson(10 * successes, 10 * trials)
    assert tenfold.high - tenfold.low < rate.high - rate.low


def page(before, after):
    rows = [TextRow(id=str(n), text=text, where="a") for n, text in enumerate((before, after))]
    return compare_page(Pair(before=rows[0], after=rows[1]))


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ("#### 820", "So \\boxed{820}.", "same"),
        ("#### 1,234", "#### 1234", "same"),
        ("The answer is 5.", "#### 6", "different"),
        (r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", "same"),
        (r"\boxed{x+1}", r"\boxed{1+x}", "same"),
        (r"\boxed{x+1}", r"\boxed{x-1}", "different"),
        ("#### Verbal", "#### 3", "not comparable"),
        ("The answer is: yes, by induction.", "#### 3", "not comparable"),
        ("#### 3", "no answer", "not comparable"),
        ("#### 6.2: Using the Normal Distribution", "#### 6.2", "not comparable"),
    ],
)
def test_final_answers_are_compared_by_the_graders(before, after, verdict):
    assert page(before, after).verdict == verdict


def test_the_last_box_counts_with_its_inner_braces():
    assert final_answer(r"\boxed{1} then \boxed{\frac{1}{\sqrt{2}}} end") == r"\frac{1}{\sqrt{2}}"
    assert final_answer(r"\boxed{1") is None


def test_lost_formulas_are_counted():
    text = r"$a$ and $$b$$ and \(c\) and \[d\] and \begin{align}e\end{align} and $a$"
    assert sum(formulas_in(text).values()) == 6
    found = page(text, r"$a$ and \[ d \]")
    assert (found.formulas, found.formulas_lost) == (6, 3)
    assert page(text, text).formulas_lost == 0


def test_nothing_to_compare_is_no_share():
    summary = summarise([])
    assert (summary.texts.kept.share, summary.formulas, summary.missing_functions) == (None, 0, 0)
