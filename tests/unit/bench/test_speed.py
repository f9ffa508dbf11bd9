"""Laws of the ruler: equal losses before any speed, turns by rounds, and figures that follow."""

import json
import math
from dataclasses import replace

import pytest

from isoflop.bench import speed
from isoflop.bench.contestants import Contestant, build
from isoflop.bench.machine import ContestantError, describe
from isoflop.bench.report import duel_line, show_speed, speed_to_json
from isoflop.bench.results import Duel, Options, ShapeResult, Trial
from isoflop.bench.shapes import Shape, cpu_model
from isoflop.bench.speed import (
    LOSS_TOLERANCE,
    bench_shape,
    by_turns,
    compare_losses,
    side_by_side,
    try_contestant,
)

TINY = Shape(
    name="tiny",
    model=replace(cpu_model(32, 1, 4), sequence_length=16),
    batch_sequences=2,
    device="cpu",
    screen_steps=2,
    loss_steps=3,
)
OPTIONS = Options(rounds=1, round_seconds=0.0, peers=["grouped_mm"])
OURS = Contestant(family="ours", experts="grouped", precision="float32")
PEER = Contestant(family="transformers", experts="grouped_mm", precision="float32")


@pytest.fixture(autouse=True)
def quick_peak(monkeypatch):
    """The products of the real sizes take seconds."""
    monkeypatch.setattr("isoflop.bench.machine.PEAK_SIZES", {"cpu": (64,)})


@pytest.fixture(scope="module")
def result() -> ShapeResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isoflop.bench.machine.PEAK_SIZES", {"cpu": (64,)})
        return bench_shape(TINY, OPTIONS, lambda line: None)


def test_every_contestant_has_equal_losses_and_the_best_two_meet(result):
    assert len(result.trials) == 7
    assert {trial.state for trial in result.trials} == {"measured"}
    assert isinstance(result.duel, Duel)
    best = max(result.trials, key=lambda t: (t.contestant.family == "ours", t.tokens_per_second))
    assert result.duel.ours.contestant == best.contestant
    assert result.duel.peer.contestant.family == "transformers"
    assert len(result.duel.ours.losses) == TINY.loss_steps


def test_flops_and_shares_follow_from_the_speed(result):
    for trial in result.trials:
        flops = trial.tokens_per_second * result.flops_per_token
        assert trial.flops_per_second == pytest.approx(flops)
        peak = result.matrix_peaks[trial.contestant.products]
        assert trial.peak_share == pytest.approx(flops / peak)
    ours = result.duel.ours
    (own,), (peak,) = ours.tokens_per_second, ours.peak_flops_per_second
    assert ours.peak_share == pytest.approx(own * ours.flops_per_token / peak)
    assert result.duel.ratios == (own / result.duel.peer.tokens_per_second[0],)


def test_the_json_holds_every_contestant_and_round(result):
    machine = describe("cpu", 1, ("MALLOC_TOP_PAD_",))
    data = json.loads(speed_to_json(machine, OPTIONS, [result]))
    (shape,) = data["shapes"]
    assert {"machine", "options", "loss_tolerance_nats"} < set(data)
    assert [one["name"] for one in shape["contestants"]] == [
        trial.contestant.name for trial in result.trials
    ]
    fields = {"state", "reason", "losses", "tokens_per_second", "peak_share", "peak_memory_bytes"}
    assert all(fields < set(one) for one in shape["contestants"])
    assert shape["alternation"]["ratio_median"] == pytest.approx(result.duel.ratios[0])
    assert len(shape["alternation"]["ours"]["tokens_per_second"]) == OPTIONS.rounds
    assert data["machine"]["torch"]


def test_the_table_names_every_contestant(result, capsys):
    from rich.console import Console

    show_speed(describe("cpu", 1, ()), [result], Console(width=200))
    out = capsys.readouterr().out
    assert all(trial.contestant.name in out for trial in result.trials)
    assert "rounds" in out


def test_a_contestant_that_does_not_train_has_no_speed(monkeypatch):
    """Planted: ours never changes its weights. Faster, and refused."""
    right = build

    def wrong(contestant, shape, device):
        step = right(contestant, shape, device)
        if contestant.family == "transformers":
            return step
        # A new model for every batch.
        return lambda tokens: right(contestant, shape, device)(tokens)

    monkeypatch.setattr(speed, "build", wrong)
    learning = replace(TINY, screen_steps=8)
    found = bench_shape(learning, OPTIONS, lambda line: None)
    ours = [trial for trial in found.trials if trial.contestant.family == "ours"]
    assert {trial.state for trial in ours} == {"loss differs"}
    assert all(trial.tokens_per_second is None for trial in ours)
    assert all(trial.peak_memory_bytes is None for trial in ours)
    assert found.duel is None
    assert "no ratio" in duel_line(found)


def trial_of(contestant: Contestant, *losses: float) -> Trial:
    return Trial(contestant=contestant, state="measured", losses=losses, tokens_per_second=1.0)


@pytest.mark.parametrize(
    ("losses", "state"),
    [
        ((6.0, 5.0), "measured"),
        ((6.0, 5.0 + 0.9 * LOSS_TOLERANCE["float32"]), "measured"),
        ((6.0, 5.0 + 1.1 * LOSS_TOLERANCE["float32"]), "loss differs"),
        ((6.0 + 0.9 * LOSS_TOLERANCE["float32"], 5.0), "loss differs"),
        ((6.0, math.nan), "loss differs"),
    ],
)
def test_the_first_loss_is_held_tighter_and_no_number_is_no_loss(losses, state):
    found = compare_losses([trial_of(PEER, 6.0, 5.0), trial_of(OURS, *losses)])
    assert [trial.state for trial in found] == ["measured", state]
    assert (found[1].tokens_per_second is None) == (state == "loss differs")


def test_losses_that_part_later_lose_the_peer_its_speed(monkeypatch):
    def parted(pair, shape, options):
        return [(6.0, 5.0, 4.0), (6.0, 5.0, 4.5)], [[1.0], [9.0]], [[1.0], [1.0]]

    monkeypatch.setattr(speed, "side_by_side", parted)
    trials = [trial_of(PEER, 6.0, 5.0), trial_of(OURS, 6.0, 5.0)]
    duel, trials = speed.find_duel(TINY, trials, OPTIONS, lambda line: None)
    assert duel is None
    assert trials[0].state == "loss differs"
    assert trials[0].tokens_per_second is None


def test_of_peers_close_at_first_the_one_that_is_fastest_in_turns_is_told(monkeypatch):
    """The peer with the best first steps is not the best; one far behind is not tried."""
    in_turns = {"grouped_mm": 4.0, "eager": 5.0, "batched_mm": 100.0}
    first = {"grouped_mm": 4.5, "eager": 4.0, "batched_mm": 1.0}
    tried = []

    def rounds(pair, shape, options):
        tried.append(pair[1].experts)
        return [(6.0,), (6.0,)], [[10.0], [in_turns[pair[1].experts]]], [[1.0], [1.0]]

    monkeypatch.setattr(speed, "side_by_side", rounds)
    monkeypatch.setattr(speed, "_apart", lambda options, work, *given: work(*given))
    peers = [
        replace(trial_of(replace(PEER, experts=name), 6.0), tokens_per_second=fast)
        for name, fast in first.items()
    ]
    ours = replace(trial_of(OURS, 6.0), tokens_per_second=10.0)
    duel, _ = speed.find_duel(TINY, [*peers, ours], OPTIONS, lambda line: None)
    assert tried == ["grouped_mm", "eager"]
    assert duel is not None
    assert duel.peer.contestant.experts == "eager"
    assert duel.ratios == (2.0,)


def test_turns_with_models_built_anew_have_the_same_losses():
    options = replace(OPTIONS, rounds=2)
    together, speeds, _ = side_by_side((OURS, PEER), TINY, options)
    apart, others, peaks = by_turns((OURS, PEER), TINY, options)
    assert apart[0] == together[0]
    assert apart[1] == pytest.approx(together[1], abs=1e-6)
    assert [len(one) for one in (*speeds, *others, *peaks)] == [2] * 6


def test_a_contestant_that_cannot_run_is_told_and_the_others_go_on(monkeypatch):
    def broken(contestant, shape, device):
        raise RuntimeError("grouped_mm: not for this width\nmore")

    monkeypatch.setattr(speed, "build", broken)
    found = try_contestant(OURS, TINY, OPTIONS, 1.0)
    assert found.state == "failed"
    assert found.reason == "RuntimeError: grouped_mm: not for this width"


def test_a_contestant_without_room_is_skipped(monkeypatch):
    monkeypatch.setattr(speed, "free_memory", lambda device: 1000)
    found = try_contestant(OURS, TINY, OPTIONS, 1.0)
    assert found.state == "skipped"
    assert "0.0 GB are free" in found.reason


def test_a_killed_process_is_a_failed_contestant():
    import os
    import signal

    from isoflop.bench.machine import run_apart

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ContestantError, match=r"killed by signal 9 \(out of memory\?\)"):
        run_apart(die, device="cpu", threads=1)
