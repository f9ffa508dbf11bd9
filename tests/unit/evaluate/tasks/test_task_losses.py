"""Task losses: equal to the harness where its cut falls on the join, and audited where it does not."""

import math

import pytest
import torch

from isoflop.evaluate.tasks.fit import fit
from isoflop.evaluate.tasks.losses import gold_losses
from isoflop.evaluate.tasks.problem import Problem

PAIRS = [
    ("the sheep", " sheared"),
    ("thence she showed", " 12 and 1234"),
    ("the shore the", " sheep"),
    ("12", "34"),
    ("the she", "ep"),  # Inside " sheep".
    ("the shore ", "the"),  # " the" begins with the prompt's space.
    ("\u00e9", "t\u00e9 l\u00e0"),
]
START = (0,)


def problem(prompt: str, answer: str, choices=None) -> Problem:
    return Problem(
        id=prompt,
        task="test",
        prompt=prompt,
        answer=answer,
        golds=(),
        choices=choices,
        program=None,
    )


def losses_of(model, tokenizer, pairs):
    fitted = [fit(tokenizer, problem(*pair), 48, start=START) for pair in pairs]
    assert None not in fitted
    return fitted, gold_losses(model, tokenizer, fitted, batch_items=4)


@torch.inference_mode()
def plain_bits(model, tokens, first):
    log_p = model(torch.tensor([tokens])).logits[0].double().log_softmax(dim=-1)
    places = range(first, len(tokens))
    return -sum(log_p[at - 1, tokens[at]].item() for at in places) / math.log(2)


def test_the_reference_takes_what_follows_the_prompts_own_tokens(model, merging):
    """By definition, one forward pass each; the table holds cuts on the join and off it."""
    fitted, losses = losses_of(model, merging, PAIRS)
    off = 0
    for (prompt, answer), one, loss in zip(PAIRS, fitted, losses, strict=True):
        whole = [*START, *merging.encode(prompt + answer)]
        cut = min(len(START) + len(merging.encode(prompt)), len(whole))
        assert loss.reference_tokens == len(whole) - cut
        assert loss.reference_bits == pytest.approx(plain_bits(model, whole, cut), rel=1e-5)
        if one.gold.joined or cut != one.gold.first_answer:
            off += 1
            assert loss.reference_bits != pytest.approx(loss.bits, rel=1e-3)
        else:
            assert loss.reference_bits == pytest.approx(loss.bits, abs=1e-12)
    assert 2 <= off <= len(PAIRS) - 3


def test_the_harness_gives_the_same_log_likelihood_where_its_cut_is_right(model, merging):
    """Its own pairing of context and continuation, on our tokenizer and model."""
    api = pytest.importorskip("lm_eval.api.model")
    instance = pytest.importorskip("lm_eval.api.instance").Instance

    class Ours(api.TemplateLM):
        eot_token_id = 0

        def tok_encode(self, string, add_special_tokens=None, **others):
            return merging.encode(string)

        def _loglikelihood_tokens(self, requests, **others):
            found = []
            for _, context, continuation in requests:
                tokens = [*START, *context, *continuation]
                bits = plain_bits(model, tokens, len(tokens) - len(continuation))
                found.append((-bits * math.log(2), False))
            return found

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            raise NotImplementedError

        def generate_until(self, requests, disable_tqdm=False):
            raise NotImplementedError

    requests = [
        instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in PAIRS
    ]
    theirs = [value for value, _ in Ours().loglikelihood(requests, disable_tqdm=True)]
    fitted, losses = losses_of(model, merging, PAIRS)
    equal = 0
    for (prompt, _), one, loss, their in zip(PAIRS, fitted, losses, theirs, strict=True):
        spaces = prompt != prompt.rstrip()
        if one.gold.joined or loss.reference_tokens != one.gold.num_answer_tokens:
            # The harness charges the answer for the prompt's last space, or drops a token.
            assert spaces or their != pytest.approx(-loss.bits * math.log(2), rel=1e-3)
            continue
        assert their == pytest.approx(-loss.bits * math.log(2), rel=1e-5)
        equal += 1
    assert equal >= 3


def test_choices_are_each_scored_and_the_right_one_is_the_gold_answer(model, merging):
    choices = (" sheared", " showed", " 12")
    (one,), (loss,) = (
        [fit(merging, problem("the sheep", " showed", choices), 48, start=START)],
        losses_of(model, merging, [("the sheep", choice) for choice in choices])[1][:1],
    )
    (found,) = gold_losses(model, merging, [one], batch_items=2)
    apart = [
        gold.bits for gold in losses_of(model, merging, [("the sheep", c) for c in choices])[1]
    ]
    assert found.choice_bits == pytest.approx(apart, rel=1e-5)
    assert found.bits == found.choice_bits[1]
    assert loss.choice_bits is None


def test_shots_are_cut_first_and_then_the_problem_is_refused(plain_bytes):
    """One token a byte, 20 tokens of context; the last token is only predicted."""
    shots = ("s1=aaaa\n", "s2=bbbb\n")

    def cut(question: str, answer: str):
        asked = Problem(
            id="1", task="test", prompt="".join(shots) + question, answer=answer, golds=(),
            choices=None, program=None, shots=shots,
        )  # fmt: skip
        return fit(plain_bytes, asked, 20, start=START)

    whole = cut("q=", "aa")
    assert (whole.num_cut_shots, whole.problem.shots) == (0, shots)
    one = cut("q=", "aaa")
    assert (one.num_cut_shots, one.problem.prompt) == (1, "s2=bbbb\nq=")
    none = cut("q=", "a" * 18)
    assert (none.num_cut_shots, none.problem.prompt) == (2, "q=")
    assert cut("q=", "a" * 19) is None
    assert cut("q" * 30, "a") is None
