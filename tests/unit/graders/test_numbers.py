"""Numbers are read exactly, however they are written; what is no one number is none."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.graders.numbers import canonical_number, number_text, numbers_in

ONE_NUMBER = [
    ("18", "18"),
    (" 18 ", "18"),
    ("18.", "18"),
    ("18.0", "18"),
    ("18.50", "37/2"),
    (".5", "1/2"),
    ("0.1", "1/10"),
    ("007", "7"),
    ("+5", "5"),
    ("-5", "-5"),
    ("- 5", "-5"),
    ("\u22125", "-5"),
    ("\u20135", "-5"),
    ("-0", "0"),
    ("$18", "18"),
    ("-$18", "-18"),
    ("$-18", "-18"),
    ("\\$18", "18"),
    ("$ 18.00", "18"),
    ("€1,234", "1234"),
    ("£.75", "3/4"),
    ("¥1000", "1000"),
    ("₹12,34,567", "1234567"),
    ("1,234", "1234"),
    ("1,234,567.89", "123456789/100"),
    ("1,234.0", "1234"),
    ("12\u202f345", "12345"),
    ("1\u00a0234", "1234"),
    ("10{,}000", "10000"),
    ("10\\,000", "10000"),
    ("50%", "50"),
    ("50 %", "50"),
    ("12.5 percent", "25/2"),
    ("18 dollars", "18"),
    ("18 eggs a day.", "18"),
    ("3/4", "3/4"),
    ("6/8", "3/4"),
    ("-3/4", "-3/4"),
    ("3 / 4", "3/4"),
    ("2 1/2", "5/2"),
    ("-2 1/2", "-5/2"),
    ("\\frac{3}{4}", "3/4"),
    ("\\dfrac{3}{4}", "3/4"),
    ("2\\frac{1}{2}", "5/2"),
    ("\\frac12", "1/2"),
    ("2\\dfrac 34", "11/4"),
    ("\u00bd", "1/2"),
    ("1\u00bd", "3/2"),
    ("-2\u00be cups", "-11/4"),
    ("\uff11\uff12.\uff15", "25/2"),
    ("1e3", "1000"),
    ("1.5E-1", "3/20"),
    ("**18**", "18"),
    ("(18)", "18"),
    ("x = 18", "18"),
]

NOT_ONE = [
    "",
    "none",
    "eighteen",
    "1 2",
    "5-3",
    "3 to 4",
    "12:30",
    "v18",
    "1/0",
    "1e999999999",
    "1" * 401,
    "0.5.5.5",
]


@pytest.mark.parametrize(("text", "value"), ONE_NUMBER)
def test_one_number_is_read(text, value):
    found = canonical_number(text)
    assert found is not None
    assert number_text(found) == value


@pytest.mark.parametrize("text", NOT_ONE)
def test_what_is_no_one_number_is_none(text):
    assert canonical_number(text) is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("16-3=13", [16, 3, 13]),
        ("16 - 3", [16, -3]),
        ("1,2", [2]),
        ("1,2,345", [345]),
        ("1234,567", [567]),
        ("1,234,56", [56]),
        ("3, 4 and 5", [3, 4, 5]),
        ("-1, -2", [-1, -2]),
        ("half of 3/4 is 3/8", [Fraction(3, 4), Fraction(3, 8)]),
        ("pre-18", [18]),
    ],
)
def test_numbers_stand_apart(text, values):
    assert list(numbers_in(text)) == values


@given(st.integers(-(10**30), 10**30))
def test_grouping_changes_no_number(number):
    assert canonical_number(f"{number:,}") == canonical_number(str(number)) == number


@given(st.fractions(max_denominator=10**6))
def test_the_one_spelling_is_read_as_itself(value):
    assert canonical_number(number_text(value)) == value


@given(st.text() | st.text(alphabet="0123456789,./-+eE$ %\u2212\\{}frac\x00\ud800"))
def test_any_text_is_read_without_an_error(text):
    for value in numbers_in(text):
        assert isinstance(value, Fraction)
