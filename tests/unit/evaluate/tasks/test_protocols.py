"""Every task is asked as its source says: shots, stop texts, length of the answer, version."""

import pytest

from isoflop.evaluate.tasks.code import parse_mbpp_plus
from isoflop.evaluate.tasks.names import TASKS

CODE_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")

PROTOCOLS = {
    # shots, stop texts, most new tokens, version
    "gsm8k": (4, ("Question:",), 256, 3),
    "gsm_plus": (5, ("Question:",), 256, 3),
    "triviaqa": (4, ("\n", ".", ","), 256, 1),
    "hellaswag": (4, (), 1, 1),
    "humaneval": (0, CODE_STOPS, 1024, 2),
    "humaneval_plus": (0, CODE_STOPS, 1024, 2),
    "mbpp": (3, ("[DONE]",), 256, 2),
    "mbpp_plus": (3, ("[DONE]",), 256, 2),
    "math500": (4, ("Problem:",), 1024, 3),
    "probes": (0, (), 64, 1),
    "probes_seen": (0, (), 64, 1),
    "probes_held_out": (0, (), 64, 1),
    "promptanswer": (0, (), 1, 1),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_asked_as_its_source_says(name):
    task = TASKS[name]
    sampling = task.sampling
    found = (task.num_shots, sampling.stop, sampling.max_new_tokens, task.version)
    assert found == PROTOCOLS[name]
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.0, 1.0, None)


def test_mbpp_plus_asks_with_the_sentence_alone_of_its_docstring():
    row = {
        "task_id": "Mbpp/2",
        "prompt": '"""\nWrite a function to add.\nassert add(1, 2) == 3\n"""\n',
        "assertion": "assert add(1, 2) == 3\nassert add(0, 0) == 0",
        "canonical_solution": "def add(a, b): return a + b",
        "entry_point": "add",
        "base_input": [[1, 2]],
        "plus_input": [],
        "atol": 0,
    }
    assert parse_mbpp_plus(row).question == (
        "Write a function to add. Your code should pass these tests:\n\n"
        "assert add(1, 2) == 3\nassert add(0, 0) == 0"
    )
