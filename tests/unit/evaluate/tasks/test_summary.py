"""Choices by their bits per length: the length is that of the bare choice."""

from types import SimpleNamespace

import pytest

from isoflop.evaluate.tasks.summary import _by_length


@pytest.mark.parametrize(
    ("choices", "length", "right"),
    [
        ((" a", " bbb"), len, True),  # 2 and 5/3 bits a character; 1 and 5/4 with the spaces.
        (("a", "bbb"), len, True),
        ((" aa", " bbb"), len, False),
        ((" éé", " bbb"), lambda text: len(text.encode()), False),
        ((" é", " bbbbbbb"), lambda text: len(text.encode()), True),
    ],
)
def test_the_space_before_a_choice_is_no_part_of_its_length(choices, length, right):
    loaded = SimpleNamespace(problems=[SimpleNamespace(id="1", choices=choices)])
    row = SimpleNamespace(item="1", choice_bits=(2.0, 5.0), gold_choice=1)
    assert _by_length(loaded, [row], length) == [right]
