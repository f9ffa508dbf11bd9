"""Models repeat one character to their limit, pages hold long runs: reading takes linear time."""

import time

import pytest

from isoflop.corpus.fidelity.math import final_answer, formulas_in
from isoflop.corpus.rewrite.math_rules import tidy_page
from isoflop.corpus.rewrite.stages import STAGES

CHARACTERS = 20_000
MOST_GROWTH = 8
"""Of processor time from a quarter of the characters on: linear is 4, quadratic 16."""
SLACK_SECONDS = 0.1

PIECES = (" ", "\n", " \n", "`", "``` ", "~~~\n", "#", "*", "</think>", "<|im_end|>", "$", "\\[",
          "\\begin{a}", "1.", "{#a", "here is the text")  # fmt: skip
AROUND = (("", ""), ("``` x", "x`"), ("Question: a - b", "end"))


def readers():
    for stage in STAGES.values():
        yield stage.name, lambda text, stage=stage: stage.parse(text, complete=True)
    yield from (("tidy_page", tidy_page), ("formulas", formulas_in), ("answer", final_answer))


def seconds(reader, piece, start, end, characters):
    text = start + piece * (characters // len(piece)) + end
    begun = time.process_time()
    reader(text)
    return time.process_time() - begun


@pytest.mark.parametrize("piece", PIECES, ids=repr)
def test_a_long_run_is_read_in_linear_time(piece):
    slow = []
    for start, end in AROUND:
        for name, reader in readers():
            short = seconds(reader, piece, start, end, CHARACTERS // 4)
            long = seconds(reader, piece, start, end, CHARACTERS)
            if long > MOST_GROWTH * short + SLACK_SECONDS:
                slow.append((name, start, end, round(short, 2), round(long, 2)))
    assert not slow
