"""The ruler: equal losses first, then speeds in alternation.

At every shape each contestant trains a few steps by itself (its losses, speed and peak memory).
The best of ours and the best of the peers then train further on the same batches; only if their
losses still agree are they timed, in turns, on batches that are new every step.
"""

import gc
import statistics
from collections.abc import Callable

from torch import Tensor

from isoflop.bench.contestants import BenchPrecision, Contestant, build, contestants, skip_reason
from isoflop.bench.machine import (
    ContestantError,
    PeakMemory,
    free_memory,
    matrix_peak,
    run_apart,
    timed,
)
from isoflop.bench.results import Duel, Options, ShapeResult, Side, Trial
from isoflop.bench.shapes import WARM_UP_MODEL, Device, Shape
from isoflop.bench.text import Text
from isoflop.design.estimate import FLOAT32_BYTES, estimate_memory
from isoflop.model.count import total_params, train_flops_per_token_with_router

Tell = Callable[[str], None]
"""Hears one line for each thing that is begun."""

FIRST_LOSS_TOLERANCE: dict[BenchPrecision, float] = {
    "float32": 1e-3,
    "bfloat16": 5e-3,
    "bfloat16 autocast": 5e-3,
}
"""Nats by which the loss before any step may differ: the weights are the same, so rounding alone."""

LOSS_TOLERANCE: dict[BenchPrecision, float] = {
    "float32": 0.01,
    "bfloat16": 0.04,
    "bfloat16 autocast": 0.04,
}
"""Nats by which later losses may differ, after equal tokens; of two contestants the looser counts.
Chosen: a hundredth of the fall, wider where weights themselves are bfloat16."""

SCREEN_SHARE = 0.5
"""Of a round's seconds, timed of each contestant alone. Chosen."""

MEMORY_SHARE = 0.85
"""Of the free memory that contestants may be expected to need. Chosen."""


def bench_shape(shape: Shape, options: Options, tell: Tell) -> ShapeResult:
    """Everything of one shape."""
    tell(f"{shape.name}: matrix products")
    peaks = {
        products: _apart(options, matrix_peak, products, options.device)
        for products in ("float32", "bfloat16")
    }
    trials = []
    for contestant in contestants(shape, options.peers):
        tell(f"{shape.name}: {contestant.name}")
        trials.append(try_contestant(contestant, shape, options, peaks[contestant.products]))
    trials = compare_losses(trials)
    duel, trials = find_duel(shape, trials, options, tell)
    return ShapeResult(
        shape=shape,
        flops_per_token=_flops_per_token(shape),
        matrix_peaks=peaks,
        trials=tuple(trials),
        duel=duel,
    )


def try_contestant(contestant: Contestant, shape: Shape, options: Options, peak: float) -> Trial:
    """A contestant's first steps; "skipped" or "failed" where there are none."""
    reason = skip_reason(contestant, shape) or _memory_reason([contestant], shape, options)
    if reason is not None:
        return Trial(contestant=contestant, state="skipped", reason=reason)
    try:
        losses, speed, memory = _apart(options, first_steps, contestant, shape, options)
    except ContestantError as error:
        return Trial(contestant=contestant, state="failed", reason=str(error))
    flops = speed * _flops_per_token(shape)
    return Trial(
        contestant=contestant,
        state="measured",
        losses=losses,
        tokens_per_second=speed,
        flops_per_second=flops,
        peak_share=flops / peak,
        peak_memory_bytes=memory,
    )


def first_steps(
    contestant: Contestant, shape: Shape, options: Options
) -> tuple[tuple[float, ...], float, int | None]:
    """Losses of the first steps, tokens a second after the first, and the peak memory."""
    device = options.device
    _warm_up(contestant, device)
    memory = PeakMemory(device)
    step = build(contestant, shape, device)
    losses, seconds = _train(step, shape, device, range(shape.screen_steps))
    timed_seconds = list(seconds[1:])
    # Small models' steps are too short for a few to tell who is faster.
    while sum(timed_seconds) < SCREEN_SHARE * options.round_seconds:
        number = len(timed_seconds) + 1
        timed_seconds += _train(step, shape, device, range(number, number + 1))[1]
    speed = len(timed_seconds) * shape.batch_tokens / sum(timed_seconds)
    return losses, speed, memory.read()


def _warm_up(contestant: Contestant, device: Device) -> None:
    """One step of a tiny model, so that libraries' own memory is not counted as the model's."""
    tiny = Shape(name="warm-up", model=WARM_UP_MODEL, batch_sequences=1, device=device)
    _train(build(contestant, tiny, device), tiny, device, range(1))


def _train(
    step: Callable[[Tensor], float], shape: Shape, device: Device, numbers: range
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Losses and seconds of the steps over the batches of these numbers."""
    text = Text(shape.model.vocabulary_size)
    losses, seconds = [], []
    for number in numbers:
        tokens = _batch(text, shape, number, device)
        loss, passed = timed(lambda tokens=tokens: step(tokens), device)  # type: ignore[misc]
        losses.append(loss)
        seconds.append(passed)
    return tuple(losses), tuple(seconds)


def _batch(text: Text, shape: Shape, number: int, device: Device) -> Tensor:
    length = shape.model.sequence_length
    return text.batch(number, sequences=shape.batch_sequences, length=length).to(device)


def compare_losses(trials: list[Trial]) -> list[Trial]:
    """The trials, those without speed whose losses differ from the first float32 one's."""
    measured = [trial for trial in trials if trial.state == "measured"]
    reference = next((t for t in measured if t.contestant.precision == "float32"), None)
    return [trial if reference is None else judged(trial, reference) for trial in trials]


def judged(trial: Trial, reference: Trial) -> Trial:
    """The trial, or one without figures that says where its losses differ from the reference's."""
    if trial.state != "measured":
        return trial
    reason = loss_difference(trial.contestant, trial.losses, reference.contestant, reference.losses)
    if reason is None:
        return trial
    return Trial(
        contestant=trial.contestant, state="loss differs", reason=reason, losses=trial.losses
    )


def loss_difference(
    one: Contestant, losses: tuple[float, ...], other: Contestant, expected: tuple[float, ...]
) -> str | None:
    """The first difference over the tolerance, in words; None: there is none."""
    pair = (one.precision, other.precision)
    first = max(FIRST_LOSS_TOLERANCE[precision] for precision in pair)
    later = max(LOSS_TOLERANCE[precision] for precision in pair)
    for step, (loss, right) in enumerate(zip(losses, expected, strict=True)):
        tolerance = later if step else first
        # Written so that NaN differs too.
        if not abs(loss - right) <= tolerance:
            return (
                f"loss {loss:.4f} after {step} steps, {other.name} has {right:.4f}; "
                f"{tolerance:g} nats are allowed"
            )
    return None


CLOSE_SHARE = 0.7
"""Of the speed of the fastest peer's few first steps, from which on a peer may be the best and is
timed in turns too: first steps of bfloat16 pay for what later ones do not. Chosen."""


def find_duel(
    shape: Shape, trials: list[Trial], options: Options, tell: Tell
) -> tuple[Duel | None, list[Trial]]:
    """Ours against the peer that is the fastest in turns; peers whose losses part lose their figures.

    All peers that a few first steps show close to the fastest are tried: the ratio told is the least.
    """
    ours = _fastest(trials, "ours")
    if ours is None:
        return None, trials
    peers = [t for t in trials if t.contestant.family == "transformers" and t.state == "measured"]
    peers.sort(key=lambda trial: trial.tokens_per_second or 0.0, reverse=True)
    duels: list[Duel] = []
    for peer in peers:
        if duels and (peer.tokens_per_second or 0) < CLOSE_SHARE * (
            peers[0].tokens_per_second or 0
        ):
            break
        tell(f"{shape.name}: {ours.contestant.name} and {peer.contestant.name} in turns")
        found = _duel(ours.contestant, peer.contestant, shape, options)
        if isinstance(found, Duel):
            duels.append(found)
        else:
            told = Trial(contestant=peer.contestant, state=found.state, reason=found.reason)
            trials = [told if trial is peer else trial for trial in trials]
    return min(duels, key=lambda duel: statistics.median(duel.ratios), default=None), trials


def _fastest(trials: list[Trial], family: str) -> Trial | None:
    told = [t for t in trials if t.contestant.family == family and t.state == "measured"]
    return max(told, key=lambda trial: trial.tokens_per_second or 0.0, default=None)


def _duel(ours: Contestant, peer: Contestant, shape: Shape, options: Options) -> Duel | Trial:
    """The rounds, or the peer's trial with the reason why there are none."""
    together = _memory_reason([ours, peer], shape, options) is None
    pair = (ours, peer)
    try:
        work = side_by_side if together else by_turns
        losses, speeds, peaks = _apart(options, work, pair, shape, options)
    except ContestantError as error:
        return Trial(contestant=peer, state="failed", reason=str(error))
    reason = loss_difference(peer, losses[1], ours, losses[0])
    if reason is not None:
        return Trial(contestant=peer, state="loss differs", reason=reason, losses=losses[1])
    sides = [
        Side(
            contestant=one,
            losses=losses[place],
            tokens_per_second=tuple(speeds[place]),
            peak_flops_per_second=tuple(peaks[place]),
            flops_per_token=_flops_per_token(shape),
        )
        for place, one in enumerate(pair)
    ]
    return Duel(ours=sides[0], peer=sides[1], together=together)


Rounds = tuple[list[tuple[float, ...]], list[list[float]], list[list[float]]]
"""For each of the pair: its losses; tokens a second and the matrix product's FLOP/s by rounds."""


def side_by_side(pair: tuple[Contestant, Contestant], shape: Shape, options: Options) -> Rounds:
    """Both in memory from beginning to end, so that turns are as short as can be."""
    device = options.device
    steps = [build(one, shape, device) for one in pair]
    losses = [_train(step, shape, device, range(shape.loss_steps))[0] for step in steps]
    speeds: list[list[float]] = [[], []]
    peaks: list[list[float]] = [[], []]
    if loss_difference(pair[1], losses[1], pair[0], losses[0]) is not None:
        return losses, speeds, peaks
    number = shape.loss_steps
    for turn in range(options.rounds):
        found_peaks = _peaks_of_round(pair, device)
        counts = []
        # Who begins changes, so that neither always follows the other.
        for place in (0, 1) if turn % 2 == 0 else (1, 0):
            seconds = _round(steps[place], shape, device, number, options.round_seconds)
            peaks[place].append(found_peaks[place])
            speeds[place].append(len(seconds) * shape.batch_tokens / sum(seconds))
            counts.append(len(seconds))
        number += max(counts)
    return losses, speeds, peaks


MIN_ROUND_STEPS = 2
"""Of a round where both stay in memory. Chosen."""


def _round(
    step: Callable[[Tensor], float], shape: Shape, device: Device, first: int, min_seconds: float
) -> list[float]:
    """Seconds of each step of one turn, over batches from `first` on."""
    seconds: list[float] = []
    while len(seconds) < MIN_ROUND_STEPS or sum(seconds) < min_seconds:
        number = first + len(seconds)
        seconds += _train(step, shape, device, range(number, number + 1))[1]
    return seconds


def by_turns(pair: tuple[Contestant, Contestant], shape: Shape, options: Options) -> Rounds:
    """Each turn builds its model anew: for shapes of which two do not fit in memory.

    In one process, which keeps the memory: getting it from the system takes longer than training.
    """
    device = options.device
    losses: list[tuple[float, ...]] = [(), ()]
    speeds: list[list[float]] = [[], []]
    peaks: list[list[float]] = [[], []]
    for turn in range(options.rounds):
        found_peaks = _peaks_of_round(pair, device)
        for place in (0, 1) if turn % 2 == 0 else (1, 0):
            numbers = range(shape.loss_steps)
            found, seconds = _train(build(pair[place], shape, device), shape, device, numbers)
            gc.collect()
            losses[place] = losses[place] or found
            peaks[place].append(found_peaks[place])
            speeds[place].append((len(seconds) - 1) * shape.batch_tokens / sum(seconds[1:]))
    return losses, speeds, peaks


def _peaks_of_round(pair: tuple[Contestant, Contestant], device: Device) -> list[float]:
    """The matrix product's FLOP/s in the precision of each; one precision is measured once."""
    found = {products: matrix_peak(products, device) for products in {c.products for c in pair}}
    return [found[one.products] for one in pair]


def _memory_reason(all_of: list[Contestant], shape: Shape, options: Options) -> str | None:
    """Why these do not fit side by side into the free memory; None: they do, or nobody knows."""
    free = free_memory(options.device)
    needed = sum(expected_bytes(one, shape, options.device) for one in all_of)
    if free is None or needed <= MEMORY_SHARE * free:
        return None
    return f"needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"


def expected_bytes(contestant: Contestant, shape: Shape, device: Device) -> int:
    """Peak memory of a contestant, roughly: the plan's for ours; peers hold all logits, too."""
    model = shape.model
    native = contestant.family == "ours" and device == "cpu"
    own = estimate_memory(
        model,
        micro_batch_tokens=shape.batch_tokens,
        precision=contestant.products,
        ops="native" if native else "torch",
    ).total
    if contestant.family == "ours":
        return own
    # Logits, their logarithms and gradient, float32.
    logits = 3 * FLOAT32_BYTES * shape.batch_tokens * model.vocabulary_size
    halved = 2 * FLOAT32_BYTES * total_params(model) if contestant.precision == "bfloat16" else 0
    return own + logits - halved


def _flops_per_token(shape: Shape) -> int:
    return train_flops_per_token_with_router(shape.model, shape.model.sequence_length)


def _apart(options: Options, work, *arguments):  # type: ignore[no-untyped-def]
    return run_apart(work, *arguments, device=options.device, threads=options.threads)
