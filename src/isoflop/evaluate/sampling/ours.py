"""Our generator: a fixed number of places, each of which a new sample takes as soon as one ends.

What all prompts begin with, shots for example, is computed once; then each prompt is computed
once, several together; its keys and values are copied to the place of each of its samples.
What a sample is does not depend on which others stand beside it, but for rounding in matrix
products, whose groups of rows differ. A token differs by that only if its draw falls within
rounding of the border between two tokens. The same call gives the same bits. A sample for whose
next token the model has no finite logits ends there, as "not_finite"; the others go on.
"""

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isoflop.config import UserError
from isoflop.evaluate.prompts import ComputedPrompt, PromptComputer
from isoflop.evaluate.sampling.choose import choose, uniforms
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.sampling.samples import GREEDY_SEED, Request, Sample, SampleRecord
from isoflop.evaluate.sampling.stops import Stops, finish_of
from isoflop.model.decode import make_decoder
from isoflop.model.moe import MoE
from isoflop.model.transformer import Transformer
from isoflop.tokens.tokenizer import Tokenizer

DRAWS_AHEAD = 32
"""Numbers drawn at once for the next tokens of a sample. Chosen."""


@dataclass
class _Running:
    """A sample at its place in the batch."""

    request: int
    seed: int


class OurGenerator:
    """Answers requests with one of our models."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        batch_sequences: int,
        record: bool = False,
    ):
        """
        Args:
            batch_sequences: places, sequences decoded together.
            record: whether samples carry their log-probabilities and experts.

        Raises:
            UserError: no places.
        """
        if batch_sequences < 1:
            raise UserError(f"batch_sequences={batch_sequences} must be at least 1")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_sequences = batch_sequences
        self.record = record

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Sample]:
        """Samples as they finish.

        Raises:
            UserError: an empty prompt or one without room to answer, or more experts a token than
                there are.
        """
        asked = [request for request in requests if request.seeds]
        if not asked:
            return
        room = self.model.config.sequence_length
        lengths = [len(request.prompt) for request in asked]
        if min(lengths) < 1 or max(lengths) >= room:
            raise UserError(
                f"prompts must hold 1 to {room - 1} tokens (sequence_length={room}), "
                f"got {min(lengths)} to {max(lengths)}"
            )
        model = with_experts_per_token(self.model, sampling.experts_per_token)
        samples = sum(len(request.seeds) for request in asked)
        places = min(self.batch_sequences, samples)
        yield from _Batch(
            model, self.tokenizer, requests, sampling, places, record=self.record
        ).run()


def greedy(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
    batch_sequences: int,
) -> list[Sample]:
    """The most probable continuation of each prompt, in order. Raises as `generate`."""
    generator = OurGenerator(model, tokenizer, batch_sequences=batch_sequences)
    requests = [Request(prompt=prompt, seeds=(GREEDY_SEED,)) for prompt in prompts]
    samples = generator.generate(requests, Sampling(max_new_tokens=max_new_tokens))
    return sorted(samples, key=lambda sample: sample.request)


class _Batch:
    """The places, and what runs in them."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        requests: Sequence[Request],
        sampling: Sampling,
        places: int,
        *,
        record: bool,
    ):
        self.model, self.requests, self.sampling = model, requests, sampling
        self.tokenizer = tokenizer
        self.end_of_text_id = tokenizer.end_of_text_id
        self.stops = Stops(tokenizer, sampling.stop)
        self.device = model.embedding.device
        self.waiting = deque(
            (number, seed) for number, request in enumerate(requests) for seed in request.seeds
        )
        self.computer = PromptComputer(model, [one.prompt for one in requests if one.seeds])
        self.computed: dict[int, ComputedPrompt] = {}
        longest = max(len(request.prompt) for request in requests if request.seeds)
        capacity = min(model.config.sequence_length, longest + sampling.max_new_tokens)
        self.cache = model.empty_cache(places, capacity)
        self.decoder = make_decoder(model, self.cache)
        self.running: list[_Running | None] = [None] * places
        self.busy = np.zeros(places, dtype=np.bool_)
        """Whether a sample runs at each place. An array: a list of places costs as much as a product."""
        self.record = record
        self.prompt_experts: dict[int, NDArray[np.int16]] = {}
        """Of each request's prompt, where experts are recorded."""
        self.newest = np.zeros(places, dtype=np.int64)
        """The token chosen last, and where in the sequence it stands."""
        self.position = np.zeros(places, dtype=np.int64)
        self.seeds = np.zeros(places, dtype=np.uint64)
        self.drawn = np.zeros((places, DRAWS_AHEAD))
        self.counts = np.zeros(places, dtype=np.int64)
        """Tokens chosen for each place's sample, and how many it may have."""
        self.most = np.zeros(places, dtype=np.int64)
        most = min(sampling.max_new_tokens, model.config.sequence_length)
        self.tokens = np.zeros((places, most), dtype=np.int64)
        self.log_probs = np.zeros(self.tokens.shape if record else (0, 0), dtype=np.float32)
        self.experts = self._room_for_experts()
        """Chosen for each place's tokens as they were read again."""

    def _room_for_experts(self) -> NDArray[np.int16]:
        """(places, tokens, layers, top_k); nothing where they are not recorded."""
        places, most = self.tokens.shape if self.record else (0, 0)
        moes = [module for module in self.model.modules() if isinstance(module, MoE)]
        return np.zeros((places, most, len(moes), moes[0].top_k), dtype=np.int16)

    def run(self) -> Iterator[Sample]:
        """Every sample, as it finishes."""
        while True:
            if self.waiting and not self.busy.all():
                free = np.flatnonzero(~self.busy).tolist()
                # Some may end with their first token: their places are free again.
                yield from self._enter(free[: len(self.waiting)])
            elif self.busy.any():
                yield from self._step()
            else:
                return

    @torch.inference_mode()
    def _enter(self, places: list[int]) -> list[Sample]:
        """Put waiting samples at free places, each with its first token; those that it ends."""
        entering = [self.waiting.popleft() for _ in places]
        numbers = list(dict.fromkeys(number for number, _ in entering))
        missing = [number for number in numbers if number not in self.computed]
        prompts = [self.requests[number].prompt for number in missing]
        for number, computed in zip(missing, self.computer.compute(prompts), strict=True):
            self.computed[number] = computed
            if self.record:
                experts = self.computer.all_experts(computed)
                self.prompt_experts[number] = experts.to("cpu", torch.int16).numpy()
        for number in numbers:
            of_prompt = [
                place for place, (other, _) in zip(places, entering, strict=True) if other == number
            ]
            self.computed[number].copy_to(self.cache, of_prompt)
        for place, (number, seed) in zip(places, entering, strict=True):
            length = len(self.requests[number].prompt)
            room = self.model.config.sequence_length - length
            self.running[place] = _Running(number, seed)
            self.busy[place] = True
            self.position[place] = length - 1
            self.seeds[place], self.counts[place] = seed % 2**64, 0
            self.most[place] = min(room, self.sampling.max_new_tokens)
        # Each prompt's once: a stack of a row for every sample costs ten times as much.
        rows = {number: place for place, number in enumerate(numbers)}
        each = torch.stack([self.computed[number].logits for number in numbers])
        logits = each[[rows[number] for number, _ in entering]]
        still = {number for number, _ in self.waiting}
        self.computed = {number: one for number, one in self.computed.items() if number in still}
        return self._choose(np.array(places), logits)

    @torch.inference_mode()
    def _step(self) -> list[Sample]:
        """One more token for every running sample."""
        used = np.flatnonzero(self.busy)
        logits = self.decoder.step(self.newest, self.position)
        if self.record:
            chosen = self.decoder.experts().cpu().numpy().transpose(1, 0, 2)
            # What was read is the token chosen before; what a free place read goes nowhere.
            self.experts[np.arange(len(self.counts)), self.counts - 1] = chosen
        return self._choose(used, logits if len(used) == len(self.running) else logits[used])

    def _choose(self, places: NDArray[np.int64], logits: Tensor) -> list[Sample]:
        """Give each place's sample its next token; those that this ends."""
        counts = self.counts[places]
        uniform = torch.from_numpy(self._uniforms(places, counts)).to(self.device)
        chosen, log_probs = choose(logits, self.sampling, uniform, with_log_probs=self.record)
        if log_probs is not None:
            self.log_probs[places, counts] = log_probs.cpu().numpy()
        tokens = chosen.cpu().numpy()
        lost = tokens < 0
        # What stands at a lost sample's place is no token of it, but is read once more.
        tokens = np.where(lost, 0, tokens)
        self.newest[places] = self.tokens[places, counts] = tokens
        self.position[places] += 1
        self.counts[places] = counts + 1
        ended = (tokens == self.end_of_text_id) & ~lost
        full = counts + 1 >= self.most[places]
        # Few samples end at one step: only they, and those that may hold a stop text, are looked at.
        suspects = ended | full | self.stops.may_end(tokens) | lost
        return [
            sample
            for index in np.flatnonzero(suspects).tolist()
            if (sample := self._ended(int(places[index]), bool(ended[index]), bool(lost[index])))
            is not None
        ]

    def _uniforms(
        self, places: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The number of each place's next draw; many of a sample are made together."""
        within = counts % DRAWS_AHEAD
        due = places[within == 0]
        if due.size:
            ahead = self.counts[due, None] + np.arange(DRAWS_AHEAD)
            self.drawn[due] = uniforms(self.seeds[due, None], ahead.astype(np.uint64))
        return self.drawn[places, within]

    def _ended(self, place: int, ended: bool, lost: bool) -> Sample | None:
        """The sample at this place, if its newest token is its last, or if there was none for it."""
        running, count = self.running[place], int(self.counts[place])
        assert running is not None
        said = tuple(self.tokens[place, : count - (ended or lost)].tolist())
        if not (ended or lost or count >= self.most[place] or self.stops.in_newest(said)):
            return None
        self.running[place] = None
        self.busy[place] = False
        if lost:
            # Attention's zeros times a NaN that stays here would be NaN in the next sample.
            for layer in self.cache:
                layer.keys[place] = layer.values[place] = 0
        # A free place is computed all the same; its position must stay within the cache.
        self.position[place] = 0
        text, cut = self.stops.text(said)
        return Sample(
            request=running.request,
            seed=running.seed,
            tokens=said,
            text=text,
            finish="not_finite" if lost else finish_of(stopped=cut, ended=ended),
            unknown_token=not self.tokenizer.holds(said),
            record=self._recorded(running, place) if self.record else None,
        )

    def _recorded(self, running: _Running, place: int) -> SampleRecord:
        prompt = self.prompt_experts[running.request]
        own = self.experts[place, : self.counts[place] - 1].transpose(1, 0, 2)
        return SampleRecord(
            log_probs=self.log_probs[place, : self.counts[place]].copy(),
            experts=np.concatenate([prompt, own], axis=1),
        )


def with_experts_per_token(model: Transformer, experts_per_token: int | None) -> Transformer:
    """The same weights, not copied, computed with another k; None: the model itself.

    Its config keeps the trained k. k = 1 is allowed where training refuses it: each token then goes
    to its best expert with weight 1.

    Raises:
        UserError: k is below 1 or above the number of experts.
    """
    if experts_per_token is None or experts_per_token == model.config.top_k:
        return model
    if not 1 <= experts_per_token <= model.config.num_experts:
        raise UserError(
            f"experts_per_token={experts_per_token} must be between 1 and "
            f"num_experts={model.config.num_experts}"
        )
    shared = {id(value): value for value in (*model.parameters(), *model.buffers())}
    changed = copy.deepcopy(model, shared)
    for module in changed.modules():
        if isinstance(module, MoE):
            module.top_k = experts_per_token
    return changed
