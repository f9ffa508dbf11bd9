"""Lines of Megatron-LM become rows; what is torn, mixed or not finite is set aside with its place."""

import pytest

from isoflop.config import UserError
from isoflop.megatron.log import parse_log, read_log

STAMP = " [2026-11-26 09:00:00.123] "


def line(step: int, loss: str = "6.123456E+00", total: int = 250) -> str:
    return (
        f"{STAMP}iteration {step:8d}/{total:8d} | consumed samples: {step * 32:12d} | elapsed time "
        "per iteration (ms): 812.5 | throughput per GPU (TFLOP/s/GPU): 201.3 | learning rate: "
        "4.000000E-05 | global batch size:    32 | "
        f"lm loss: {loss} | load_balancing_loss: 1.050000E+00 | z_loss: 1.200000E-01 | loss scale: "
        "1.0 | grad norm: 1.500 | number of skipped iterations:   0 | number of nan iterations:   0 |"
    )


def test_every_figure_of_a_line_is_read():
    (row,) = parse_log([line(10)], "log").steps
    assert (row.step, row.num_steps, row.samples) == (10, 250, 320)
    assert (row.train_loss, row.balance_loss, row.z_loss) == (6.123456, 1.05, 0.12)
    assert (row.seconds_per_step, row.learning_rate, row.gradient_norm) == (0.8125, 4e-5, 1.5)
    assert row.skipped_steps == 0


def test_validation_and_other_lines():
    lines = [
        "building GPT model ...",
        "(min, max) time across ranks (ms):",
        line(250),
        "-" * 80,
        " validation loss at iteration 250 | lm loss value: 3.100000E+00 | lm loss PPL: 2.219795E+01 | ",
        " test loss at iteration 250 on test set | lm loss value: 3.2E+00 | lm loss PPL: 2.4E+01 | ",
    ]
    log = parse_log(lines, "log")
    assert log.reached == log.steps[-1].num_steps
    assert [(one.step, one.split, one.loss) for one in log.losses] == [
        (250, "test", 3.2),
        (250, "validation", 3.1),
    ]
    assert not log.set_aside


def test_a_run_started_again_replaces_what_it_trained_twice():
    lines = [line(step, f"{step}.0") for step in (10, 20, 30)]
    lines += [line(20, "21.0"), line(30, "31.0"), line(40, "40.0")]
    found = [(row.step, row.train_loss) for row in parse_log(lines, "log").steps]
    assert found == [(10, 10.0), (20, 21.0), (30, 31.0), (40, 40.0)]
    # Killed again just after: what was to come is not known.
    again = parse_log([*lines[:3], line(20, "21.0")], "log")
    assert [row.step for row in again.steps] == [10, 20]
    assert again.reached < again.steps[-1].num_steps


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (line(20)[:150], "cut short"),
        (line(20, "nan"), "'lm loss' is nan"),
        (line(20, "6.1E"), "'lm loss' is '6.1E', not a number"),
        (line(20)[:-1] + "| lm loss: 2.0 |", "'lm loss' is there twice"),
        (line(300), "iteration 300 of 250"),
        (line(20).replace("grad norm: 1.500", "grad norm 1.5"), "is no name with a number"),
        (" validation loss at iteration 20 | lm loss value: nan | ", "'lm loss value' is nan"),
    ],
)
def test_a_broken_line_is_set_aside(broken, why):
    log = parse_log([line(10), broken, line(30)], "run.log")
    assert [row.step for row in log.steps] == [10, 30]
    assert not log.losses
    (aside,) = log.set_aside
    assert aside.where == "run.log:2"
    assert why in aside.detail


def test_a_figure_that_is_not_there_is_none():
    text = "iteration 7/ 9 | consumed samples: 8 | number of skipped iterations: 1 |"
    (row,) = parse_log([text], "log").steps
    assert (row.train_loss, row.gradient_norm, row.balance_loss) == (None, None, None)
    assert row.skipped_steps == 1


def test_a_file_without_rows_is_told(tmp_path):
    with pytest.raises(UserError, match=r"none\.log: No such file"):
        read_log(tmp_path / "none.log")
    (tmp_path / "a.log").write_text("usage: pretrain_gpt.py\n" + line(10, "nan") + "\n")
    with pytest.raises(UserError, match=r"a\.log: no line of .*:2: 'lm loss' is nan"):
        read_log(tmp_path / "a.log")
