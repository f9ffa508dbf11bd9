"""What a probe makes, and draws that never repeat."""

import random
from collections.abc import Set
from dataclasses import dataclass

from isoflop.records import Document, EvaluationItem

SEEN = "seen"
"""Split of items whose answer the training text states."""

HELD_OUT = "held_out"
"""Split of items that the training text does not state."""


@dataclass(frozen=True, kw_only=True)
class ProbeTexts:
    """All that one probe makes from its config and a seed."""

    train: list[Document]
    validation: list[Document]
    items: list[EvaluationItem]


def draw_distinct(
    total: int, count: int, excluded: Set[int], random_numbers: random.Random
) -> list[int]:
    """`count` different numbers of range(total) outside `excluded`, in random order.

    `excluded` must be a subset of range(total) that leaves at least `count` numbers.
    """
    assert count + len(excluded) <= total
    if 2 * (count + len(excluded)) > total:
        free = [number for number in range(total) if number not in excluded]
        return random_numbers.sample(free, count)
    # Fewer than half are taken: drawing again on a repeat ends soon, however large the total.
    drawn: dict[int, None] = {}
    while len(drawn) < count:
        number = random_numbers.randrange(total)
        if number not in excluded:
            drawn[number] = None
    return list(drawn)


def spread_evenly(count: int, capacities: list[int]) -> list[int]:
    """Split `count` over places as evenly as their capacities allow.

    >>> spread_evenly(11, [2, 9, 9])
    [2, 4, 5]
    """
    assert count <= sum(capacities)
    shares = [0] * len(capacities)
    # From the smallest place on: what it cannot hold is shared among the larger ones.
    by_capacity = sorted(range(len(capacities)), key=lambda place: capacities[place])
    for position, place in enumerate(by_capacity):
        shares[place] = min(capacities[place], count // (len(capacities) - position))
        count -= shares[place]
    return shares
