"""An update is the method's: by brute force, whatever the micro-batches; the first has ratio 1."""

import dataclasses

import numpy as np
import pytest
import torch

from isoflop.config import UserError
from isoflop.model.transformer import Transformer
from isoflop.posttrain.loop import make_optimizer
from isoflop.posttrain.policy import Answer, AnswerBatch, say
from isoflop.posttrain.rollouts import encode_prompts, prompts_of_step, roll_out
from isoflop.posttrain.update import NOTHING_SEEN, answer_of, score, update


def rolled(model, tokenizer, problems, config, folder):
    prompts, _ = encode_prompts(problems, tokenizer, config, model.config.sequence_length, "train")
    chosen = prompts_of_step(prompts, config, 1)
    parts = roll_out(model, tokenizer, chosen, problems, config, step=1, folder=folder)
    return [one for part in parts for one in part]


ANSWERS = [
    Answer(prompt=(5, 6, 7), response=(9, 8, 1)),
    Answer(prompt=(40,), response=(3,)),
    Answer(prompt=(7,) * 9, response=(4, 4, 4, 4, 2)),
]


@pytest.mark.parametrize("entropy", ["value", "gradient"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probabilities_and_entropy_are_those_of_each_answer_alone(model, temperature, entropy):
    batch = AnswerBatch.of(ANSWERS, torch.device("cpu"))
    said = say(model, batch, temperature=temperature, entropy=entropy)
    assert said.entropy.requires_grad == (entropy == "gradient")
    for row, one in enumerate(ANSWERS):
        whole = torch.tensor([[*one.prompt, *one.response]])
        log_p = (model(whole).logits[0].double() / temperature).log_softmax(dim=-1)
        for place, token in enumerate(one.response):
            at = len(one.prompt) + place - 1
            assert said.log_probs[row, place].item() == pytest.approx(
                log_p[at, token].item(), abs=1e-5
            )
            expected = -(log_p[at].exp() * log_p[at]).sum().item()
            assert said.entropy[row, place].item() == pytest.approx(expected, abs=1e-5)
        assert batch.mask[row].sum() == len(one.response)
        assert not said.log_probs[row, len(one.response) :].any()


def test_router_statistics_leave_filling_out(model):
    batch = AnswerBatch.of(ANSWERS, torch.device("cpu"))
    said = say(model, batch, temperature=1.0)
    read = sum(len(one.prompt) + len(one.response) - 1 for one in ANSWERS)
    assert said.router.expert_counts.sum(dim=-1).tolist() == [2 * read, 2 * read]


@torch.no_grad()
def shake(model: Transformer, seed: int) -> None:
    for number, weights in enumerate(model.parameters()):
        source = torch.Generator().manual_seed(seed + number)
        weights.add_(0.02 * torch.randn(weights.shape, generator=source))


def loss_by_hand(model, reference, rollouts, advantages, old, config) -> torch.Tensor:
    """Token by token, answer by answer, from full logits."""
    terms, tokens = [], 0
    for one, advantage, before in zip(rollouts, advantages, old, strict=True):
        answer = answer_of(one)
        whole = torch.tensor([[*answer.prompt, *answer.response]])
        log_p = model(whole).logits[0].log_softmax(dim=-1)
        with torch.no_grad():
            base = reference(whole).logits[0].log_softmax(dim=-1)
        for place, token in enumerate(answer.response):
            at = len(answer.prompt) + place - 1
            ratio = (log_p[at, token] - before[place]).exp()
            bounded = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
            d = base[at, token] - log_p[at, token]
            terms.append(
                -torch.minimum(ratio * advantage, bounded * advantage)
                + config.divergence_coefficient * (d.exp() - d - 1)
            )
            tokens += 1
    return torch.stack(terms).sum() / tokens


def test_gradients_are_those_of_the_loss_written_out(
    model, shape, tokenizer, problems, make_config, tmp_path
):
    config = make_config(mini_batch_prompts=4, divergence_coefficient=0.3)
    reference = Transformer(shape, seed=3)
    shake(reference, 100)
    rollouts = rolled(model, tokenizer, problems, config, tmp_path)
    scored = score(model, reference, rollouts, config)
    # Weights that have moved on, so that ratios differ from 1 and some are clipped.
    shake(model, 0)
    (mini_batch,) = scored
    advantages = torch.cat([part.advantages for part in mini_batch.parts])
    old = [row for part in mini_batch.parts for row in part.old_log_probs]
    expected = loss_by_hand(model, reference, rollouts, advantages, old, config)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    free = dataclasses.replace(config, max_gradient_norm=1e9)
    seen = update(model, still, mini_batch, free, step=1)
    assert seen.largest_ratio_deviation > 0.01
    for (name, weights), gradient in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(weights.grad, gradient, rtol=1e-3, atol=1e-5, msg=name)
    norm = torch.stack([one.norm() for one in gradients]).norm().item()
    assert seen.gradient_l2_norm == pytest.approx(norm, rel=1e-4)


def test_the_first_update_on_fresh_samples_has_ratio_one_and_no_divergence(
    model, shape, tokenizer, problems, make_config, tmp_path
):
    config = make_config(mini_batch_prompts=4)
    reference = Transformer(shape, seed=3)
    rollouts = rolled(model, tokenizer, problems, config, tmp_path)
    scored = score(model, reference, rollouts, config)
    seen = update(model, make_optimizer(model, config), scored[0], config, step=1)
    assert seen.largest_ratio_deviation == 0.0
    assert seen.divergence == 0.0
    assert seen.clip_share == 0.0
    assert seen.gradient_l2_norm > 0
    # The sampler's own probabilities are the trainer's up to rounding.
    assert scored[0].seen.sampler_difference < 1e-5 * scored[0].num_tokens
    assert scored[0].seen.num_disagreeing == 0


def test_equal_groups_teach_nothing(model, tokenizer, problems, make_config, tmp_path):
    same = dataclasses.replace(problems, rewards=lambda answers: [
        dataclasses.replace(one, value=0.1) for one in problems.rewards(answers)])  # fmt: skip
    config = make_config(divergence_coefficient=0.0)
    rollouts = rolled(model, tokenizer, same, config, tmp_path)
    before = [weights.detach().clone() for weights in model.parameters()]
    scored = score(model, None, rollouts, config)
    still = torch.optim.SGD(model.parameters(), lr=1.0)
    for mini_batch in scored:
        seen = update(model, still, mini_batch, config, step=1)
        assert seen.gradient_l2_norm == seen.gradient_l1_norm == 0.0
    for weights, then in zip(model.parameters(), before, strict=True):
        assert torch.equal(weights, then)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_micro_batches_do_not_matter(
    model, shape, tokenizer, problems, make_config, tmp_path, aggregation
):
    gradients = []
    for size in (1, 5, 12):
        config = make_config(
            mini_batch_prompts=4,
            micro_batch_answers=size,
            aggregation=aggregation,
            entropy_coefficient=0.1,
            z_coefficient=0.0,
        )
        rollouts = rolled(model, tokenizer, problems, config, tmp_path)
        scored = score(model, Transformer(shape, seed=8), rollouts, config)
        still = torch.optim.SGD(model.parameters(), lr=0.0)
        update(model, still, scored[0], config, step=1)
        gradients.append([weights.grad.clone() for weights in model.parameters()])
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


def test_entropy_is_raised_and_router_losses_act_only_where_asked(
    model, tokenizer, problems, make_config, tmp_path
):
    found = {}
    for name, changes in {
        "plain": {},
        "entropy": {"entropy_coefficient": 5.0},
        "router": {"balance_coefficient": 5.0, "z_coefficient": 5.0},
    }.items():
        config = make_config(mini_batch_prompts=4, max_gradient_norm=1e9, **changes)
        fresh = Transformer(model.config, seed=3)
        rollouts = rolled(fresh, tokenizer, problems, config, tmp_path)
        scored = score(fresh, None, rollouts, config)
        step = torch.optim.SGD(fresh.parameters(), lr=0.01)
        seen = update(fresh, step, scored[0], config, step=1)
        after = score(fresh, None, rollouts, config)
        entropies = [one[0].seen.entropy / one[0].num_tokens for one in (scored, after)]
        found[name] = (entropies[1] - entropies[0], seen.policy_loss, fresh)
    assert found["entropy"][0] > max(0.0, found["plain"][0] + 1e-3)
    assert found["plain"][1] == found["router"][1] == found["entropy"][1]
    routers = [found[name][2].layers[0].moe.router for name in ("plain", "router")]
    assert not torch.allclose(*routers)


def test_replay_takes_away_what_drift_does(model, tokenizer, problems, make_config, tmp_path):
    """Drifted choices: trainer and sampler disagree without replay; with it not at all."""
    differences = {}
    for drift in (0.0, 0.5, 2.0):
        for replay in (False, True):
            config = make_config(router_drift=drift, replay_routing=replay)
            folder = tmp_path / str(drift)
            rollouts = rolled(model, tokenizer, problems, config, folder)
            scored = score(model, None, rollouts, config)
            seen = sum((one.seen for one in scored), NOTHING_SEEN)
            differences[drift, replay] = seen.sampler_difference / seen.num_tokens
            assert (seen.num_disagreeing > 0) == (drift > 0)
    assert differences[0.0, False] < 1e-5
    assert 1e-3 < differences[0.5, False] < differences[2.0, False]
    assert max(value for (_, replay), value in differences.items() if replay) < 1e-5


def test_the_samplers_probabilities_divide_the_ratio_where_asked(
    model, tokenizer, problems, make_config, tmp_path
):
    config = make_config(router_drift=2.0, old_log_probs="sampler", mini_batch_prompts=4)
    rollouts = rolled(model, tokenizer, problems, config, tmp_path)
    scored = score(model, None, rollouts, config)
    noted = np.concatenate([one.record.log_probs for one in rollouts])
    used = torch.cat([part.old_log_probs[part.batch.mask] for part in scored[0].parts])
    assert used.tolist() == pytest.approx(noted.tolist())
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    assert update(model, still, scored[0], config, step=1).largest_ratio_deviation > 0.1


@pytest.mark.parametrize("changes", [{}, {"entropy_coefficient": 0.1}, {"replay_routing": True}])
def test_a_first_update_that_scores_for_itself_is_the_same_to_the_bit(
    model, shape, tokenizer, problems, make_config, tmp_path, changes
):
    config = make_config(mini_batch_prompts=2, router_drift=0.5, **changes)
    rollouts = rolled(model, tokenizer, problems, config, tmp_path)
    found = []
    for first_by_update in (False, True):
        fresh = Transformer(shape, seed=3)
        scored = score(
            fresh, Transformer(shape, seed=8), rollouts, config, first_by_update=first_by_update
        )
        assert [one.parts[0].old_log_probs is None for one in scored] == [first_by_update, False]
        optimizer = make_optimizer(fresh, config)
        updates = [update(fresh, optimizer, one, config, step=1) for one in scored]
        weights = torch.cat([one.detach().flatten() for one in fresh.parameters()])
        found.append((weights, [one.seen for one in updates], [one.clip_share for one in updates]))
    assert torch.equal(found[0][0], found[1][0])
    # Entropy with gradients is summed in another order.
    for one, two in zip(found[0][1], found[1][1], strict=True):
        assert dataclasses.replace(one, entropy=0.0) == dataclasses.replace(two, entropy=0.0)
        assert one.entropy == pytest.approx(two.entropy, rel=1e-6)
    assert found[0][2] == found[1][2]


def test_weights_that_are_not_finite_stop_the_step(
    model, tokenizer, problems, make_config, tmp_path
):
    config = make_config()
    rollouts = rolled(model, tokenizer, problems, config, tmp_path)
    scored = score(model, None, rollouts, config)
    with torch.no_grad():
        model.head[5] = float("nan")
    before = model.layers[0].moe.down.detach().clone()
    with pytest.raises(UserError, match=r"step 7: policy loss .* must be finite; lower"):
        update(model, make_optimizer(model, config), scored[0], config, step=7)
    assert torch.equal(model.layers[0].moe.down, before)
