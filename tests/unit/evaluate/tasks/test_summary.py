"""Choices by their bits per length: the length is that of the bare choice."""

import json

import pytest

from isoflop.evaluate.tasks.load import load_task
from isoflop.evaluate.tasks.results import TaskItemRow
from isoflop.evaluate.tasks.summary import summarise


def asked(item: str, bits: tuple[float, ...], gold: int) -> TaskItemRow:
    unknown = dict.fromkeys(TaskItemRow.__dataclass_fields__)
    known = {
        "task": "hellaswag", "item": item, "num_shots": 0, "num_cut_shots": 0, "refused": False,
        "bits": bits[gold], "num_answer_tokens": 1, "num_answer_bytes": 1, "joined": False,
        "reference_bits": bits[gold], "reference_tokens": 1, "choice_bits": bits,
        "gold_choice": gold, "parted": True,
    }  # fmt: skip
    return TaskItemRow(**(unknown | known))


@pytest.mark.parametrize(
    ("endings", "by_character", "by_byte"),
    [
        # 2 and 5/3 bits a character; 1 and 5/4 with the space before them.
        (("a", "bbb"), 1.0, 1.0),
        (("aa", "bbb"), 0.0, 0.0),
        (("é", "bbb"), 1.0, 0.0),
    ],
)
def test_the_space_before_a_choice_is_no_part_of_its_length(
    tmp_path, endings, by_character, by_byte
):
    row = {"query": "She", "endings": [*endings, "c", "d"], "label": 1}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    loaded = load_task("hellaswag", data=tmp_path / "rows.jsonl", shots=0)
    (problem,) = loaded.problems
    score = summarise(loaded, [asked(problem.id, (2.0, 5.0, 99.0, 99.0), 1)])
    assert (score.accuracy_per_character, score.accuracy_per_byte) == (by_character, by_byte)
