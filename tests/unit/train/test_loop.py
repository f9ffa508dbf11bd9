"""Laws of training: the rows say what happened, and nothing that only measures changes them."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import tiny_model, tiny_run, tiny_shard, tiny_train
from isoflop.config import UserError
from isoflop.model.checkpoint import load_checkpoint
from isoflop.model.transformer import Transformer, next_token_loss
from isoflop.records import LossRow, MixtureRow, StepRow, TimingRow, read_rows
from isoflop.train.loop import ValidationSet, train_run, validate


@pytest.fixture(autouse=True)
def one_thread():
    """Models of these sizes are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(*_: object) -> None:
    """A progress callback."""


def trained(folder: Path, model=None, **changes) -> Path:
    """A finished run's folder."""
    folder.mkdir()
    # Saving states is the matter of test_resume.
    train = tiny_train(**{"resume_seconds": 1e9, **changes})
    train_run(tiny_run(folder, train, model), folder, quiet)
    return folder


def steps_of(folder: Path) -> list[StepRow]:
    return list(read_rows(folder / "steps.jsonl", StepRow))


def losses(folder: Path) -> list[float]:
    return [row.train_loss for row in steps_of(folder)]


def weights(folder: Path, step: int = 20) -> bytes:
    return (folder / f"checkpoints/step-{step:08d}/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """The run that others are compared with."""
    return trained(tmp_path_factory.mktemp("plain") / "run")


def test_rows_stand_at_log_steps_and_checkpoints(plain):
    rows = steps_of(plain)
    assert [row.step for row in rows] == [3, 6, 9, 10, 12, 15, 18, 20]
    assert [row.tokens for row in rows] == [row.step * 256 for row in rows]
    assert [row.step for row in read_rows(plain / "timings.jsonl", TimingRow)] == [
        row.step for row in rows
    ]
    held = [(row.step, row.source) for row in read_rows(plain / "losses.jsonl", LossRow)]
    assert held == [(10, "first"), (10, "second"), (20, "first"), (20, "second")]


def test_the_model_learns(plain):
    """The shards count upwards; a uniform guess costs log(288) = 5.66 nats."""
    assert losses(plain)[0] > 5
    assert losses(plain)[-1] < losses(plain)[0] - 0.5


def test_expert_loads_sum_to_one_in_every_layer(tmp_path):
    folder = trained(tmp_path / "run", tiny_model(num_layers=2))
    for row in steps_of(folder):
        assert len(row.expert_load) == len(row.balance_loss) == len(row.z_loss) == 2
        assert all(len(layer) == 4 for layer in row.expert_load)
        assert [sum(layer) for layer in row.expert_load] == pytest.approx([1.0, 1.0])


def test_the_mixture_is_told_with_shares_that_were_used(plain):
    rows = list(read_rows(plain / "mixture.jsonl", MixtureRow))
    assert [row.source for row in rows] == ["first", "second"]
    assert sum(row.used_tokens for row in rows) == 20 * 256
    assert rows[0].used_tokens == 3 * rows[1].used_tokens


def test_a_row_is_the_mean_of_its_steps(plain, tmp_path):
    every = losses(trained(tmp_path / "every", log_steps=1))
    assert losses(plain)[0] == pytest.approx(np.mean(every[0:3]), rel=1e-12)
    assert losses(plain)[3] == pytest.approx(every[9], rel=1e-12)


def test_the_first_train_loss_is_that_of_the_untrained_model_on_the_first_batch(tmp_path):
    folder = trained(tmp_path / "run", log_steps=1)
    run = tiny_run(tmp_path)
    tokens = torch.from_numpy(run.mixture.batch(0).tokens)
    logits = Transformer(run.model, seed=run.seed)(tokens[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert losses(folder)[0] == pytest.approx(expected.item(), rel=1e-6)


def test_measuring_in_between_changes_no_weight(plain, tmp_path):
    once = trained(tmp_path / "once", num_checkpoints=1)
    often = trained(tmp_path / "often", num_checkpoints=4, log_steps=1, validation_sequences=7)
    assert weights(once) == weights(often) == weights(plain)


def test_another_seed_gives_another_run(plain, tmp_path):
    train_run(tiny_run(tmp_path, seed=4), tmp_path, quiet)
    assert losses(tmp_path)[0] != losses(plain)[0]


def test_router_losses_are_no_part_of_the_train_loss(tmp_path):
    """At the first step the weights are equal, so the row must be; later the coefficients act."""
    without = trained(tmp_path / "a", log_steps=1, balance_coefficient=0.0, z_coefficient=0.0)
    strong = trained(tmp_path / "b", log_steps=1, balance_coefficient=1.0, z_coefficient=1.0)
    first, other = steps_of(without)[0], steps_of(strong)[0]
    assert first.train_loss == other.train_loss
    assert (first.balance_loss, first.z_loss) == (other.balance_loss, other.z_loss)
    assert first.gradient_norm != other.gradient_norm
    assert losses(without)[1] != losses(strong)[1]
    assert steps_of(strong)[-1].z_loss < steps_of(without)[-1].z_loss


def test_summed_micro_batches_are_the_whole_batch(tmp_path):
    off = {"balance_coefficient": 0.0, "z_coefficient": 0.0, "log_steps": 1}
    whole = trained(tmp_path / "whole", **off)
    parts = trained(tmp_path / "parts", micro_batch_sequences=2, **off)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    for ours, theirs in zip(steps_of(parts), steps_of(whole), strict=True):
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-3)
        assert np.array(ours.expert_load) == pytest.approx(np.array(theirs.expert_load), abs=2e-3)
        assert ours.z_loss == pytest.approx(theirs.z_loss, rel=1e-4)


def test_grouped_experts_train_as_the_loop_does(plain, tmp_path):
    loop = trained(tmp_path / "loop", experts="loop")
    assert losses(loop) == pytest.approx(losses(plain), rel=1e-4)


def test_bfloat16_trains_close_to_float32(plain, tmp_path):
    folder = trained(tmp_path / "run", precision="bfloat16")
    assert losses(folder) != losses(plain)
    assert losses(folder) == pytest.approx(losses(plain), rel=0.02)
    model = load_checkpoint(folder / "checkpoints/step-00000020")
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_clipping_bounds_the_step_but_not_the_told_norm(tmp_path):
    free = trained(tmp_path / "free", log_steps=1, max_gradient_norm=1e9)
    clipped = trained(tmp_path / "clipped", log_steps=1, max_gradient_norm=1e-9)
    assert steps_of(clipped)[0].gradient_norm == steps_of(free)[0].gradient_norm
    # Adam divides by the gradient's own size, except where epsilon is larger.
    assert losses(clipped)[-1] > losses(free)[-1]


def test_reset_attention_hides_other_documents_in_training_and_validation(tmp_path):
    """A first token of a document is predicted from nothing but itself, whatever stands before."""
    folder = trained(tmp_path / "run", reset_attention=True)
    assert losses(folder) != losses(trained(tmp_path / "across"))
    train = tiny_train(reset_attention=True)
    shard = tiny_shard(tmp_path, "one", 5)
    held = ValidationSet.of(shard, train)
    model = load_checkpoint(folder / "checkpoints/step-00000020")
    row = validate(model, held, step=1, tokens=1, source="one", split="validation")
    expected = []
    for tokens, numbers in zip(held.sequences, held.document_numbers, strict=True):
        cut = int(np.argmax(numbers > 0)) if numbers[-1] else len(tokens)
        whole = torch.from_numpy(tokens)[None]
        documents = torch.from_numpy(numbers)[None, :-1]
        found = next_token_loss(model(whole[:, :-1], documents=documents).logits, whole[:, 1:])
        alone = next_token_loss(model(whole[:, : cut - 1]).logits, whole[:, 1:cut])
        assert torch.allclose(found[:, : cut - 1], alone, atol=1e-4)
        expected.append(found.mean().item())
    assert row.loss == pytest.approx(np.mean(expected), rel=1e-6)
    across = dataclasses.replace(held, document_numbers=None)
    other = validate(model, across, step=1, tokens=1, source="one", split="validation")
    assert other.loss != row.loss


def test_validation_is_the_mean_over_tokens_with_its_standard_error(tmp_path):
    shard = tiny_shard(tmp_path, "one", 5, num_documents=60)
    held = ValidationSet.of(shard, tiny_train(validation_sequences=40))
    assert len(held.sequences) == 40  # More than one batch of validation.
    model = Transformer(tiny_model(), seed=1)
    row = validate(model, held, step=7, tokens=70, source="one", split="validation")
    means = []
    for tokens in held.sequences:
        whole = torch.from_numpy(tokens)[None]
        means.append(next_token_loss(model(whole[:, :-1]).logits, whole[:, 1:]).mean().item())
    assert row.loss == pytest.approx(np.mean(means), rel=1e-6)
    assert row.standard_error == pytest.approx(np.std(means, ddof=1) / math.sqrt(40), rel=1e-4)
    assert row.num_tokens == 40 * 32


def test_one_sequence_has_no_standard_error(tmp_path):
    held = ValidationSet.of(tiny_shard(tmp_path, "one", 5), tiny_train(validation_sequences=1))
    row = validate(Transformer(tiny_model()), held, step=1, tokens=1, source="s", split="train")
    assert row.standard_error is None


def test_a_split_too_short_to_predict_in_has_no_row(tmp_path):
    run = tiny_run(tmp_path)
    empty = ValidationSet(sequences=[], document_numbers=None)
    held = {**run.validation, ("first", "validation"): empty}
    train_run(dataclasses.replace(run, validation=held), tmp_path, quiet)
    assert {row.source for row in read_rows(tmp_path / "losses.jsonl", LossRow)} == {"second"}


def test_a_loss_that_is_not_finite_stops_with_the_batchs_documents_named(tmp_path):
    run = tiny_run(tmp_path, tiny_train(peak_learning_rate=1e38, warmup_steps=0, log_steps=1))
    with pytest.raises(UserError) as raised:
        train_run(run, tmp_path, quiet)
    text = str(raised.value)
    step = int(text.split()[1].rstrip(":"))
    assert step > 1
    assert "peak_learning_rate=1e+38" in text
    named = text.partition("documents: ")[2].split(", ")
    assert set(named) <= set(run.mixture.documents(step - 1))
    assert len(named) >= 8
    assert "\n" not in text
    for line in (tmp_path / "steps.jsonl").read_text().splitlines():
        assert math.isfinite(json.loads(line)["train_loss"])


def test_a_validation_loss_that_is_not_finite_is_told(tmp_path):
    train = tiny_train(train_tokens=256, peak_learning_rate=1e18, warmup_steps=0, num_checkpoints=1)
    with pytest.raises(UserError, match=r"step 1: validation loss of 'first' is nan"):
        train_run(tiny_run(tmp_path, train), tmp_path, quiet)


def test_progress_hears_every_row(tmp_path):
    heard = []
    train_run(tiny_run(tmp_path), tmp_path, lambda done, total, speed: heard.append((done, total)))
    assert heard == [(step, 20) for step in (3, 6, 9, 10, 12, 15, 18, 20)]


def test_training_time_grows_and_leaves_validation_out(plain):
    rows = list(read_rows(plain / "timings.jsonl", TimingRow))
    assert all(after.seconds > before.seconds for before, after in itertools.pairwise(rows))
    assert all(row.tokens_per_second > 0 for row in rows)
