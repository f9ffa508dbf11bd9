"""Task loss: the bits of a gold answer given its prompt, also where a token spans their join.

Prompt and answer are encoded together, as they were in training. Tokens wholly
in the prompt are context. Where the prompt's end is the end of a token, the
bits are the sum of -log2 p over the answer's tokens.

Where a token begins in the prompt and ends in the answer, its -log2 p would
charge the answer for the prompt's last bytes, the leftover, and cutting there
would ask for tokens the model never saw. So the token's probability is
conditioned on beginning with the leftover ("token healing"):

    bits = -log2( p(token) / sum of p(v) over all tokens v whose bytes begin with the leftover )

What this neglects: the text can also be spelt by tokens that end inside the
leftover or at the join, and the context before it in other tokens. Training
shows the model the tokenizer's own spelling nearly always, so such spellings
hold little probability; a sum over all of them has exponentially many terms.

The end of text is no part of the answer: its bits are not counted.

Shapes in this file:
    asked       tokens of one question that are scored
    vocabulary  tokens of the model's vocabulary, padding included

Source: task loss in bits per byte and per token, arXiv:2508.18672, section 3.2
(released evaluation code). The conditioning is ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from isoflop.config import UserError
from isoflop.evaluate.likelihood import Asked, read_likelihoods
from isoflop.model.transformer import Transformer
from isoflop.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt and its gold answer as one row of tokens."""

    tokens: tuple[int, ...]
    """Start, prompt and answer, encoded together."""
    first_answer: int
    """Place in `tokens` of the first token that reaches into the answer."""
    leftover: bytes
    """The prompt's bytes that this token begins with; empty if the answer begins a token."""
    num_bytes: int
    """UTF-8 bytes of the answer."""
    parted: bool = True
    """Whether the answer's bits can be told: False where a token without bytes spans the join."""

    @property
    def joined(self) -> bool:
        """Whether a token spans the join of prompt and answer."""
        return bool(self.leftover) or not self.parted

    @property
    def num_answer_tokens(self) -> int:
        """Tokens that reach into the answer."""
        return len(self.tokens) - self.first_answer


NOT_PARTED = "a token without bytes spans the join of prompt and answer"
"""Why a question has no task loss, though the model's logits are finite."""


class AnswerLoss(NamedTuple):
    """What one gold answer costs given its prompt."""

    bits: float
    num_tokens: int
    """Tokens that reach into the answer."""
    num_bytes: int
    """UTF-8 bytes of the answer."""
    joined: bool
    """Whether a token spans the join of prompt and answer."""


class ScoredAnswer(NamedTuple):
    """What one forward pass says of a question."""

    bits: float
    """Of the whole answer, given its prompt."""
    token_bits: tuple[float, ...]
    """-log2 p of each token from the place asked for on, as it stands: nothing is conditioned."""


def encode_question(
    tokenizer: Tokenizer, prompt: str, answer: str, *, start: tuple[int, ...] = ()
) -> Question:
    """Encode prompt and answer together and find where the answer begins.

    `start` holds tokens to stand before the prompt.

    Raises:
        UserError: an empty answer.
    """
    if not answer:
        raise UserError(f"the prompt {prompt[:60]!r} has an empty answer; give it one or remove it")
    spans = tokenizer.spans(prompt + answer)
    tokens = (*start, *(span.token for span in spans))
    join = len(prompt)
    prompt_bytes, answer_bytes = prompt.encode(), answer.encode()
    first = 0
    leftover, parted = b"", True
    for first, span in enumerate(spans):  # noqa: B007 - read after the loop
        if span.start_byte is not None and span.end_byte is not None:
            if span.end_byte > len(prompt_bytes):
                if span.start_byte < len(prompt_bytes):
                    # A space that the tokenizer puts in front of a text is the prompt's too.
                    whole = tokenizer.token_bytes(span.token)
                    leftover = whole[: len(whole) - (span.end_byte - len(prompt_bytes))]
                break
        elif span.end > join:
            parted = span.start >= join
            break
    return Question(
        tokens=tokens,
        first_answer=len(start) + first,
        leftover=leftover,
        num_bytes=len(answer_bytes),
        parted=parted,
    )


def fits(question: Question, sequence_length: int) -> bool:
    """Whether the model can score the whole answer: some context, and no token too many.

    The last token is only predicted, never read, so one more than the length fits.
    """
    return question.first_answer >= 1 and len(question.tokens) <= sequence_length + 1


def task_losses(
    model: Transformer,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    batch_items: int,
    start: tuple[int, ...] = (),
) -> list[AnswerLoss | None]:
    """The loss of each (prompt, answer), in order.

    None for one the model has no room for, or gives no finite logits for, or that a token
    without bytes joins to its prompt.

    Raises:
        UserError: an empty answer.
    """
    questions = [encode_question(tokenizer, *pair, start=start) for pair in pairs]
    room = model.config.sequence_length
    losses: list[AnswerLoss | None] = [None] * len(questions)
    kept = [place for place, question in enumerate(questions) if fits(question, room)]
    chosen = [questions[place] for place in kept]
    for place, bits in zip(
        kept, answer_bits(model, tokenizer, chosen, batch_items=batch_items), strict=True
    ):
        if bits is None:
            continue
        question = questions[place]
        losses[place] = AnswerLoss(
            bits, question.num_answer_tokens, question.num_bytes, question.joined
        )
    return losses


def answer_bits(
    model: Transformer, tokenizer: Tokenizer, questions: Sequence[Question], *, batch_items: int
) -> list[float | None]:
    """Bits of each question's answer, in order; None where there are none, see `score_answers`.

    Every question must fit the model.
    """
    firsts = [question.first_answer for question in questions]
    scored = score_answers(model, tokenizer, questions, firsts, batch_items=batch_items)
    return [None if one is None else one.bits for one in scored]


def score_answers(
    model: Transformer,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    firsts: Sequence[int],
    *,
    batch_items: int,
) -> list[ScoredAnswer | None]:
    """Bits of each answer, and of each single token from the places `firsts` on, in order.

    None where the logits are not finite or the question cannot be parted. `firsts` holds, for
    each question, a place from 1 to the
    number of its tokens. Every question must fit the model.
    """
    kept = [place for place, question in enumerate(questions) if question.parted]
    asked = [
        Asked(questions[place].tokens, min(firsts[place], questions[place].first_answer))
        for place in kept
    ]

    def read(number: int, logits: Float[Tensor, "asked vocabulary"]) -> ScoredAnswer:
        place = kept[number]
        question, begin = questions[place], asked[number].first
        targets = question.tokens[begin:]
        nats = -logits.log_softmax(dim=-1)[range(len(targets)), list(targets)]
        plain = (nats / math.log(2)).tolist()
        answer = question.first_answer - begin
        bits = plain[answer:]
        if question.joined:
            allowed = tokenizer.tokens_starting_with(question.leftover)
            bits[0] = healed_bits(logits[answer], targets[answer], allowed)
        return ScoredAnswer(math.fsum(bits), tuple(plain[firsts[place] - begin :]))

    found: list[ScoredAnswer | None] = [None] * len(questions)
    scored = read_likelihoods(model, asked, read, batch_items=batch_items)
    for place, one in zip(kept, scored, strict=True):
        found[place] = one
    return found


def healed_bits(logits: Float[Tensor, " vocabulary"], token: int, allowed: list[int]) -> float:
    """Bits of `token` among the tokens that are `allowed`, which it must be one of."""
    among = logits[torch.tensor(allowed, device=logits.device)]
    return (among.logsumexp(dim=0) - logits[token]).item() / math.log(2)
