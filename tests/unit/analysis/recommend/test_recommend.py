"""A recommendation finds the known best, keeps to budgets and memories, and says what it rests on."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from isoflop.analysis.fits.text import short
from isoflop.analysis.laws import LAWS
from isoflop.analysis.recommend import Request, recommend
from isoflop.analysis.recommend.candidates import candidates
from isoflop.analysis.recommend.columns import task_column
from isoflop.analysis.recommend.speed import learn_speed
from isoflop.analysis.recommend.surrogate import learn
from isoflop.analysis.recommend.text import recommendation_to_json, recommendation_to_text
from isoflop.analysis.tables.derive import derive
from isoflop.analysis.tables.run_table import RunTable
from isoflop.config import UserError
from isoflop.model.config import ModelConfig
from isoflop.model.count import active_params, total_params, train_flops_per_token_megatron

NEAR = pytest.approx
LENGTH = 1024


def model(width, experts, top_k=2):
    return ModelConfig(
        vocabulary_size=8192,
        num_layers=8,
        d_model=width,
        num_heads=4,
        d_expert=2 * width,
        num_experts=experts,
        top_k=top_k,
        sequence_length=LENGTH,
    )


@functools.cache
def study(
    loss,
    *,
    tokens=(1e9, 4e9),
    noise=0.003,
    seeds=2,
    shapes=True,
    widths=(128, 256, 512),
    experts=(2, 4, 8, 16, 32),
):
    """Runs of three widths and five E, with a loss that is a function of N, E/k and D."""
    generator = np.random.default_rng(0)
    lines = []
    for width in widths:
        for number in experts:
            config = model(width, number)
            flops = train_flops_per_token_megatron(config, LENGTH)
            for amount in tokens:
                for seed in range(seeds):
                    value = loss(active_params(config), number / 2, amount)
                    value *= np.exp(noise * generator.normal())
                    lines.append((width, number, amount, seed, value, flops, config))
    numbers = {
        "tokens": [line[2] for line in lines],
        "seed": [float(line[3]) for line in lines],
        "task.bits_per_byte": [line[4] for line in lines],
        "train_flops": [line[5] * line[2] for line in lines],
        "total_params": [float(total_params(line[6])) for line in lines],
        "active_params": [float(active_params(line[6])) for line in lines],
        "num_experts": [float(line[1]) for line in lines],
        "top_k": [2.0] * len(lines),
        "tokens_per_second": [
            1 / (line[5] / 1e12 + 2e-13 * total_params(line[6])) for line in lines
        ],
    }
    if shapes:
        numbers["num_layers"] = [8.0] * len(lines)
        numbers["d_model"] = [float(line[0]) for line in lines]
        numbers["d_expert"] = [2.0 * line[0] for line in lines]
    cells = tuple(f"d{line[0]}-E{line[1]}-{line[2]:.0e}" for line in lines)
    return derive(
        RunTable(
            name="made-up",
            numbers={name: np.array(values, dtype=float) for name, values in numbers.items()},
            texts={"cell": cells},
            places=tuple(map(str, range(len(lines)))),
        )
    )


def small(loss, **more):
    """Twelve cells: too few for a law to compete, so that only a surface is learnt."""
    return study(loss, widths=(128, 512), experts=(2, 8, 32), **more)


def bowl(active, expansion, tokens):
    """Best at E/k = 4, better with size and tokens."""
    return 0.3 + 3 * active**-0.2 + 8 * tokens**-0.25 + 0.02 * np.log2(expansion / 4) ** 2


def monotone(active, expansion, tokens):
    """Each doubling of E/k helps."""
    return 0.3 + 3 * active**-0.2 * expansion**-0.12 + 8 * tokens**-0.25


@pytest.fixture(scope="module")
def bowl_table():
    return study(bowl)


@pytest.fixture(scope="module")
def usual(bowl_table):
    """What the bowl's study recommends for 3e18 FLOPs."""
    return recommend(bowl_table, Request(flops=3e18, tasks=(("task", 1.0),)))


def test_the_known_best_density_is_recommended(usual):
    found = usual
    assert found.best.num_experts == 8
    assert found.best.top_k == 2
    truth = bowl(found.best.active_params, 4, found.best.tokens)
    (prediction,) = found.best.predictions
    assert prediction.value == NEAR(truth, rel=0.02)
    assert prediction.low < prediction.value < prediction.high
    assert found.runner_up is not None
    assert 0.5 <= found.beats_runner_up <= 1.0


def test_where_sparsity_always_helps_the_sparsest_that_fits_is_recommended():
    table = small(monotone)
    free = recommend(table, Request(flops=3e18, tasks=(("task", 1.0),)))
    assert free.best.num_experts >= 32
    assert any("expansion" in line for line in free.best.at_ends)
    tight = 2.0 * total_params(model(512, 8))
    held = recommend(table, Request(flops=3e18, tasks=(("task", 1.0),), serve_memory_bytes=tight))
    assert held.best.serve_bytes <= tight
    assert held.best.total_params < free.best.total_params
    assert any("more memory for serving" in line for line in held.excluded)


def test_the_budget_is_spent_and_no_more():
    by_flops = recommend(small(bowl), Request(flops=2e18, tasks=(("task", 1.0),)))
    assert by_flops.best.flops == NEAR(2e18, rel=1e-6)
    by_hours = recommend(small(bowl), Request(gpu_hours=2.0, tasks=(("task", 1.0),)))
    assert by_hours.best.device_hours == NEAR(2.0, rel=1e-6)


def test_wall_clock_prefers_smaller_models_than_flops_where_memory_is_slow():
    found = recommend(small(monotone), Request(flops=3e18, tasks=(("task", 1.0),)))
    other = found.wall_clock_best
    assert other is not None
    assert other.device_hours == NEAR(found.best.device_hours, rel=1e-6)
    assert other.total_params <= found.best.total_params
    back = recommend(
        small(monotone), Request(gpu_hours=found.best.device_hours, tasks=(("task", 1.0),))
    )
    assert back.best.name == other.name
    assert back.wall_clock_best == back.best


def test_tokens_that_did_not_vary_are_held_and_said():
    found = recommend(study(bowl, tokens=(1e9,)), Request(flops=1e20, tasks=(("task", 1.0),)))
    assert found.best.tokens == 1e9
    assert any("nothing is known of other numbers" in note for note in found.notes)


def test_what_lies_beyond_the_table_is_said_and_far_beyond_refused():
    bowl_table = small(bowl)
    found = recommend(bowl_table, Request(flops=8e18, tasks=(("task", 1.0),)))
    assert any("tokens" in line for line in found.best.extrapolated)
    with pytest.raises(UserError, match="too far from what was run"):
        recommend(bowl_table, Request(flops=1e24, tasks=(("task", 1.0),)))


def test_a_next_run_says_how_much_it_settles(usual):
    found = usual
    assert len(found.next_runs) == 3
    shares = [run.share_settled for run in found.next_runs]
    assert shares == sorted(shares, reverse=True)
    assert all(0 <= share <= 1 for share in shares)
    assert len({run.name for run in found.next_runs}) == 3


def test_weights_move_the_answer():
    bowl_table = small(bowl)
    y = bowl_table.number("task.bits_per_byte")
    other = monotone(
        bowl_table.number("active_params"),
        bowl_table.number("num_experts") / 2,
        bowl_table.number("tokens"),
    )
    table = dataclasses.replace(
        bowl_table,
        numbers={**bowl_table.numbers, "facts.bits_per_byte": other, "task.bits_per_byte": y},
    )
    chosen = [
        recommend(table, Request(flops=3e18, tasks=(("task", 1.0), ("facts", weight)))).best
        for weight in (0.01, 100.0)
    ]
    assert chosen[0].num_experts < chosen[1].num_experts


def test_candidates_count_as_the_model_does(bowl_table):
    for found in candidates(bowl_table):
        config = model(found.d_model, found.num_experts, found.top_k)
        assert found.total_params == total_params(config)
        assert found.active_params == active_params(config)
        exact = train_flops_per_token_megatron(config, LENGTH)
        assert found.flops_per_token == NEAR(exact, rel=1e-6)
    assert {c.num_experts for c in candidates(bowl_table)} == {2, 4, 8, 16, 32, 64}


def test_without_shapes_only_the_tables_own_cells_are_candidates():
    found = candidates(study(bowl, shapes=False))
    assert all(one.measured for one in found)
    assert len(found) == 15


def test_speeds_are_learnt_as_work_and_memory(bowl_table):
    models = candidates(bowl_table)
    speed = learn_speed(bowl_table, models)
    assert speed.seconds_per_flop == NEAR(1e-12, rel=1e-3)
    assert speed.seconds_per_param == NEAR(2e-13, rel=1e-3)
    new = next(one for one in models if not one.measured)
    truth = new.flops_per_token / 1e12 + 2e-13 * new.total_params
    assert speed.seconds_per_token(new) == NEAR(truth, rel=1e-3)
    bare = dataclasses.replace(
        bowl_table,
        numbers={n: v for n, v in bowl_table.numbers.items() if n != "tokens_per_second"},
    )
    assert learn_speed(bare, models) is None
    with pytest.raises(UserError, match="a budget in GPU-hours needs tokens_per_second"):
        recommend(bare, Request(gpu_hours=1.0, tasks=(("task", 1.0),)))


def test_models_that_predict_left_out_cells_have_the_draws():
    from isoflop.analysis.laws.draw import draw_table
    from isoflop.analysis.laws.law import published_values
    from isoflop.analysis.recommend.recommend import _runs

    law = LAWS["chinchilla"]
    wide = draw_table(law, published_values(law).values, noise=0.002, num_seeds=2, seed=0)
    found = learn(_runs(wide, "train_loss"))
    (kind, share), *_ = found.kinds
    assert (kind, share > 0.5) == ("chinchilla", True)
    assert sum(share for _, share in found.kinds) == NEAR(1.0)
    bent = study(bowl)
    assert learn(_runs(bent, "task.bits_per_byte")).left_out_error < 0.01


def kinked(active, expansion, tokens):
    """Worse beyond E/k = 4 by a tenth a doubling: no parabola has a kink."""
    return bowl(active, 4, tokens) + 0.1 * np.maximum(np.log2(expansion / 4), 0)


def learnt(loss, **options):
    from isoflop.analysis.recommend.recommend import _runs

    # Fifteen cells: one fewer than a law needs to compete.
    return learn(_runs(study(loss, tokens=(1e9,), **options), "task.bits_per_byte"))


def test_a_kink_that_no_surface_has_is_seen_where_it_was_run():
    found = learnt(kinked)
    cells = found.runs.cells()
    predicted = found.predict(cells.settings)
    # Within what two seeds of 0.3% leave open; the parabola alone is off by 2%.
    np.testing.assert_allclose(np.log(predicted.mean), cells.response, atol=0.006)
    bare = [m.trend for m in found.members if m.field.size == 0 and len(m.trend.powers) == 5]
    alone = bare[0].at(cells.settings).mean
    assert np.abs(alone - cells.response).max() > 0.015


def test_draws_are_narrow_at_cells_and_widen_between_and_beyond_them():
    found = learnt(kinked)
    at = {name: values[:1] for name, values in found.runs.cells().settings.items()}
    spreads = []
    for factor in (1.0, 2**0.5, 64.0):
        place = {**at, "expansion": 16 * factor * np.ones(1)}
        spreads.append(float(np.log(found.predict(place).draws).std()))
    assert spreads[0] < spreads[1] < spreads[2]
    # Two seeds of 0.3% cannot tell a cell better than this by much.
    assert 0.001 < spreads[0] < 0.004


def test_a_place_has_the_same_draws_whatever_is_asked_beside_it():
    found = learnt(kinked)
    settings = found.runs.settings
    all_places = found.predict(settings).draws
    some = found.predict({name: values[5:9] for name, values in settings.items()}).draws
    np.testing.assert_allclose(all_places[:, 5:9], some, rtol=1e-9)


def test_one_seed_cannot_tell_misfit_from_luck_and_says_less():
    one, two = learnt(kinked, seeds=1), learnt(kinked)
    assert one.runs.cells().run_variance is None
    assert two.runs.cells().run_variance == NEAR(0.003**2, rel=0.8)
    place = {name: values[:1] for name, values in two.runs.cells().settings.items()}
    assert one.predict(place).draws.std() > two.predict(place).draws.std()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "a budget in FLOPs or in GPU-hours"),
        ({"flops": 1e18, "gpu_hours": 1.0}, "one of the two"),
        ({"flops": -1.0}, "must be above 0"),
        ({"flops": float("nan")}, "a budget of nan must be above 0 and finite"),
        ({"gpu_hours": float("inf")}, "a budget of inf must be above 0 and finite"),
        ({"flops": 1e18, "tasks": (("a", float("nan")),)}, "the weight of a is nan"),
        ({"flops": 1e18, "tasks": (("a", 0.0),)}, "the weight of a is 0"),
    ],
)
def test_requests_that_mean_nothing_are_refused(request_, words):
    with pytest.raises(UserError, match=words):
        Request(**request_)


def test_unknown_tasks_and_mixed_figures_are_refused():
    bowl_table = small(bowl)
    with pytest.raises(UserError, match="'maths' is neither a column nor a task; tasks: task"):
        recommend(bowl_table, Request(flops=3e18, tasks=(("maths", 1.0),)))
    both = dataclasses.replace(
        bowl_table,
        numbers={**bowl_table.numbers, "task.accuracy": np.full(len(bowl_table), 0.5)},
    )
    with pytest.raises(UserError, match="improve upwards and downwards cannot be added"):
        recommend(both, Request(flops=3e18, tasks=(("task", 1.0), ("task.accuracy", 1.0))))
    assert task_column(both, "task") == "task.bits_per_byte"
    with pytest.raises(UserError, match="no candidate fits the memory; the smallest"):
        recommend(bowl_table, Request(flops=3e18, tasks=(("task", 1.0),), train_memory_bytes=1e3))


def test_few_cells_are_refused():
    table = study(bowl)
    few = table.where(np.isin(np.array(table.cells), sorted(set(table.cells))[:3]))
    with pytest.raises(UserError, match=r"3 cells with .* a prediction needs at least 5 cells"):
        recommend(few, Request(flops=3e18, tasks=(("task", 1.0),)))


def test_words_and_json_hold_the_same_answer(usual):
    found = usual
    text, data = recommendation_to_text(found), json.loads(recommendation_to_json(found))
    assert data["best"]["name"] in text
    assert data["runner_up"]["name"] in text
    for words in ("Runner-up", "would settle", "Predicted by", "draws"):
        assert words in text
    assert data["best"]["num_experts"] == 8


def with_columns(table, texts=None, **numbers):
    """The table with other columns."""
    return dataclasses.replace(
        table, numbers={**table.numbers, **numbers}, texts={**table.texts, **(texts or {})}
    )


def test_the_answer_does_not_depend_on_whether_budgets_share_a_cells_name(usual):
    table = study(bowl)
    shapes = tuple(name.rsplit("-", 1)[0] for name in table.cells)
    runs = tuple(f"{cell}-{i}" for i, cell in enumerate(table.cells))
    same = derive(with_columns(table, {"cell": shapes, "run": runs}))
    request = Request(flops=3e18, tasks=(("task", 1.0),))
    one, other = recommend(table, request), recommend(same, request)
    assert one.surrogates[0].runs.cells().counts.tolist() == [2] * 30
    assert other.surrogates[0].runs.cells().counts.tolist() == [2] * 30
    assert other.best.weighted == NEAR(one.best.weighted)


def test_a_share_that_is_higher_where_better_is_raised_and_may_be_0():
    table = study(bowl)
    losses = table.numbers["task.bits_per_byte"]
    shares = np.where(losses > np.quantile(losses, 0.9), 0.0, np.exp2(-losses))
    for field in ("answer_probability", "pass@8"):
        found = recommend(
            with_columns(table, **{f"task.{field}": shares}),
            Request(flops=3e18, tasks=((f"task.{field}", 1.0),)),
        )
        assert found.better == "higher"
        assert len(found.surrogates[0].runs.figure) == len(shares)
        # E = 8 is the best, and a drop to 0 elsewhere may put it off by one.
        assert found.best.num_experts in (4, 8, 16)
        assert found.best.weighted > np.quantile(shares, 0.9)


@pytest.mark.parametrize("column", ["tokens", "tokens_per_second", "top_k"])
def test_what_is_no_figure_of_a_model_is_refused(column):
    with pytest.raises(UserError, match=f"{column} is no figure that a better model has"):
        recommend(study(bowl), Request(flops=3e18, tasks=((column, 1.0),)))


def test_reach_is_that_of_every_task_in_whatever_order():
    table = study(bowl)
    widths = table.numbers["d_model"]
    seen = np.where((widths < 512) & (table.numbers["tokens"] == 1e9), 0.5, np.nan)
    partly = with_columns(
        table, **{"other.bits_per_byte": seen * table.numbers["task.bits_per_byte"]}
    )
    tasks = (("task", 1.0), ("other", 1.0))
    one = recommend(partly, Request(flops=3e18, tasks=tasks))
    other = recommend(partly, Request(flops=3e18, tasks=tasks[::-1]))
    assert one.best.name == other.best.name
    assert one.best.tokens == other.best.tokens == 1e9
    assert set(one.best.extrapolated) == set(other.best.extrapolated)


def test_errors_of_two_figures_do_not_go_together():
    generator = np.random.default_rng(5)
    noise = {f"task{i}.bits_per_byte": np.exp(0.02 * generator.normal(size=60)) for i in (1, 2)}
    found = recommend(
        with_columns(study(bowl), **noise),
        Request(flops=3e18, tasks=(("task1", 1.0), ("task2", 1.0))),
    )
    place = {name: values[:1] for name, values in found.surrogates[0].runs.settings.items()}
    first, second = (one.predict(place).draws[:, 0] for one in found.surrogates)
    # 400 draws: three standard errors.
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15


def test_what_is_better_in_the_same_hours_says_how_far_it_was_not_run():
    found = recommend(study(bowl), Request(flops=6e18, tasks=(("task", 1.0),)))
    other = found.wall_clock_best
    assert other is not None
    text = recommendation_to_text(found)
    if other.name != found.best.name:
        assert f"(95% interval {short(other.weighted_low)}" in text
    for line in other.extrapolated:
        assert line in text
