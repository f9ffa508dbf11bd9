"""Laws of the training config: what it refuses, and where checkpoints lie."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import tiny_train
from isoflop.config import UserError


@given(st.integers(1, 400), st.data())
def test_checkpoints_are_distinct_evenly_spaced_and_end_with_the_run(num_steps, data):
    num_checkpoints = data.draw(st.integers(1, num_steps))
    train = tiny_train(
        train_tokens=num_steps * 256, warmup_steps=0, num_checkpoints=num_checkpoints
    )
    steps = train.checkpoint_steps
    assert len(set(steps)) == num_checkpoints
    assert list(steps) == sorted(steps)
    assert steps[0] >= 1
    assert steps[-1] == train.num_steps == num_steps
    # In whole numbers: at most half a step from the even place.
    places = [num_steps * (i + 1) for i in range(num_checkpoints)]
    assert all(
        2 * abs(step * num_checkpoints - place) <= num_checkpoints
        for step, place in zip(steps, places, strict=True)
    )


def test_tokens_are_rounded_down_to_whole_batches():
    assert tiny_train(train_tokens=20 * 256 + 255).num_steps == 20


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_tokens": 255}, "less than one batch of 256 tokens"),
        ({"train_tokens": 0}, "train_tokens=0 must be at least 1"),
        ({"batch_sequences": 0}, "batch_sequences=0 must be at least 1"),
        ({"log_steps": 0}, "log_steps=0 must be at least 1"),
        ({"validation_sequences": 0}, "validation_sequences=0 must be at least 1"),
        ({"micro_batch_sequences": 3}, "micro_batch_sequences=3 must divide batch_sequences=8"),
        ({"micro_batch_sequences": 0}, "micro_batch_sequences=0 must divide"),
        ({"warmup_steps": 20}, "warmup_steps=20 must be less than the run's 20 steps"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"peak_learning_rate": 0.0}, "peak_learning_rate must be above 0"),
        ({"peak_learning_rate": float("nan")}, "peak_learning_rate must be above 0"),
        ({"final_learning_rate_share": 1.1}, "final_learning_rate_share in [0, 1]"),
        ({"num_checkpoints": 21}, "num_checkpoints=21 must be at most the run's 20 steps"),
    ],
)
def test_nonsense_is_refused_with_its_value(changes, said):
    with pytest.raises(UserError) as raised:
        tiny_train(**changes)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("balance_scope", "Global", "balance_scope='Global' must be one of 'micro', 'sequence'"),
        ("precision", "float16", "precision='float16' must be one of 'float32', 'bfloat16'"),
        ("recompute", True, "recompute=True must be one of 'none', 'layers'"),
    ],
)
def test_a_word_that_a_field_does_not_know_is_refused(field, value, said):
    """Set from behind: in the tests, types are checked before the config can say so itself."""
    train = tiny_train()
    object.__setattr__(train, field, value)
    with pytest.raises(UserError, match=said):
        train.__post_init__()
