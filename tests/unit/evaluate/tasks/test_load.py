"""Tasks: every known layout gives the same problem, shots are never asked, bad rows are counted."""

import json
import os
from pathlib import Path

import pytest

from isoflop.config import UserError
from isoflop.evaluate.tasks.gsm8k import parse_gsm8k, worked_program, worked_steps
from isoflop.evaluate.tasks.hellaswag import parse_hellaswag
from isoflop.evaluate.tasks.load import load_task
from isoflop.evaluate.tasks.names import TASKS, find_task
from isoflop.evaluate.tasks.score import score_texts
from isoflop.evaluate.tasks.triviaqa import parse_triviaqa


def write(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sum_row(first: int, second: int) -> dict[str, str]:
    total = first + second
    text = f"It is {first}+{second} = <<{first}+{second}={total}>>{total}.\n#### {total}"
    return {"question": f"What is {first} plus {second}?", "answer": text}


TEST = [sum_row(1, 2), sum_row(3, 4), sum_row(5, 6)]
TRAIN = [sum_row(10, 20), TEST[1], sum_row(30, 40), sum_row(50, 60), sum_row(70, 80)]


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "test.jsonl", TEST), write(tmp_path / "train.jsonl", TRAIN)


def test_the_papers_prompt_of_gsm8k(files):
    test, train = files
    loaded = load_task("gsm8k", data=test, shots_data=train, shots=1)
    problem = loaded.problems[0]
    assert problem.prompt == (
        "Question: What is 10 plus 20?\nAnswer: It is 10+20 = <<10+20=30>>30.\n#### 30\n\n"
        "Question: What is 1 plus 2?\nAnswer:"
    )
    assert problem.answer == " It is 1+2 = <<1+2=3>>3.\n#### 3"
    assert problem.golds == ("3",)
    assert problem.question == "Question: What is 1 plus 2?\nAnswer:"
    assert load_task("gsm8k", data=test, shots_data=train).num_shots == 4


def test_no_shot_is_asked_whatever_file_it_comes_from(files, tmp_path):
    """The training file holds a test question, in other letters and spaces."""
    test, _ = files
    spelt = {**TEST[1], "question": " WHAT is 3  plus 4? "}
    train = write(tmp_path / "spelt.jsonl", [TRAIN[0], spelt, *TRAIN[2:]])
    for seed in (None, 0, 1, 2):
        loaded = load_task("gsm8k", data=test, shots_data=train, shots_seed=seed)
        asked = {problem.question.casefold() for problem in loaded.problems}
        shots = " ".join(loaded.problems[0].shots).casefold()
        assert len(loaded.problems[0].shots) == 4
        assert not any(text.split("\n")[0] in shots for text in asked)
        assert len({problem.shots for problem in loaded.problems}) == 1
    with pytest.raises(UserError, match="only 4 of 5 rows for shots are not asked"):
        load_task("gsm8k", data=test, shots_data=train, shots=5)
    with pytest.raises(UserError, match="give --shots-data FILE"):
        load_task("gsm8k", data=test)
    assert load_task("gsm8k", data=test, shots=0).problems[0].shots == ()


def test_a_limit_changes_neither_prompts_nor_shots(files):
    test, train = files
    whole = load_task("gsm8k", data=test, shots_data=train, shots=2, shots_seed=3)
    few = load_task("gsm8k", data=test, shots_data=train, shots=2, shots_seed=3, limit=2)
    assert few.problems == whole.problems[:2]
    assert few.data_digest != whole.data_digest


def test_the_seed_of_a_perturbed_question_is_no_shot_either(tmp_path):
    row = {
        "question": "What is 3 plus 5?",
        "solution": "3+5=<<3+5=8>>8",
        "answer": "8",
        "seed_question": TEST[1]["question"],
    }
    unanswerable = {**row, "question": "What is 3 plus?", "answer": "None"}
    data = write(tmp_path / "plus.jsonl", [row, unanswerable])
    train = write(tmp_path / "train.jsonl", TRAIN)
    loaded = load_task("gsm_plus", data=data, shots_data=train, shots=4)
    assert "3 plus 4" not in loaded.problems[0].prompt
    assert loaded.problems[0].answer == " 3+5=<<3+5=8>>8\n#### 8"
    assert loaded.set_aside_counts == {"no answer": 1}
    with pytest.raises(UserError, match="only 4 of 5"):
        load_task("gsm_plus", data=data, shots_data=train)


def test_styles_keep_the_question_and_change_the_answer(files):
    test, train = files
    steps = load_task("gsm8k", data=test, shots_data=train, shots=1, style="chain_of_thought")
    assert steps.problems[0].prompt.endswith("Answer: Let's think step by step.")
    assert steps.problems[0].answer == " It is 1+2 = 3.\nThe answer is 3."
    code = load_task("gsm8k", data=test, shots_data=train, shots=1, style="code")
    assert code.task.scorer == "output"
    assert code.problems[0].answer == "    step_1 = 1+2\n    return step_1"
    with pytest.raises(UserError, match="triviaqa has no style 'code'; it has few_shot"):
        load_task("triviaqa", data=test, style="code")


def test_programs_made_of_solutions_return_their_answers():
    for row in TEST:
        item = worked_program(parse_gsm8k(row))
        names: dict[str, object] = {}
        exec(f"{item.head}{item.answer}", names)
        assert str(names["simple_math_problem"]()) == item.golds[0]  # type: ignore[operator]
    assert "<<" not in worked_steps(parse_gsm8k(TEST[0])).answer


def test_triviaqa_layouts_agree():
    hub = {
        "question": "Who?",
        "question_id": "tc_1",
        "answer": {"aliases": ["Ann", "A."], "value": "Ann"},
    }
    flat = {"question": "Who?", "id": "tc_1", "golden_answers": ["Ann", "A."]}
    assert parse_triviaqa(hub) == parse_triviaqa(flat)
    assert parse_triviaqa(flat).golds == ("Ann", "A.")
    quoted = {**flat, "question": '"Who said ""no""?"'}
    assert parse_triviaqa(quoted).question == 'Who said "no"?'


def test_hellaswag_layouts_agree():
    hub = {
        "ind": 7,
        "activity_label": "Baking",
        "ctx_a": "[header] Bread [title] Mix.",
        "ctx_b": "then SHE",
        "endings": ["waits [substeps] long.", " eats."],
        "label": "1",
    }
    ready = {
        "ind_in_val": 7,
        "query": "Baking:  Bread. Mix. Then she".replace("  ", " "),
        "endings": ["waits long.", "eats."],
        "label": 1,
    }
    found = parse_hellaswag(hub)
    assert found.choices == parse_hellaswag(ready).choices == ("waits long.", "eats.")
    assert found.question == parse_hellaswag(ready).question
    assert found.answer == "eats."


def test_hellaswag_agrees_with_the_harness_on_marks():
    utils = pytest.importorskip("lm_eval.tasks.hellaswag.utils")
    from isoflop.evaluate.tasks.hellaswag import without_marks

    for text in (
        "A [title] b [substeps]  c.",
        " [header] x",
        "[step] [title] y",
        "a  b",
        "x[]y [z",
    ):
        assert without_marks(text) == utils.preprocess(text)


MBPP = {
    "task_id": 11, "text": "a", "code": "def f(): return 1", "test_list": ["assert f() == 1"],
}  # fmt: skip
HUMANEVAL = {
    "task_id": "a", "prompt": "def f():\n", "canonical_solution": "    return 1\n",
    "entry_point": "f", "test": "def check(f): assert f() == 1", "base_input": [[]],
}  # fmt: skip
MBPP_PLUS = {
    "task_id": "Mbpp/11", "prompt": "a", "canonical_solution": "def f(x): return x",
    "entry_point": "f", "assertion": "assert f({1}) == {1}\nassert f({(1,)}) != f({[1]})",
    "base_input": [[[1]]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("gsm8k", {"question": "Why?", "answer": "Because."}, "no final answer"),
        ("gsm8k", {"question": "Why?", "answer": "#### "}, "no final answer"),
        ("gsm8k", {"question": "Why?"}, "no column"),
        ("gsm8k", {"question": 3, "answer": "#### 3"}, "not text"),
        ("gsm8k", {"question": "\ud800", "answer": "#### 3"}, "lone surrogate"),
        ("triviaqa", {"question": "Who?", "golden_answers": []}, "empty list"),
        ("triviaqa", {"question": "Who?", "golden_answers": [" "]}, "empty list"),
        ("hellaswag", {"query": "a", "endings": ["b"], "label": ""}, "no answer"),
        ("hellaswag", {"query": "a", "endings": ["b"], "label": 1}, "no answer"),
        ("hellaswag", {"query": "a", "endings": ["b", "[x] [y]"], "label": 0}, "empty text"),
        ("hellaswag", {"query": "a", "endings": ["b", "c"], "label": "9" * 5000}, "no answer"),
        ("hellaswag", {"query": "a", "endings": ["b", "c"], "label": "\u0661"}, "no answer"),
        ("mbpp", {"task_id": "9" * 5000, "text": "a", "code": "b"}, "another split"),
        ("mbpp", MBPP | {"test_list": ["assert f( =="]}, "not Python"),
        ("mbpp", MBPP | {"test_list": ["-" * 10_000 + "1"]}, "not Python"),
        ("mbpp", MBPP | {"test_setup_code": "", "test_imports": [None]}, "not text"),
        ("humaneval", HUMANEVAL | {"test": "def check(f:"}, "not Python"),
        ("humaneval_plus", HUMANEVAL | {"canonical_solution": "    return ("}, "not Python"),
        ("mbpp_plus", MBPP_PLUS | {"canonical_solution": "def f(x) return"}, "not Python"),
        ("mbpp_plus", MBPP_PLUS | {"assertion": "-" * 10_000 + "1"}, "not Python"),
        ("mbpp_plus", MBPP_PLUS | {"base_input": [[[[1]]]]}, "no set"),
        ("math500", {"problem": "a", "solution": "b"}, "no final answer"),
        ("probes", {"prompt": "a", "answer": "b"}, "no EvaluationItem"),
        ("promptanswer", {"prompt": "a", "answer": ""}, "empty text"),
        ("humaneval", {"task_id": "a", "prompt": "b"}, "no column"),
    ],
)
def test_a_row_that_cannot_be_asked_is_set_aside_with_a_reason(tmp_path, name, row, reason):
    good = {
        "gsm8k": TEST[0],
        "triviaqa": {"question": "Who?", "golden_answers": ["Ann"]},
        "hellaswag": {"query": "a", "endings": ["b", "c"], "label": 1},
        "math500": {"problem": "a", "solution": r"\boxed{\frac{1}{2}}"},
        "probes": {
            "id": "1", "task": "memory", "split": "seen", "prompt": "a", "answer": "b",
            "final_answer": "b",
        },
        "promptanswer": {"prompt": "a", "answer": "b"},
        "humaneval": HUMANEVAL,
        "humaneval_plus": HUMANEVAL,
        "mbpp": MBPP,
        "mbpp_plus": MBPP_PLUS,
    }[name]  # fmt: skip
    loaded = load_task(name, data=write(tmp_path / "a.jsonl", [row, good]), shots=0)
    assert len(loaded.problems) == 1
    assert loaded.set_aside_counts == {reason: 1}
    assert loaded.set_aside[0].where.endswith("a.jsonl:1")
    with pytest.raises(UserError, match=f"holds no problem of {name} .*{reason}"):
        load_task(name, data=write(tmp_path / "b.jsonl", [row]), shots=0)


def test_mbpp_asks_its_test_split_and_takes_the_papers_shots(tmp_path):
    def row(number):
        return {
            "task_id": number, "text": f"Task {number}.", "code": f"def f(): return {number}",
            "test_list": [f"assert f() == {number}"] * 3,
        }  # fmt: skip

    data = write(tmp_path / "mbpp.jsonl", [row(n) for n in (1, 2, 3, 4, 11, 12, 600)])
    loaded = load_task("mbpp", data=data)
    assert [problem.id for problem in loaded.problems] == ["11", "12"]
    assert [text.split("Task ")[1][0] for text in loaded.problems[0].shots] == ["2", "3", "4"]
    assert loaded.problems[0].shots[0].endswith("[BEGIN]\ndef f(): return 2\n[DONE]\n\n")
    plus = {
        "task_id": "Mbpp/2", "prompt": '"""\nAnother wording.\nassert f() == 2\n"""\n',
        "entry_point": "f", "canonical_solution": "def f(): return 2", "base_input": [[]],
        "plus_input": [], "atol": 0, "assertion": "assert f() == 2",
    }  # fmt: skip
    extended = load_task("mbpp_plus", data=write(tmp_path / "p.jsonl", [plus]), shots_data=data)
    shown = [text.split("Task ")[1].split(".")[0] for text in extended.problems[0].shots]
    assert shown == ["3", "4", "1"]


def test_data_of_the_hub_by_name_with_its_own_shots(tmp_path, monkeypatch):
    """A folder of the data set's name in the working directory stands in for the hub."""
    pytest.importorskip("datasets")
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path / "openai" / "gsm8k"
    (folder / "main").mkdir(parents=True)
    for split, rows in (("test", TEST), ("train", TRAIN)):
        path = folder / "main" / f"{split}-00000-of-00001.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n"
        "    path: main/train-*\n  - split: test\n    path: main/test-*\n---\n"
    )
    monkeypatch.chdir(tmp_path)
    by_name = load_task("gsm8k")
    by_folder = load_task("gsm8k", data=folder)
    assert by_name.problems == by_folder.problems
    assert by_name.num_shots == 4
    assert len(by_name.problems) == 3


def test_an_unknown_name_lists_the_tasks():
    with pytest.raises(UserError, match="no task 'gsm9k'; it must be one of gsm8k, gsm_plus"):
        find_task("gsm9k")
    assert all(task.name == name for name, task in TASKS.items())


def benchmark(file: str) -> Path:
    folder = os.environ.get("ISOFLOP_DATA")
    if not folder:
        pytest.skip("ISOFLOP_DATA does not name the folder with the benchmarks' files")
    return Path(folder) / f"{file}.jsonl.gz"


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "file", "problems", "set_aside"),
    [
        ("gsm8k", "gsm8k_test", 1319, 0),
        ("gsm_plus", "gsm_plus_testmini_sample", 420, 60),
        ("triviaqa", "triviaqa_sample", 610, 0),
        ("hellaswag", "hellaswag_val_shared", 4810, 0),
        ("humaneval", "humaneval", 164, 0),
        ("humaneval_plus", "humaneval_plus", 164, 0),
        ("mbpp", "mbpp", 500, 464),
        ("mbpp_plus", "mbpp_plus", 378, 0),
        ("math500", "math500", 500, 0),
        ("promptanswer", "promptanswer_gsm8k_4shot", 1319, 0),
    ],
)
def test_real_files_are_read_whole(name, file, problems, set_aside):
    loaded = load_task(name, data=benchmark(file), shots=0)
    assert (len(loaded.problems), len(loaded.set_aside)) == (problems, set_aside)


@pytest.mark.data
@pytest.mark.parametrize("extraction", ["strict", "flexible"])
@pytest.mark.parametrize(
    ("name", "file", "style"),
    [
        ("gsm8k", "gsm8k_test", "few_shot"),
        ("gsm8k", "gsm8k_test", "chain_of_thought"),
        ("gsm_plus", "gsm_plus_testmini_sample", "few_shot"),
        ("triviaqa", "triviaqa_sample", "few_shot"),
        ("math500", "math500", "few_shot"),
    ],
)
def test_every_gold_answer_is_right(name, file, style, extraction):
    if name == "math500":
        pytest.importorskip("math_verify")
    loaded = load_task(name, data=benchmark(file), style=style, shots=0)
    answers = [(problem, problem.answer) for problem in loaded.problems]
    grades = score_texts(loaded.task, answers, None, extraction=extraction)
    assert all(grade.verdict.correct for grade in grades)
