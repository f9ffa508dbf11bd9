"""A run of GRPO: rows that add up, a kill that costs nothing, and learning where there is a signal."""

import dataclasses
import shutil

import pytest
import torch

from isoflop.config import UserError
from isoflop.model.checkpoint import load_checkpoint, save_checkpoint
from isoflop.model.transformer import Transformer
from isoflop.posttrain import loop, rollouts
from isoflop.posttrain.left_out import left_out_lines
from isoflop.posttrain.loop import GrpoRun, train_grpo
from isoflop.posttrain.rows import GrpoStepRow, GrpoValidationRow, LeftOutRow, RolloutRow
from isoflop.records import SetAside, read_rows
from isoflop.train.state import forget_state

DIGITS = "0123456789"


def run(checkpoint, tokenizer, config, problems, **changes) -> GrpoRun:
    fields = {
        "checkpoint": checkpoint,
        "tokenizer": tokenizer,
        "config": config,
        "train": problems,
        "validation": (problems,),
        "digest": "d",
    }
    return GrpoRun(**(fields | changes))


def trained(folder, *given, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    train_grpo(run(*given, **changes), folder, lambda done, total, reward: None)
    forget_state(folder)
    return folder


def same(one, other) -> None:
    """All that does not tell times is the same bytes."""
    names = ["steps.jsonl", "validation.jsonl", "left_out.jsonl"]
    names += [str(path.relative_to(one)) for path in sorted(one.rglob("step-*.jsonl"))]
    names += [str(path.relative_to(one)) for path in sorted(one.rglob("*.safetensors"))]
    assert len(names) > 6
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_rows_tell_what_was_sampled_and_learned(
    checkpoint, tokenizer, make_config, problems, tmp_path
):
    folder = trained(tmp_path / "run", checkpoint, tokenizer, make_config(), problems)
    steps = list(read_rows(folder / "steps.jsonl", GrpoStepRow))
    assert [row.step for row in steps] == [1, 2, 3]
    for row in steps:
        answers = list(read_rows(folder / "answers" / f"step-{row.step:08d}.jsonl", RolloutRow))
        assert len(answers) == row.num_answers == 12
        assert row.reward == pytest.approx(sum(one.reward for one in answers) / 12)
        lengths = [len(one.response_tokens) for one in answers]
        assert row.response_tokens == pytest.approx(sum(lengths) / 12)
        assert max(lengths) <= 5
        for one in answers:
            ended = one.response_tokens[-1] == tokenizer.end_of_text_id
            assert ended == (one.finish == "end_of_text")
        assert row.update_l2_norm > 0
        assert row.largest_ratio_deviation == 0.0
        assert 0.0 < row.largest_sampler_deviation < 1e-4
        assert row.balance_loss > (0.9, 0.9)
    assert steps[0].divergence < steps[-1].divergence
    validation = list(read_rows(folder / "validation.jsonl", GrpoValidationRow))
    assert [row.step for row in validation] == [0, 2, 3]
    assert {row.num_problems for row in validation} == {12}
    after = load_checkpoint(folder / "checkpoints" / "step-00000003")
    before = load_checkpoint(checkpoint)
    changed = [
        not torch.equal(one, two)
        for one, two in zip(before.parameters(), after.parameters(), strict=True)
    ]
    assert all(changed)
    assert not (folder / "rollouts").exists()


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


KILLS = [
    ("isoflop.posttrain.rollouts", "_rewarded", 2),
    ("isoflop.posttrain.rollouts", "_rewarded", 5),
    ("isoflop.posttrain.loop", "update", 3),
    ("isoflop.posttrain.loop", "save_checkpoint", 1),
    ("isoflop.posttrain.loop", "_validate", 2),
    ("isoflop.posttrain.loop", "append_row", 4),
]


@pytest.mark.parametrize(("module", "name", "at"), KILLS)
@pytest.mark.parametrize("saved_each_step", [True, False])
def test_killed_anywhere_it_ends_with_the_same_rows(
    checkpoint, tokenizer, make_config, problems, tmp_path, monkeypatch, module, name, at,
    saved_each_step,
):  # fmt: skip
    """Rollouts in flight included: parts that are there are not sampled again."""
    if saved_each_step:
        monkeypatch.setattr(loop, "RESUME_SECONDS", 0.0)
    config = make_config(replay_routing=True, router_drift=0.3)
    whole = trained(tmp_path / "whole", checkpoint, tokenizer, config, problems)
    owner = {"isoflop.posttrain.rollouts": rollouts, "isoflop.posttrain.loop": loop}[module]
    original, calls = getattr(owner, name), []

    def killing(*arguments, **options):
        calls.append(name)
        if len(calls) == at:
            raise Killed
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing)
        with pytest.raises(Killed):
            trained(tmp_path / "cut", checkpoint, tokenizer, config, problems)
    trained(tmp_path / "cut", checkpoint, tokenizer, config, problems)
    same(whole, tmp_path / "cut")


def test_parts_in_flight_are_read_and_not_made_again(
    checkpoint, tokenizer, make_config, problems, tmp_path, monkeypatch
):
    made = []
    original = rollouts._sample

    def counted(*arguments):
        made.append(arguments[-1])
        if len(made) == 2:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(rollouts, "_sample", counted)
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        trained(folder, checkpoint, tokenizer, make_config(), problems)
    made.append("resumed")
    trained(folder, checkpoint, tokenizer, make_config(), problems)
    # Two parts a step: the first of step 1 was there.
    assert made == [1, 1, "resumed", 1, 2, 2, 3, 3]


def test_it_learns_what_is_rewarded_and_not_from_chance(
    checkpoint, tokenizer, make_config, problems, tmp_path
):
    """Rewarded for digits it comes to write digits; by a coin it does not."""

    def digits(answers):
        from isoflop.posttrain.rewards import Reward

        return [
            Reward(value=sum(c in DIGITS for c in text) / 5, gradable=True) for _, text in answers
        ]

    def coin(answers):
        from isoflop.posttrain.rewards import Reward

        source = torch.Generator().manual_seed(len(answers))
        return [
            Reward(value=float(torch.rand((), generator=source) < 0.5), gradable=True)
            for _ in answers
        ]

    config = make_config(
        num_steps=15,
        prompts_per_step=12,
        mini_batch_prompts=12,
        samples_per_prompt=8,
        micro_batch_answers=96,
        batch_sequences=96,
        learning_rate=1e-2,
        validation_steps=15,
    )
    ends = {}
    for name, rewards in (("digits", digits), ("coin", coin)):
        judged = dataclasses.replace(problems, rewards=digits)
        taught = dataclasses.replace(problems, rewards=rewards)
        folder = trained(
            tmp_path / name, checkpoint, tokenizer, config, taught, validation=(judged,)
        )
        rows = list(read_rows(folder / "validation.jsonl", GrpoValidationRow))
        ends[name] = rows[0].reward, rows[-1].reward
    assert ends["digits"][1] > 0.8 > 0.3 > ends["digits"][0]
    assert ends["coin"][1] < 0.3


def test_prompts_too_long_are_left_out_and_counted(
    checkpoint, tokenizer, make_config, problems, tmp_path
):
    long = dataclasses.replace(problems.problems[0], id="long", prompt="9" * 40)
    torn = SetAside(where="items.jsonl:3", reason="not JSON", detail="Expecting value")
    more = dataclasses.replace(problems, problems=(*problems.problems, long), set_aside=(torn,))
    folder = trained(tmp_path / "run", checkpoint, tokenizer, make_config(), more)
    (validation, *_) = read_rows(folder / "validation.jsonl", GrpoValidationRow)
    assert (validation.num_problems, validation.num_left_out) == (12, 1)
    assert validation.num_set_aside == 1
    left_out = list(read_rows(folder / "left_out.jsonl", LeftOutRow))
    assert [(row.split, row.problem, row.reason) for row in left_out] == [
        ("train", "long", "prompt too long"),
        ("train", "items.jsonl:3", "not JSON"),
        ("validation", "long", "prompt too long"),
        ("validation", "items.jsonl:3", "not JSON"),
    ]
    # 40 bytes and the end of text before them, in a model of 24 tokens.
    assert (left_out[0].prompt_tokens, left_out[0].most_tokens) == (41, 23)
    assert left_out_lines(left_out) == [
        "left out of digits, train: 1 not JSON, 1 prompt too long",
        "left out of digits, validation: 1 not JSON, 1 prompt too long",
    ]


def test_a_reward_that_is_missing_stops_the_run_and_it_goes_on_when_mended(
    checkpoint, tokenizer, make_config, problems, tmp_path
):
    whole = trained(tmp_path / "whole", checkpoint, tokenizer, make_config(), problems)

    def broken(answers):
        raise UserError("the reward of problem '3' is nan")

    broken_set = dataclasses.replace(problems, rewards=broken)
    with pytest.raises(UserError, match="is nan"):
        trained(tmp_path / "cut", checkpoint, tokenizer, make_config(), broken_set)
    trained(tmp_path / "cut", checkpoint, tokenizer, make_config(), problems)
    same(whole, tmp_path / "cut")


def test_a_reward_mended_between_runs_grades_the_whole_step(
    checkpoint, tokenizer, make_config, problems, tmp_path
):
    """Parts that the broken version graded before it failed do not keep its rewards."""
    whole = trained(tmp_path / "whole", checkpoint, tokenizer, make_config(), problems)
    calls = []

    def broken(answers):
        calls.append(len(answers))
        if len(calls) == 2:
            raise UserError("the reward is broken")
        return [
            dataclasses.replace(one, value=1.0 - one.value) for one in problems.rewards(answers)
        ]

    folder = tmp_path / "cut"
    # Validation is graded before the first step, here by the mended version alone.
    with pytest.raises(UserError, match="broken"):
        trained(
            folder, checkpoint, tokenizer, make_config(),
            dataclasses.replace(problems, rewards=broken), validation=(problems,),
        )  # fmt: skip
    assert list((folder / "rollouts").glob("step-*-part-*.jsonl"))
    trained(folder, checkpoint, tokenizer, make_config(), problems)
    same(whole, folder)


def test_problems_that_share_an_id_are_graded_each_by_its_own(
    checkpoint, tokenizer, make_config, problems, tmp_path, monkeypatch
):
    """Also where a part is read again: by its place, not by its name."""
    twins = tuple(dataclasses.replace(one, id="same") for one in problems.problems)

    def by_problem(answers):
        from isoflop.posttrain.rewards import Reward

        return [
            Reward(value=len(text) + float(one.prompt[:2]), gradable=True) for one, text in answers
        ]

    given = (checkpoint, tokenizer, make_config())
    twin_set = dataclasses.replace(problems, problems=twins, rewards=by_problem)
    whole = trained(tmp_path / "whole", *given, twin_set)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "score", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            trained(tmp_path / "cut", *given, twin_set)
    trained(tmp_path / "cut", *given, twin_set)
    same(whole, tmp_path / "cut")


@pytest.mark.parametrize("harm", ["a row fewer", "another problem", "cut short", "no record"])
def test_a_part_that_is_not_whole_is_named_and_can_be_deleted(
    checkpoint, tokenizer, make_config, problems, tmp_path, monkeypatch, harm
):
    given = (checkpoint, tokenizer, make_config(), problems)
    whole = trained(tmp_path / "whole", *given)
    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "score", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            trained(folder, *given)
    part = folder / "rollouts" / "step-00000001-part-00000000.jsonl"
    lines = part.read_text().splitlines(keepends=True)
    if harm == "a row fewer":
        part.write_text("".join(lines[:-1]))
    elif harm == "another problem":
        part.write_text("".join(lines[3:] + lines[:3]))
    elif harm == "cut short":
        part.write_text("".join(lines)[:-20])
    else:
        part.with_suffix(".npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"delete .*rollouts and run again"):
        trained(folder, *given)
    shutil.rmtree(folder / "rollouts")
    trained(folder, *given)
    same(whole, folder)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_says_what_to_lower_and_loses_no_part(
    checkpoint, tokenizer, make_config, problems, tmp_path, monkeypatch, error
):
    given = (checkpoint, tokenizer, make_config(), problems)
    whole = trained(tmp_path / "whole", *given)
    original, calls = rollouts._sample, []

    def sample(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise error
        return original(*arguments)

    monkeypatch.setattr(rollouts, "_sample", sample)
    with pytest.raises(UserError, match=r"lower micro_batch_answers=4, batch_sequences=6 or max_"):
        trained(tmp_path / "cut", *given)
    trained(tmp_path / "cut", *given)
    same(whole, tmp_path / "cut")
    # Seven calls: two parts in each of three steps, one of them twice.
    assert len(calls) == 7


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_a_truncated_state_is_told_in_one_line(
    checkpoint, tokenizer, make_config, problems, tmp_path, monkeypatch, keep
):
    monkeypatch.setattr(loop, "RESUME_SECONDS", 0.0)
    given = (checkpoint, tokenizer, make_config(), problems)
    whole = trained(tmp_path / "whole", *given)
    folder = tmp_path / "cut"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "finish_rows", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            trained(folder, *given)
    state = folder / "resume.safetensors"
    state.write_bytes(state.read_bytes()[: int(keep * state.stat().st_size)])
    with pytest.raises(UserError, match=r"resume\.safetensors: not a whole safetensors file"):
        trained(folder, *given)
    state.unlink()
    trained(folder, *given)
    same(whole, folder)


def test_what_does_not_fit_together_is_refused(
    checkpoint, tokenizer, make_config, problems, shape, tmp_path
):
    asked = (checkpoint, tokenizer)
    with pytest.raises(UserError, match="12 problems are fewer than prompts_per_step=16"):
        trained(
            tmp_path / "a", *asked, make_config(prompts_per_step=16, mini_batch_prompts=8), problems
        )
    small = Transformer(dataclasses.replace(shape, vocabulary_size=200))
    save_checkpoint(small, tmp_path / "small")
    with pytest.raises(UserError, match="has 257 tokens but the model 200"):
        trained(tmp_path / "b", tmp_path / "small", tokenizer, make_config(), problems)
    empty = dataclasses.replace(
        problems, problems=(dataclasses.replace(problems.problems[0], prompt=""),)
    )
    with pytest.raises(UserError, match="has an empty prompt"):
        trained(tmp_path / "c", *asked, make_config(context_start="nothing"), empty)
    with pytest.raises(UserError, match="all 12 prompts are longer than 2 tokens"):
        trained(tmp_path / "d", *asked, make_config(max_prompt_tokens=2), problems)
    folder = trained(tmp_path / "e", *asked, make_config(), problems)
    shutil.rmtree(folder / "answers")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mini_batch_prompts": 3}, "prompts_per_step=4 must be a multiple"),
        ({"samples_per_prompt": 1}, "gives every answer the advantage 0"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"clip_low": 1.0}, "clip_low=1.0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
        ({"max_gradient_l1_norm": 0.0}, "max_gradient_l1_norm=0.0"),
        ({"router_drift": -1.0}, "router_drift=-1.0"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"checkpoint_steps": 0}, "checkpoint_steps=0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make_config, changes, message):
    with pytest.raises(UserError, match=message):
        make_config(**changes)


def test_defaults_are_the_studys():
    from isoflop.posttrain.config import GrpoConfig, ProblemSource

    config = GrpoConfig(train=ProblemSource(task="gsm8k"))
    assert (config.prompts_per_step, config.samples_per_prompt, config.updates_per_step) == (
        1024,
        5,
        4,
    )
    assert (config.learning_rate, config.divergence_coefficient, config.num_steps) == (
        5e-6,
        1e-3,
        105,
    )
    assert config.max_gradient_l1_norm is None
    assert (config.clip_low, config.clip_high, config.temperature, config.top_p) == (0.2, 0.2, 1, 1)
    assert (config.beta1, config.beta2, config.epsilon, config.weight_decay) == (
        0.9,
        0.999,
        1e-8,
        0.01,
    )
    assert (config.max_gradient_norm, config.validation_steps) == (1.0, 5)
    assert (config.reward, config.program_seconds) == ("program_or_answer", 3.0)
    assert (config.advantage_scale, config.aggregation, config.divergence) == (
        "group_std",
        "token_mean",
        "k3",
    )


@pytest.mark.parametrize("where", ["validation", "rollouts"])
def test_logits_that_are_not_finite_stop_the_run_and_name_the_problem(
    checkpoint, tokenizer, make_config, problems, tmp_path, where
):
    """Only for prompts with one digit: a step whose problems miss it must not hide it."""
    broken = load_checkpoint(checkpoint)
    with torch.no_grad():
        broken.embedding[tokenizer.encode("7")] = float("nan")
    save_checkpoint(broken, tmp_path / "broken")
    changes = {"validation": ()} if where == "rollouts" else {}
    config = make_config(prompts_per_step=12, mini_batch_prompts=12)
    with pytest.raises(
        UserError, match=r"problem 'digits/seen/7': the model's logits are not finite after"
    ):
        trained(tmp_path / "run", tmp_path / "broken", tokenizer, config, problems, **changes)
    assert not list(read_rows(tmp_path / "run" / "steps.jsonl", GrpoStepRow))
