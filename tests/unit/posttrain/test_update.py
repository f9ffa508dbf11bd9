"""An update is the method's: by brute force, whatever the micro-batches; the first has ratio 1."""

import dataclasses
import statistics

import numpy as np
import pytest
import torch

from isoflop.config import UserError
from isoflop.model.transformer import Transformer
from isoflop.posttrain.grpo import MAX_DIVERGENCE
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


def advantages_by_hand(rollouts, config) -> list[float]:
    """Each reward less its group's mean, over the group's deviation."""
    rewards, size = [one.row.reward for one in rollouts], config.samples_per_prompt
    found = []
    for begin in range(0, len(rewards), size):
        group = rewards[begin : begin + size]
        over = statistics.stdev(group) + 1e-6 if config.advantage_scale == "group_std" else 1.0
        found += [(reward - statistics.fmean(group)) / over for reward in group]
    return found


def token_loss(log_p, before, base, entropy, advantage, config) -> torch.Tensor:
    """Of one token: objective, divergence from the reference, entropy."""
    ratio = (log_p - before).exp()
    bounded = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    d = base - log_p
    estimate = {
        "k1": -d,
        "k2": d**2 / 2,
        "k3": (d.exp() - d - 1).clamp(-MAX_DIVERGENCE, MAX_DIVERGENCE),
    }[config.divergence]
    if config.divergence_by_ratio:
        estimate = ratio * estimate
    return (
        -torch.minimum(ratio * advantage, bounded * advantage)
        + config.divergence_coefficient * estimate
        - config.entropy_coefficient * entropy
    )


def loss_by_hand(model, reference, rollouts, old, config) -> torch.Tensor:
    """Token by token, answer by answer, from full logits."""
    answers = []
    advantages = advantages_by_hand(rollouts, config)
    for one, advantage, before in zip(rollouts, advantages, old, strict=True):
        answer = answer_of(one)
        whole = torch.tensor([[*answer.prompt, *answer.response]])
        log_p = (model(whole).logits[0] / config.temperature).log_softmax(dim=-1)
        with torch.no_grad():
            base = (reference(whole).logits[0] / config.temperature).log_softmax(dim=-1)
        terms = []
        for place, token in enumerate(answer.response):
            at = len(answer.prompt) + place - 1
            entropy = -(log_p[at].exp() * log_p[at]).sum()
            said = (log_p[at, token], before[place], base[at, token], entropy)
            terms.append(token_loss(*said, advantage, config))
        answers.append(torch.stack(terms))
    every = torch.cat(answers)
    return {
        "token_mean": every.sum() / len(every),
        "sequence_mean": torch.stack([one.mean() for one in answers]).mean(),
        "constant": every.sum() / (len(answers) * config.max_response_tokens),
    }[config.aggregation]


def router_losses_by_hand(model, rollouts, config) -> torch.Tensor:
    """Of each micro-batch by its share of the answers, over its prompts, each once, and its answers."""
    answers = [answer_of(one) for one in rollouts]
    experts, top_k = model.config.num_experts, model.config.top_k
    total = torch.zeros(())
    for begin in range(0, len(answers), config.micro_batch_answers):
        part = answers[begin : begin + config.micro_batch_answers]
        probability, counts, z_sum, tokens = 0.0, 0, 0.0, 0
        for place, one in enumerate(part):
            read = [(1, (*one.prompt, *one.response[:-1]))]
            if place and part[place - 1].prompt == one.prompt:
                read.append((-1, one.prompt))
            for sign, row in read:
                _, seen = model.hidden(torch.tensor([row]))
                probability = probability + sign * seen.probability_sum[:, 0]
                counts = counts + sign * seen.counts[:, 0]
                z_sum = z_sum + sign * seen.z_sum
                tokens += sign * len(row)
        balance = experts * (counts / (top_k * tokens) * probability / tokens).sum(dim=-1)
        of_layers = config.balance_coefficient * balance + config.z_coefficient * z_sum / tokens
        total = total + len(part) / len(answers) * of_layers.sum()
    return total


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aggregation": "sequence_mean"},
        {"aggregation": "constant", "advantage_scale": "none"},
        {"divergence": "k1"},
        {"divergence": "k2"},
        {"divergence": "k1", "divergence_by_ratio": True},
        {"divergence": "k2", "divergence_by_ratio": True, "aggregation": "sequence_mean"},
        {"divergence": "k3", "divergence_by_ratio": True},
        {"temperature": 0.5},
        {"temperature": 2.0, "divergence_by_ratio": True, "entropy_coefficient": 0.3},
        {"clip_low": 0.05, "clip_high": 0.3},
        {"balance_coefficient": 2.0},
        {"z_coefficient": 0.5},
        {"balance_coefficient": 1.0, "z_coefficient": 0.2, "micro_batch_answers": 12},
    ],
    ids=str,
)
def test_gradients_are_those_of_the_loss_written_out(
    model, shape, tokenizer, problems, make_config, tmp_path, changes
):
    """In micro-batches of unequal size."""
    fields = {"mini_batch_prompts": 4, "micro_batch_answers": 5, "divergence_coefficient": 0.3}
    config = make_config(**(fields | changes))
    reference = Transformer(shape, seed=3)
    shake(reference, 100)
    rollouts = rolled(model, tokenizer, problems, config, tmp_path)
    scored = score(model, reference, rollouts, config)
    # Weights that have moved on, so that ratios differ from 1 and some are clipped.
    shake(model, 0)
    (mini_batch,) = scored
    old = [row for part in mini_batch.parts for row in part.old_log_probs]
    expected = loss_by_hand(model, reference, rollouts, old, config)
    expected = expected + router_losses_by_hand(model, rollouts, config)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    free = dataclasses.replace(config, max_gradient_norm=1e9)
    seen = update(model, still, mini_batch, free, step=1)
    assert seen.largest_ratio_deviation > 0.01
    for (name, weights), gradient in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(weights.grad, gradient, rtol=1e-3, atol=1e-5, msg=name)
    norm = torch.stack([one.norm() for one in gradients]).norm().item()
    assert seen.gradient_l2_norm == pytest.approx(norm, rel=1e-4)


def test_the_optimizer_is_adamw_with_the_configs_numbers(model, make_config):
    """Two steps by hand (arXiv:1711.05101, algorithm 2): the second tells the betas apart."""
    numbers = {"beta1": 0.6, "beta2": 0.7, "epsilon": 0.05, "weight_decay": 0.3}
    config = make_config(learning_rate=0.02, **numbers)
    optimizer = make_optimizer(model, config)
    weights = model.layers[0].attention.output
    expected = weights.detach().double()
    source = torch.Generator().manual_seed(0)
    first = second = torch.zeros_like(expected)
    for step in (1, 2):
        gradient = torch.randn(weights.shape, generator=source)
        weights.grad = gradient.clone()
        optimizer.step()
        first = 0.6 * first + 0.4 * gradient.double()
        second = 0.7 * second + 0.3 * gradient.double() ** 2
        expected = expected * (1 - 0.02 * 0.3)
        size = (second / (1 - 0.7**step)).sqrt() + 0.05
        expected = expected - 0.02 * first / (1 - 0.6**step) / size
    torch.testing.assert_close(weights.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_every_epoch_asks_each_problem_once_in_an_order_of_its_own(
    tokenizer, problems, make_config
):
    config = make_config()
    prompts, _ = encode_prompts(problems, tokenizer, config, 24, "train")

    def epoch(number: int, asked=config) -> list[str]:
        steps = range(3 * number + 1, 3 * number + 4)
        return [one.problem.id for step in steps for one in prompts_of_step(prompts, asked, step)]

    ids = [one.id for one in problems.problems]
    orders = [epoch(number) for number in range(4)]
    assert all(sorted(order) == sorted(ids) for order in orders)
    assert len({tuple(order) for order in [ids, *orders]}) == 5
    assert epoch(1) == orders[1]
    assert epoch(0, dataclasses.replace(config, seed=1)) != orders[0]


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
    assert 0 < scored[0].seen.largest_sampler_deviation < 1e-4
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
    seen = update(model, still, scored[0], config, step=1)
    assert seen.largest_ratio_deviation > 0.1
    # Trainer over sampler in the loss, sampler over trainer in the measurement.
    trainer = score(model, None, rollouts, dataclasses.replace(config, old_log_probs="trainer"))
    old = torch.cat([part.old_log_probs[part.batch.mask] for part in trainer[0].parts])
    expected = ((used - old).exp() - 1).abs().max().item()
    assert seen.seen.largest_sampler_deviation == pytest.approx(expected, rel=1e-4)


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
