"""Laws of the map: a changed field moves what lies below it and nothing else."""

import dataclasses
import json
from pathlib import Path

import pytest

from fakes import tiny_experiment
from isoflop.config import UserError, override
from isoflop.evaluate.config import Benchmark
from isoflop.sweep.config import Experiment
from isoflop.sweep.study import StudyMap, map_study, read_study_map, write_study_map
from isoflop.tokens.tokenizer import train_tokenizer


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    return tiny_experiment(tmp_path)


def paths(study: StudyMap) -> dict[str, str]:
    """Every folder of a study under a name that does not depend on digests."""
    stages = [study.tokenizer, *study.corpora, *study.tokens]
    runs = [stage for run in study.runs for stage in (run.train, run.evaluate)]
    return {f"{Path(s.path).parent}/{s.name}": s.path for s in (*stages, *runs)}


def moved(experiment: Experiment, other: Experiment) -> set[str]:
    """Folders that differ between the studies of two experiments."""
    before, after = paths(map_study(experiment)), paths(map_study(other))
    assert set(before) == set(after)
    return {name for name in before if before[name] != after[name]}


TRAIN = {"train/E2-k2-s0", "train/E4-k2-s0"}
EVALUATE = {"evaluate/E2-k2-s0", "evaluate/E4-k2-s0"}
TOKENS = {"tokenizer/tokenizer", "tokens/memory", "tokens/reasoning", "tokens/notes"}
CORPORA = {"corpus/memory", "corpus/reasoning", "corpus/notes"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("summary=another", set()),
        ("evaluate.max_items=3", EVALUATE),
        ("train.peak_learning_rate=2e-2", TRAIN | EVALUATE),
        ("cells.0.model.init_std=0.2", {"train/E2-k2-s0", "evaluate/E2-k2-s0"}),
        ("tokenizer.training_bytes=9", TOKENS | TRAIN | EVALUATE),
        ("corpus.sources.0.num_facts=21", {"corpus/memory"} | TOKENS | TRAIN | EVALUATE),
        ("corpus.seed=1", CORPORA | TOKENS | TRAIN | EVALUATE),
    ],
)
def test_a_changed_field_moves_the_folders_below_it(experiment, change, expected):
    assert moved(experiment, override(experiment, change)) == expected


def test_the_bytes_of_a_users_text_move_everything_made_of_it(experiment):
    before = paths(map_study(experiment))
    text = Path(experiment.corpus.sources[2].path) / "note-03.txt"
    text.write_text(text.read_text() + ".")
    after = paths(map_study(experiment))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"corpus/notes"} | TOKENS | TRAIN | EVALUATE


def test_the_bytes_of_a_benchmark_move_the_scores_alone(experiment, tmp_path):
    data = tmp_path / "gsm8k.jsonl"
    data.write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    asked = Benchmark(task="gsm8k", data=str(data), shots=0)
    evaluate = dataclasses.replace(experiment.evaluate, benchmarks=(asked,))
    changed = dataclasses.replace(experiment, evaluate=evaluate)
    assert moved(experiment, changed) == EVALUATE
    before = paths(map_study(changed))
    data.write_text('{"question": "1+2?", "answer": "#### 3"}\n')
    after = paths(map_study(changed))
    assert {name for name in before if before[name] != after[name]} == EVALUATE
    data.unlink()
    with pytest.raises(UserError, match="cannot read the benchmark"):
        map_study(changed)


def test_a_given_tokenizer_keeps_the_tokens_of_unchanged_sources(experiment, tmp_path):
    path = tmp_path / "tokenizer.json"
    trained = experiment.tokenizer
    train_tokenizer(trained, ["some words and more words"], path)
    given = dataclasses.replace(experiment.tokenizer, path=str(path), pad_to_multiple=288)
    experiment = dataclasses.replace(experiment, tokenizer=given)
    changed = moved(experiment, override(experiment, "corpus.sources.0.num_facts=21"))
    assert changed == {"corpus/memory", "tokens/memory"} | TRAIN | EVALUATE
    before = paths(map_study(experiment))
    train_tokenizer(trained, ["quite other words"], path)
    after = paths(map_study(experiment))
    assert {n for n in before if before[n] != after[n]} == TOKENS | TRAIN | EVALUATE


def test_seeds_add_runs_and_move_none(experiment):
    one, two = (paths(map_study(override(experiment, f"seeds={s}"))) for s in ((0,), (0, 7)))
    assert one.items() <= two.items()
    assert set(two) - set(one) == {
        f"{stage}/{cell}-s7" for stage in ("train", "evaluate") for cell in ("E2-k2", "E4-k2")
    }


def test_the_map_survives_its_file(experiment, tmp_path):
    study = map_study(experiment)
    write_study_map(study, tmp_path)
    assert read_study_map(tmp_path) == study
    assert map_study(read_study_map(tmp_path).experiment) == study


def test_planning_makes_no_folder(experiment, tmp_path):
    before = set(tmp_path.rglob("*"))
    map_study(experiment)
    assert set(tmp_path.rglob("*")) == before


def test_a_folder_without_a_study_is_told(tmp_path):
    with pytest.raises(UserError, match=r"study\.json: no such file: run a study first"):
        read_study_map(tmp_path)


@pytest.mark.parametrize("content", ["{", "\xff", "3", '{"kind": "StudyMap"}'])
def test_a_damaged_map_is_told_with_its_path(tmp_path, content):
    (tmp_path / "study.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"study\.json"):
        read_study_map(tmp_path)


def test_a_map_of_another_version_names_the_field(experiment, tmp_path):
    write_study_map(map_study(experiment), tmp_path)
    data = json.loads((tmp_path / "study.json").read_text())
    data["experiment"]["train"]["momentum"] = 0.9
    (tmp_path / "study.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="TrainConfig has no field 'momentum'"):
        read_study_map(tmp_path)


def test_a_missing_input_is_told_before_anything_runs(experiment):
    with pytest.raises(UserError, match="nowhere"):
        map_study(override(experiment, "corpus.sources.2.path=nowhere"))
