"""GRPO as a stage of a study: every run, every setting, resumable, one failure stops no other."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from fakes import tiny_experiment, tiny_grpo
from isoflop.analysis.questions.stages import change_by_stage, sampled_curves, stage_settings
from isoflop.analysis.tables.read import read_table
from isoflop.config import UserError, override
from isoflop.evaluate.config import Samples
from isoflop.model.checkpoint import checkpoint_folder
from isoflop.posttrain import loop
from isoflop.posttrain.config import grpo_sweep
from isoflop.posttrain.problems import load_problems
from isoflop.posttrain.rows import GrpoStepRow, RolloutRow
from isoflop.records import ScoreRow, read_rows
from isoflop.sandbox import Sandbox
from isoflop.stage_records import StageRow
from isoflop.sweep.lineage import find_study, open_tokenizer
from isoflop.sweep.mirror import GRPO_FIGURES, _grpo_figures, _validation_figures, open_mirror
from isoflop.sweep.pool import RunProgress
from isoflop.sweep.posttrain import post_train
from isoflop.sweep.progress import run_share
from isoflop.sweep.run import run_study
from isoflop.sweep.stages import item_files
from isoflop.sweep.study import map_study, read_study_map

SAMPLES = Samples(task="probes_held_out", num_samples=4, max_new_tokens=6, max_items=4)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture
def one_thread():
    """As a worker has it: sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def posttrained(finished, tmp_path_factory):
    """The finished study run again with GRPO and samples: its training is used as it is."""
    root = tmp_path_factory.mktemp("posttrained") / "tiny"
    shutil.copytree(finished.root, root)
    evaluate = dataclasses.replace(finished.experiment.evaluate, samples=(SAMPLES,))
    experiment = dataclasses.replace(finished.experiment, grpo=tiny_grpo(), evaluate=evaluate)
    return experiment, root, run_study(experiment, root, num_workers=2)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All that does not tell times, machines or where the folder lies."""
    left_out = ("timings.jsonl", "env.json", ".lock", "rollouts.html", "set_aside.jsonl")
    files = [file for file in folder.rglob("*") if file.is_file() and file.name not in left_out]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_every_run_is_post_trained_with_every_setting(posttrained, finished):
    experiment, root, states = posttrained
    assert [state.state for state in states] == ["done", "done"]
    study = read_study_map(root)
    for run in study.runs:
        assert (root / run.train.path).name in {p.name for p in (finished.root / "train").iterdir()}
        assert [one.number for one in run.grpo] == [0, 1]
        for one in run.grpo:
            steps = (root / one.train.path / "steps.jsonl").read_text().splitlines()
            assert len(steps) == experiment.grpo[one.number].num_steps
            assert (root / one.train.path / "rollouts.html").exists()
            scores = list(read_rows(root / one.evaluate.path / "scores.jsonl", ScoreRow))
            assert {row.tokens for row in scores} == {20 * 8 * 32}
            assert {row.step for row in scores} == {2}
    rows = list(read_rows(root / "stages.jsonl", StageRow))
    assert [row.stage for row in rows] == ["pretrained", "grpo", "grpo"] * 2
    assert {len(row.sampled) for row in rows} == {2 * 3}


def test_the_table_is_one_that_the_analysis_asks(posttrained):
    _, root, _ = posttrained
    table = read_table(root)
    assert len(table.pretrained) == 4
    assert len(table.final) == 2
    settings = stage_settings(table)
    assert [one.label for one in settings] == [
        "on probes_seen-reasoning, learning rate 0.0001",
        "on probes_seen-reasoning, learning rate 0.001",
    ]
    for one in settings:
        assert len(one.table) == 4 + 2
        change = change_by_stage(one.table, "reasoning.held_out.bits_per_byte", one.stage)
        assert (set(change.gains), change.unpaired) == ({"E2-k2", "E4-k2"}, ())
        curves = sampled_curves(one.table, one.stage)
        assert {curve.samples for curve in curves} == {(1, 2, 4)}
    assert len(sampled_curves(table)) == 2 * 2 * 2
    # The file beside the report says the same as the folder.
    assert read_table(root / "table.csv").numbers.keys() == table.numbers.keys()


def test_the_report_shows_before_and_after(posttrained):
    _, root, _ = posttrained
    page = (root / "report.html").read_text()
    assert "Before and after GRPO" in page
    assert "what does grpo change?" in page
    assert "after grpo on probes_seen-reasoning, learning rate 0.001" in page
    assert (root / "figures" / "after-train_loss-reasoning-held_out-accuracy.svg").exists()


def test_without_grpo_the_table_has_no_column_more(finished):
    head = (finished.root / "table.csv").read_text().splitlines()[0]
    assert "stage" not in head.split(",")
    assert "@" not in head


@pytest.mark.parametrize(("name", "at"), [("update", 3), ("save_checkpoint", 2)])
def test_killed_in_grpo_it_ends_with_the_same_bytes(
    posttrained, tmp_path, monkeypatch, one_thread, name, at
):
    _, whole, _ = posttrained
    root = tmp_path / "tiny"
    shutil.copytree(whole, root)
    study = read_study_map(root)
    run = study.runs[1]
    expected = {}
    for stage in (stage for one in run.grpo for stage in (one.train, one.evaluate)):
        expected[stage.path] = bytes_of(root / stage.path)
        shutil.rmtree(root / stage.path)
    original, calls = getattr(loop, name), []

    def killing(*arguments, **options):
        calls.append(name)
        if len(calls) == at:
            raise Killed
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, name, killing)
        with pytest.raises(Killed):
            post_train(study, root, run, lambda *_: None)
    told = []
    post_train(study, root, run, lambda *said: told.append(said))
    assert told[-1] == ("grpo", 4, 4, None)
    for path, known in expected.items():
        now = bytes_of(root / path)
        assert now.keys() == known.keys()
        assert [name for name in known if now[name] != known[name]] == []
    post_train(study, root, run, lambda *_: None)
    assert {path: bytes_of(root / path) for path in expected} == expected


def test_a_failed_setting_is_recorded_and_the_others_go_on(finished, tmp_path):
    root = tmp_path / "tiny"
    shutil.copytree(finished.root, root)
    good, other = tiny_grpo(num_steps=1)
    greedy = dataclasses.replace(other, prompts_per_step=64, mini_batch_prompts=64)
    experiment = dataclasses.replace(
        finished.experiment, grpo=(greedy, good), cells=finished.experiment.cells[:1]
    )
    (state,) = run_study(experiment, root, num_workers=1)
    assert state.state == "failed"
    assert state.reason.startswith("grpo on E2-k2-s0-probes_seen-reasoning-lr0.001: ")
    assert "fewer than prompts_per_step=64" in state.reason
    lines = json.loads((root / "table.json").read_text())
    after = [line for line in lines if line["stage"] == "grpo"]
    assert [line["grpo_learning_rate"] for line in after] == [1e-4]
    assert [line["step"] for line in lines if line["stage"] == "pretrained"] == [10, 20]
    mended = dataclasses.replace(experiment, grpo=(good,))
    assert [state.state for state in run_study(mended, root)] == ["done"]


def test_every_run_is_post_trained_on_each_of_two_training_sets(finished, tmp_path):
    """As the study's figure 12: from the sweep to the table, the folders and the report."""
    root = tmp_path / "tiny"
    shutil.copytree(finished.root, root)
    (settings, _) = tiny_grpo(num_steps=1)
    seen = settings.train
    held_out = dataclasses.replace(seen, task="probes_held_out")
    sweep = grpo_sweep(settings, learning_rates=(1e-4, 1e-3), train=(seen, held_out))
    assert [(one.train, one.learning_rate) for one in sweep] == [
        (source, rate) for source in (seen, held_out) for rate in (1e-4, 1e-3)
    ]
    experiment = dataclasses.replace(finished.experiment, grpo=sweep)
    assert [state.state for state in run_study(experiment, root, num_workers=2)] == ["done"] * 2
    for run in read_study_map(root).runs:
        for planned, config in zip(run.grpo, sweep, strict=True):
            assert f"-{config.train.label}-lr" in planned.train.path
            answers = root / planned.train.path / "answers" / "step-00000001.jsonl"
            asked = {row.problem.split("/")[1] for row in read_rows(answers, RolloutRow)}
            assert asked == {config.train.task.removeprefix("probes_")}
    table = read_table(root)
    assert [one.label for one in stage_settings(table)] == [
        f"on {source}-reasoning, learning rate {rate}"
        for source in ("probes_held_out", "probes_seen")
        for rate in ("0.0001", "0.001")
    ]
    page = (root / "report.html").read_text()
    assert "Before and after GRPO" in page
    assert "probes_seen-reasoning" in page
    assert "probes_held_out-reasoning" in page


def test_a_changed_setting_moves_its_own_folders_alone(tmp_path):
    experiment = tiny_experiment(tmp_path, grpo=tiny_grpo())
    before = map_study(experiment)
    after = map_study(override(experiment, "grpo.1.num_steps=3"))
    for one, two in zip(before.runs, after.runs, strict=True):
        assert (one.train, one.evaluate, one.grpo[0]) == (two.train, two.evaluate, two.grpo[0])
        assert one.grpo[1].train.digest != two.grpo[1].train.digest
        assert one.grpo[1].evaluate.digest != two.grpo[1].evaluate.digest


def test_the_bytes_of_problems_move_grpo(tmp_path):
    data = tmp_path / "gsm8k.jsonl"
    data.write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    source = dataclasses.replace(
        tiny_grpo()[0].train, task="gsm8k", data=str(data), source=None, name="sums"
    )
    experiment = tiny_experiment(tmp_path, grpo=tiny_grpo(train=source))
    before = map_study(experiment)
    data.write_text('{"question": "1+2?", "answer": "#### 3"}\n')
    after = map_study(experiment)
    assert before.runs[0].train == after.runs[0].train
    assert before.runs[0].grpo[0].train.path != after.runs[0].grpo[0].train.path
    assert "-sums-lr0.0001-" in after.runs[0].grpo[0].train.path


def test_a_checkpoint_after_grpo_knows_its_study(posttrained):
    experiment, root, _ = posttrained
    study = read_study_map(root)
    checkpoint = checkpoint_folder(root / study.runs[0].grpo[1].train.path)
    found = find_study(checkpoint)
    assert (found.run, found.step, found.grpo) == (study.runs[0], 2, study.runs[0].grpo[1])
    lineage = found.lineage()
    assert lineage.train_tokens == experiment.train.train_tokens
    assert "GRPO on probes_seen-reasoning, step 2 of 2, learning_rate 0.001" in lineage.posttrained
    assert open_tokenizer(checkpoint, None, None).vocabulary_size <= 288


def refused(tmp_path: Path, match: str, **changes: object) -> None:
    grpo = tiny_grpo()
    changed = [dataclasses.replace(one.train, **changes) for one in grpo]
    with pytest.raises(UserError, match=match):
        tiny_experiment(
            tmp_path,
            grpo=tuple(
                dataclasses.replace(one, train=train)
                for one, train in zip(grpo, changed, strict=True)
            ),
        )


def test_settings_that_cannot_work_are_refused_before_anything_runs(tmp_path):
    refused(tmp_path, "source='notes2'; the corpus has memory, reasoning, notes", source="notes2")
    refused(tmp_path, "grpo on gsm8k needs its file in data=", task="gsm8k", source=None)
    with pytest.raises(UserError, match=r"two of grpo train on .* with learning_rate=0.0001"):
        tiny_experiment(tmp_path, grpo=(tiny_grpo()[0], tiny_grpo(num_steps=3)[0]))
    with pytest.raises(UserError, match="goes with task=probes"):
        dataclasses.replace(tiny_grpo()[0].train, task="gsm8k")
    with pytest.raises(UserError, match="name='a b' must be letters"):
        dataclasses.replace(tiny_grpo()[0].train, name="a b")
    silent = tiny_experiment(tmp_path, grpo=tiny_grpo())
    train = dataclasses.replace(silent.grpo[0].train, source="notes")
    with pytest.raises(UserError, match="no source of the corpus asks such questions"):
        run_study(
            dataclasses.replace(silent, grpo=(dataclasses.replace(silent.grpo[0], train=train),)),
            tmp_path / "out",
        )
    assert not (tmp_path / "out" / "train").exists()


def test_problems_that_are_asked_can_be_left_out_of_training(posttrained):
    _, root, _ = posttrained
    study = read_study_map(root)
    source = dataclasses.replace(tiny_grpo()[0].train, source=None)
    own = item_files(study, root)
    every = load_problems(source, "answer", Sandbox(), own).problems
    few = load_problems(dataclasses.replace(source, skip_problems=6), "answer", Sandbox(), own)
    # Of each task: memory's and reasoning's eight questions without their first six.
    assert few.problems == (*every[6:8], *every[14:16])
    none = dataclasses.replace(source, skip_problems=8)
    with pytest.raises(UserError, match="skip_problems=8 leaves none of 16 problems"):
        load_problems(none, "answer", Sandbox(), own)
    with pytest.raises(UserError, match="another seed makes others"):
        dataclasses.replace(source, task="reasoning_gym:chain_sum", skip_problems=1, max_problems=9)


def test_the_bar_of_a_run_with_grpo_never_goes_back():
    said = [("start", 0, 1), ("train", 5, 10), ("evaluate", 0, 2), ("evaluate", 2, 2)]
    said += [("grpo", 0, 4), ("grpo", 4, 4), ("done", 1, 1)]
    shares = [run_share(RunProgress(0, *one, None), 0.5) for one in said]
    assert shares == sorted(shares)
    assert (shares[0], shares[3], shares[-1]) == (0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"task": "gsm8k"}, "samples of gsm8k need its file in data="),
        ({"num_samples": 1}, "num_samples=1 must be at least 2"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"max_items": 0}, "must be at least 1"),
    ],
)
def test_samples_that_make_no_sense_are_refused(changes, match):
    with pytest.raises(UserError, match=match):
        dataclasses.replace(SAMPLES, **changes)


@pytest.mark.filterwarnings("default")  # Of the tracker's own packages.
def test_a_mirror_shows_every_run_of_grpo_on_a_page_of_its_own(posttrained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, root, _ = posttrained
    study = read_study_map(root)
    mirror = open_mirror("tensorboard", root)
    mirror.poll(study)
    mirror.close()
    for planned in (one for run in study.runs for one in run.grpo):
        shown = EventAccumulator(str(root / "tensorboard" / planned.train.name)).Reload()
        rows = list(read_rows(root / planned.train.path / "steps.jsonl", GrpoStepRow))
        for name, expected in {
            "grpo/reward": [(row.step, row.reward) for row in rows],
            "grpo/gradient_l1_norm": [(row.step, row.gradient_l1_norm) for row in rows],
            "grpo/divergence": [(row.step, row.divergence) for row in rows],
            "router/z_loss": [(row.step, sum(row.z_loss) / len(row.z_loss)) for row in rows],
        }.items():
            found = [(event.step, event.value) for event in shown.Scalars(name)]
            assert [step for step, _ in found] == [step for step, _ in expected]
            assert [v for _, v in found] == pytest.approx([v for _, v in expected], rel=1e-6)


def test_a_divergence_that_is_not_taken_has_no_point():
    told = dict.fromkeys(GRPO_FIGURES, 1.0) | {"divergence": None, "balance_loss": [1.0, 3.0]}
    shown = _grpo_figures(told | {"z_loss": [0.5]})
    assert "grpo/divergence" not in shown
    assert (shown["router/balance_loss"], shown["router/z_loss"]) == (2.0, 0.5)
    greedy = {"source": "gsm8k", "reward": None, "share_ungradable": 0.0, "response_tokens": None}
    assert _validation_figures(greedy) == {"validation/gsm8k/share_ungradable": 0.0}
