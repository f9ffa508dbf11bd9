"""However a run is spread over ranks: the same losses, the same experts, what was predicted is sent."""

import json
from pathlib import Path

import pytest
import torch

from fakes import tiny_model, tiny_run, tiny_train
from fakes_ranks import run_ranks, train_layouts
from isoflop.design.layout import Layout
from isoflop.design.ranks import RankStep, estimate_rank_memory, estimate_rank_traffic
from isoflop.model.checkpoint import load_checkpoint
from isoflop.records import LossRow, StepRow, read_rows
from isoflop.train.config import TrainConfig
from isoflop.train.loop import train_run

STEPS = 50
LOSS_TOLERANCE = 2e-5
"""Nats. Sums in another order differ by float32 rounding, about 1e-6 after 50 steps as measured."""
CHOICES_TOLERANCE = 2
"""Choices of a step that may fall to another expert, where two logits differ by less than rounding;
none did when measured."""

MODEL = tiny_model(num_layers=2, num_experts=8, num_heads=4)


def train_for(steps: int, **changes: object) -> TrainConfig:
    """Every step told, no state saved."""
    return tiny_train(
        train_tokens=steps * 8 * 32,
        log_steps=1,
        resume_seconds=1e9,
        num_checkpoints=1,
        warmup_steps=4,
        **changes,
    )


CASES = {
    "one rank": Layout(ranks=1),
    "data parallel on 2": Layout(ranks=2),
    "sharded over 2": Layout(ranks=2, shard=2),
    "expert parallel over 2": Layout(ranks=2, expert_parallel=2),
    "data parallel on 4": Layout(ranks=4),
    "sharded over 4": Layout(ranks=4, shard=4),
    "expert parallel over 4": Layout(ranks=4, expert_parallel=4),
    "replicas of sharded, experts spread": Layout(ranks=4, shard=2, expert_parallel=2),
    "sharded experts spread, short": Layout(ranks=4, shard=4, expert_parallel=2),
    "experts wider than shards, short": Layout(ranks=4, shard=2, expert_parallel=4),
    "tensor parallel over 2": Layout(ranks=2, tensor_parallel=2),
    "tensor parallel over 4": Layout(ranks=4, tensor_parallel=4),
    "data parallel with tensor parallel": Layout(ranks=4, tensor_parallel=2),
    "sharded tensor parallel, micro-batches, short": Layout(ranks=4, shard=2, tensor_parallel=2),
    "micro-batches, short": Layout(ranks=2, shard=2, expert_parallel=2),
    "recomputed tensor parallel, short": Layout(ranks=2, tensor_parallel=2),
    "recomputed experts spread, micro-batches, short": Layout(ranks=2, shard=2, expert_parallel=2),
    "clipped experts spread, short": Layout(ranks=2, expert_parallel=2),
    "clipped data with tensor parallel, short": Layout(ranks=4, tensor_parallel=2),
}
CLIPPED = {"max_gradient_norm": 0.05, "epsilon": 1e-2}
"""Every step is clipped, to less than the smallest norm; and AdamW hears it: beside a small epsilon a
factor that all gradients share would change nothing."""
SHORT_STEPS = 8
"""For layouts that differ from those above in their meshes alone."""


def steps_of(name: str) -> int:
    return SHORT_STEPS if "short" in name else STEPS


def changes_of(name: str) -> dict[str, object]:
    """Of the recipe; without "micro-batches" each rank computes its part of the batch at once."""
    micro = {"micro_batch_sequences": 2} if "micro" in name else {}
    recompute = {"recompute": "layers"} if "recomputed" in name else {}
    return micro | recompute | (CLIPPED if "clipped" in name else {})


def baseline(name: str) -> str:
    """The run of one process that this case must equal."""
    of = {"clipped": "one process, clipped, short", "short": "one process, short"}
    return next((one for word, one in of.items() if word in name), "one process")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """The folder of each case's run, and of the runs of one process."""
    root = tmp_path_factory.mktemp("layouts")
    alone = sorted({baseline(name) for name in CASES})
    names = [*alone, *CASES]
    folders = {name: root / str(number) for number, name in enumerate(names)}
    runs = {}
    for name, folder in folders.items():
        folder.mkdir()
        runs[name] = tiny_run(root, train_for(steps_of(name), **changes_of(name)), MODEL)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in alone:
        train_run(runs[name], folders[name], lambda *_: None)
    torch.set_num_threads(before)
    for ranks in (1, 2, 4):
        cases = [
            (layout, runs[name], folders[name])
            for name, layout in CASES.items()
            if layout.ranks == ranks
        ]
        run_ranks(Layout(ranks=ranks), train_layouts, cases)
    return folders


def rows(folder: Path) -> list[StepRow]:
    return list(read_rows(folder / "steps.jsonl", StepRow))


@pytest.mark.parametrize("name", CASES)
def test_the_loss_curve_is_that_of_one_process(trained, name):
    wanted, found = rows(trained[baseline(name)]), rows(trained[name])
    if "clipped" in name:
        assert min(row.gradient_norm for row in wanted) > 4 * CLIPPED["max_gradient_norm"]
    assert [row.step for row in found] == list(range(1, steps_of(name) + 1))
    if steps_of(name) == STEPS:
        assert wanted[0].train_loss - wanted[-1].train_loss > 1, "nothing was learned"
    for one, many in zip(wanted, found, strict=True):
        assert many.train_loss == pytest.approx(one.train_loss, abs=LOSS_TOLERANCE)
        assert many.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-3)
        assert many.balance_loss == pytest.approx(one.balance_loss, rel=1e-3)
        assert many.z_loss == pytest.approx(one.z_loss, rel=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_every_expert_is_chosen_as_often_as_in_one_process(trained, name):
    choices = train_for(STEPS).batch_tokens * MODEL.top_k
    for one, many in zip(rows(trained[baseline(name)]), rows(trained[name]), strict=True):
        pairs = zip(one.expert_load, many.expert_load, strict=True)
        moved = sum(abs(a - b) for layers in pairs for a, b in zip(*layers, strict=True))
        assert moved / 2 * choices <= CHOICES_TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_kept_weights_and_validation_are_those_of_one_process(trained, name):
    step = f"checkpoints/step-{steps_of(name):08d}"
    one, many = (
        load_checkpoint(trained[which] / step).state_dict() for which in (baseline(name), name)
    )
    for key, value in one.items():
        torch.testing.assert_close(many[key], value, rtol=0, atol=2e-4)
    wanted, found = (
        list(read_rows(trained[which] / "losses.jsonl", LossRow))
        for which in (baseline(name), name)
    )
    assert [(row.source, row.split, row.num_tokens) for row in found] == [
        (row.source, row.split, row.num_tokens) for row in wanted
    ]
    assert [row.loss for row in found] == pytest.approx([row.loss for row in wanted], abs=1e-4)
    assert [row.standard_error for row in found] == pytest.approx(
        [row.standard_error for row in wanted], rel=1e-2
    )


def counted(folder: Path, layout: Layout) -> list[dict]:
    """What each rank counted."""
    return [json.loads((folder / f"rank-{n}.json").read_text()) for n in range(layout.ranks)]


def rank_step(name: str, layout: Layout) -> RankStep:
    train = train_for(STEPS, **changes_of(name))
    own = train.batch_sequences // layout.data_parallel
    micro = train.micro_batch_sequences if "micro" in name else own
    return RankStep(
        sequence_length=train.sequence_length,
        micro_batch_sequences=micro,
        micro_batches=own // micro,
        recompute=train.recompute,
    )


@pytest.mark.parametrize("name", CASES)
def test_bytes_sent_are_those_predicted(trained, name):
    layout = CASES[name]
    predicted = estimate_rank_traffic(MODEL, layout, rank_step(name, layout))
    found = [one["sent"] for one in counted(trained[name], layout)]
    for sent in found:
        for kind in ("all_gather", "reduce_scatter", "all_reduce"):
            assert sent.get(kind, 0) == pytest.approx(getattr(predicted, kind), abs=8), kind
    e = layout.expert_parallel
    whole = sum(sent.get("all_to_all_whole", 0) for sent in found)
    # With what stays on its rank it does not depend on the router.
    assert whole * (e - 1) / e == predicted.all_to_all * layout.ranks
    leaving = sum(sent.get("all_to_all", 0) for sent in found)
    assert leaving == pytest.approx(predicted.all_to_all * layout.ranks, rel=0.15)


@pytest.mark.parametrize("name", CASES)
def test_weights_gradients_and_moments_of_a_rank_are_as_large_as_predicted(trained, name):
    layout = CASES[name]
    predicted = estimate_rank_memory(MODEL, layout, rank_step(name, layout))
    found = [one["state_bytes"] for one in counted(trained[name], layout)]
    assert found[0] == predicted.states
    assert max(found) == found[0]


def test_spreading_makes_a_rank_smaller():
    step = rank_step("", Layout(ranks=4))
    whole, cut, spread = (
        estimate_rank_memory(MODEL, layout, step).states
        for layout in (
            Layout(ranks=4),
            Layout(ranks=4, shard=4),
            Layout(ranks=4, expert_parallel=4),
        )
    )
    assert whole == pytest.approx(4 * cut, rel=0.01)
    assert cut < spread < whole
