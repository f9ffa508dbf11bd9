"""What a model says of chosen tokens in many sequences; what sequences share is computed once.

Sequences that begin alike (the same shots before every question, the same question before every
choice) share that beginning's keys and values: first what all share, then what neighbours in the
order of their tokens share, then the rest of each. The figures are those of one forward pass over
each whole sequence, but for rounding. A sequence for which the model gives no finite logits has no
figures, and its neighbours keep theirs.

Shapes in this file:
    batch       sequences computed together
    position    tokens of the longest, without what is shared
    asked       tokens of one sequence that are asked for
    vocabulary  tokens of the model's vocabulary, padding included
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from isoflop.evaluate.prompts import LEAST_SHARED, ComputedPrompt, PromptComputer
from isoflop.model.transformer import Transformer

Answer = TypeVar("Answer")

Read = Callable[[int, Float[Tensor, "asked vocabulary"]], Answer]
"""Called with the place of a sequence and the logits of its asked tokens, in float64."""

LOGITS_LIMIT = 2**26
"""Logits of one batch, at most: 256 MiB in float32. Chosen; larger batches are split."""

TOKENS_LIMIT = 2**15
"""Tokens of one batch, at most, padding included. Chosen: more is not faster on 2 cores."""

CACHE_BYTES_LIMIT = 2**30
"""Keys and values of one batch, at most. Chosen; larger batches are split."""


class Asked(NamedTuple):
    """A sequence, of which the tokens from the place `first` on are asked for."""

    tokens: tuple[int, ...]
    first: int
    """From 1 to the number of tokens."""


def read_likelihoods(
    model: Transformer, asked: Sequence[Asked], read: Read[Answer], *, batch_items: int
) -> list[Answer | None]:
    """What `read` makes of each sequence's logits, in order; None where they are not finite.

    Every sequence must fit the model. The last token is only predicted, never read, so one more
    than the sequence length fits.
    """
    found: dict[int, Answer | None] = {}
    if not asked:
        return []
    groups = group_by_beginning(asked)
    beginnings = _Beginnings(model, groups)
    for batch in _batches(model, asked, groups, batch_items):
        for place, logits in _logits(model, asked, batch, beginnings):
            if not logits.isfinite().all():
                # Attention's zeros times a neighbour's or a filling's NaN are NaN too.
                logits = _logits_alone(model, asked[place])
            found[place] = read(place, logits) if logits.isfinite().all() else None
    return [found[place] for place in range(len(asked))]


@dataclass(frozen=True)
class Group:
    """Sequences that share a beginning, which ends before the first token that is asked for."""

    places: tuple[int, ...]
    beginning: tuple[int, ...]
    """Shared tokens; empty where they are too few to be worth it."""


class _Member(NamedTuple):
    """A sequence of a batch."""

    place: int
    group: Group


def group_by_beginning(asked: Sequence[Asked]) -> list[Group]:
    """Neighbours in the order of their tokens, in groups that share most of their beginning."""
    order = sorted(range(len(asked)), key=lambda place: asked[place].tokens)
    groups: list[Group] = []
    places, beginning = [order[0]], _readable(asked[order[0]])
    for place in order[1:]:
        common = _common(beginning, _readable(asked[place]))
        # Another choice after the same question joins; another question after the same shots would
        # leave less to share.
        lost = 0 if len(places) == 1 else len(beginning) - len(common)
        if len(common) < LEAST_SHARED or lost >= LEAST_SHARED:
            groups.append(_group(places, beginning))
            places, beginning = [place], _readable(asked[place])
        else:
            places, beginning = [*places, place], common
    return [*groups, _group(places, beginning)]


def _group(places: list[int], beginning: tuple[int, ...]) -> Group:
    return Group(tuple(places), beginning if len(places) > 1 else ())


def _readable(one: Asked) -> tuple[int, ...]:
    """Tokens whose logits nobody asks for: those before the one that predicts the first asked."""
    return one.tokens[: one.first - 1]


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    most = min(len(one), len(other))
    length = next((at for at in range(most) if one[at] != other[at]), most)
    return one[:length]


class _Beginnings:
    """The computed beginnings of groups: kept while their group is at work."""

    def __init__(self, model: Transformer, groups: Sequence[Group]):
        self.computer = PromptComputer(model, [one.beginning for one in groups if one.beginning])
        self.kept: dict[Group, ComputedPrompt] = {}

    def of(self, groups: Sequence[Group]) -> list[ComputedPrompt | None]:
        """The beginning of each; None for a group without one."""
        wanted = {group: None for group in groups if group.beginning}
        missing = [group for group in wanted if group not in self.kept]
        computed = self.computer.compute([group.beginning for group in missing])
        self.kept = {group: one for group, one in self.kept.items() if group in wanted}
        self.kept |= zip(missing, computed, strict=True)
        return [self.kept.get(group) for group in groups]


def _batches(
    model: Transformer, asked: Sequence[Asked], groups: Sequence[Group], batch_items: int
) -> Iterator[list[_Member]]:
    """Sequences with beginnings group by group, then the others by length, as many as fit."""
    members = [_Member(place, group) for group in groups for place in group.places]
    shared = [one for one in members if one.group.beginning]
    single = [one for one in members if not one.group.beginning]
    single.sort(key=lambda one: -len(asked[one.place].tokens))
    for part in (shared, single):
        batch: list[_Member] = []
        for member in part:
            if batch and not _fits_together(model, asked, [*batch, member], batch_items):
                yield batch
                batch = []
            batch.append(member)
        if batch:
            yield batch


def _fits_together(
    model: Transformer, asked: Sequence[Asked], batch: list[_Member], batch_items: int
) -> bool:
    sequences = [asked[one.place] for one in batch]
    longest = max(len(one.tokens) for one in sequences)
    own = max(len(asked[one.place].tokens) - len(one.group.beginning) for one in batch)
    wanted = max(len(one.tokens) - one.first for one in sequences)
    config, item = model.config, model.compute_dtype.itemsize
    token_bytes = 2 * config.num_layers * config.key_value_heads * config.head_width * item
    cached = batch[0].group.beginning
    return (
        len(batch) <= batch_items
        and len(batch) * own <= TOKENS_LIMIT
        and len(batch) * wanted * config.vocabulary_size <= LOGITS_LIMIT
        and not (cached and len(batch) * longest * token_bytes > CACHE_BYTES_LIMIT)
    )


@torch.inference_mode()
def _logits(
    model: Transformer, asked: Sequence[Asked], batch: list[_Member], beginnings: _Beginnings
) -> Iterator[tuple[int, Tensor]]:
    """Each place of a batch with the logits of its asked tokens."""
    computed = beginnings.of([one.group for one in batch])
    done = [len(one.group.beginning) for one in batch]
    inputs = [asked[one.place].tokens[start:-1] for one, start in zip(batch, done, strict=True)]
    hidden = _hidden(model, inputs, done, computed)
    rows: list[int] = []
    columns: list[int] = []
    for row, (one, start) in enumerate(zip(batch, done, strict=True)):
        sequence = asked[one.place]
        predicting = range(sequence.first - 1 - start, len(sequence.tokens) - 1 - start)
        rows += [row] * len(predicting)
        columns += predicting
    # The head is the dearest product of a small model: only where something is asked.
    logits = model.logits(hidden[rows, columns]).double()
    counts = [len(asked[one.place].tokens) - asked[one.place].first for one in batch]
    for one, part in zip(batch, logits.split(counts), strict=True):
        yield one.place, part


@torch.inference_mode()
def _logits_alone(model: Transformer, one: Asked) -> Float[Tensor, "asked vocabulary"]:
    """The logits of a sequence's asked tokens, computed without sharing, filling or neighbours."""
    tokens = torch.tensor([one.tokens[:-1]], device=model.embedding.device)
    return model.logits(model.hidden(tokens)[0][0, one.first - 1 :]).double()


def _hidden(
    model: Transformer,
    inputs: Sequence[tuple[int, ...]],
    done: Sequence[int],
    computed: Sequence[ComputedPrompt | None],
) -> Float[Tensor, "batch position d_model"]:
    """What the head reads, for inputs that follow the computed beginnings of `done` tokens."""
    device = model.embedding.device
    longest = max(len(one) for one in inputs)
    # Filled up on the right, where causal attention never looks.
    tokens = torch.tensor([[*one, *[0] * (longest - len(one))] for one in inputs], device=device)
    if not any(computed):
        return model.hidden(tokens)[0]
    cache = model.empty_cache(len(inputs), max(done) + longest)
    for row, beginning in enumerate(computed):
        if beginning is not None:
            beginning.copy_to(cache, [row])
    begin = torch.tensor(done, device=device)[:, None]
    positions = begin + torch.arange(longest, device=device)
    return model.hidden_cached(tokens, positions, cache)[0]
