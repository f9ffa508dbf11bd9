"""The bits of a task's gold answers, and an audit of the join between prompt and answer.

The reference encodes the prompt alone, counts its tokens, and takes what follows that many tokens
of prompt and answer encoded together. Where a token spans the join, that cut is wrong: it drops
the spanning token with the answer's first bytes, or takes prompt tokens for the answer's, or drops
further tokens of the answer. The audit gives both figures for every item; they agree wherever the
cut falls on the join, and there `lm-evaluation-harness` computes the same too.

Source of the cut: arXiv:2508.18672, released evaluation code. The conditioning at the join is ours,
see `isoflop.evaluate.losses`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from isoflop.evaluate.losses import ScoredAnswer, score_answers
from isoflop.evaluate.tasks.fit import Fitted
from isoflop.model.transformer import Transformer
from isoflop.tokens.tokenizer import Tokenizer


class GoldLoss(NamedTuple):
    """What the gold answer of one problem costs, and what the reference's cut would say."""

    bits: float
    choice_bits: tuple[float, ...] | None
    """Of each choice, where there are choices."""
    reference_bits: float
    """Of the tokens behind the reference's cut, each as it stands."""
    reference_tokens: int
    """Tokens behind the reference's cut; 0 where it leaves nothing of the answer."""


def gold_losses(
    model: Transformer, tokenizer: Tokenizer, fitted: Sequence[Fitted], *, batch_items: int
) -> list[GoldLoss | None]:
    """The losses of each problem, in order; None where logits of any of its answers are not finite."""
    questions = [question for one in fitted for question in one.questions]
    firsts = [reference_cut(one, place) for one in fitted for place in range(len(one.questions))]
    scored = score_answers(model, tokenizer, questions, firsts, batch_items=batch_items)
    losses: list[GoldLoss | None] = []
    at = 0
    for one in fitted:
        mine = scored[at : at + len(one.questions)]
        at += len(one.questions)
        finite = [answer for answer in mine if answer is not None]
        losses.append(_gold_loss(one, finite) if len(finite) == len(mine) else None)
    return losses


def reference_cut(fitted: Fitted, place: int) -> int:
    """Where the reference cuts: the number of the prompt's own tokens, at most all."""
    return min(len(fitted.prompt), len(fitted.questions[place].tokens))


def _gold_loss(fitted: Fitted, scored: Sequence[ScoredAnswer]) -> GoldLoss:
    gold = scored[fitted.problem.gold_choice or 0]
    return GoldLoss(
        bits=gold.bits,
        choice_bits=tuple(one.bits for one in scored) if fitted.problem.choices else None,
        reference_bits=math.fsum(gold.token_bits),
        reference_tokens=len(gold.token_bits),
    )
