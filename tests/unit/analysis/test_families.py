"""Only what is matched is compared."""

from tests.fakes_analysis import GRID, TOKENS, checkpoint, flat, rows_of, score_row

from isoflop.analysis.families import (
    answer_split,
    families,
    final_cells,
    left_out,
    sample,
    score,
    sparsity_label,
    top_k_pairs,
    train_flops_with_router,
)
from isoflop.model.config import ModelConfig
from isoflop.model.count import (
    train_flops_per_token_megatron,
    train_flops_per_token_with_router,
)


def names(cells):
    return [cell.name for cell in cells]


def test_the_grid_is_one_family_and_the_other_k_a_pair_of_its_own():
    cells = final_cells(rows_of(flat, flat))
    (family,) = families(cells)
    assert names(family.cells) == [f"E{e}-k{k}" for e, k in GRID if k == 2]
    assert [names(pair) for pair in top_k_pairs(cells)] == [["E16-k2", "E32-k4"]]


def test_order_of_rows_does_not_matter():
    rows = rows_of(flat, flat)
    assert final_cells(rows) == final_cells(rows[::-1])


def test_only_final_checkpoints_enter():
    rows = rows_of(flat, flat, seeds=2)
    unfinished = [row for row in rows if not (row.final and row.cell == "E8-k2")]
    assert "E8-k2" not in names(final_cells(unfinished))
    assert all(row.final for cell in final_cells(rows) for row in cell.rows)


def test_other_active_parameters_or_tokens_are_not_compared():
    base = checkpoint(num_experts=8)
    near = checkpoint(num_experts=16, active_params=int(base.active_params * 1.005))
    far = checkpoint(num_experts=32, active_params=int(base.active_params * 1.02))
    short = checkpoint(num_experts=64, tokens=TOKENS // 2)
    (family,) = families(final_cells([base, near, far, short]))
    assert set(names(family.cells)) == {"E8-k2", "E16-k2"}
    assert len(families(final_cells([base, near, far]), tolerance=0.05)[0].cells) == 3


def test_a_dense_cell_of_another_k_joins_the_family():
    dense = checkpoint(num_experts=1, top_k=1, density=1.0, sparsity=0.0)
    (family,) = families(final_cells([dense, checkpoint(num_experts=8)]))
    assert names(family.cells) == ["E1-k1", "E8-k2"]


def test_memory_answers_on_seen_facts_and_reasoning_on_unseen_problems():
    rows, memory = rows_of(flat, flat), frozenset({"memory"})
    assert answer_split(rows, "memory", memory) == "seen"
    assert answer_split(rows, "reasoning", memory) == "held_out"
    assert answer_split(rows, "unknown", memory) is None


def test_a_missing_score_is_left_out_and_not_zero():
    scored = checkpoint(seed=0, scores=(score_row("memory", "seen", 0.5),))
    rows = [
        scored,
        checkpoint(seed=1),
        checkpoint(seed=2, scores=(score_row("memory", "seen", None),)),
    ]
    (cell,) = final_cells(rows)
    found = sample(cell, "memory", "seen", "accuracy")
    assert found is not None
    assert found.values == (0.5,)
    assert sample(cell, "reasoning", "seen", "accuracy") is None
    assert score(rows[1], "memory", "seen") is None


def test_errors_over_items_are_those_of_the_rows():
    perfect = score_row("memory", "seen", 1.0, accuracy_standard_error=0.002)
    (cell,) = final_cells([checkpoint(scores=(perfect,))])
    found = sample(cell, "memory", "seen", "accuracy")
    assert found is not None
    assert found.item_errors == (0.002,)


def test_another_shape_of_equal_active_parameters_is_no_member():
    rows = [checkpoint(num_experts=e) for e in (2, 8, 32)]
    deeper = [checkpoint(num_experts=e, num_layers=4, cell=f"deep-E{e}") for e in (2, 8)]
    wider = checkpoint(num_experts=16, d_model=64)
    found = families(final_cells([*rows, *deeper, wider]))
    assert [names(family.cells) for family in found] == [
        ["E2-k2", "E8-k2", "E32-k2"],
        ["deep-E2", "deep-E8"],
    ]
    assert names(cell for cell, _ in left_out(final_cells([*rows, wider]))) == ["E16-k2"]


def test_of_two_cells_of_one_density_none_is_dropped_in_silence():
    rows = [checkpoint(num_experts=e) for e in (2, 8, 32)]
    cells = final_cells([*rows, checkpoint(num_experts=8, cell="again")])
    (family,) = families(cells)
    assert names(family.cells) == ["E2-k2", "E32-k2"]
    found = {cell.name: twins for cell, twins in left_out(cells)}
    assert found == {"again": ("E8-k2",), "E8-k2": ("again",)}
    assert left_out(final_cells(rows)) == ()


def test_the_router_is_counted_as_in_the_model():
    shape = ModelConfig(
        vocabulary_size=256,
        num_layers=2,
        d_model=32,
        num_heads=2,
        d_expert=64,
        num_experts=8,
        top_k=2,
        sequence_length=64,
    )
    row = checkpoint(num_experts=8, train_flops=train_flops_per_token_megatron(shape, 64) * TOKENS)
    expected = train_flops_per_token_with_router(shape, 64) * TOKENS
    assert train_flops_with_router(row) == expected


def test_sparsity_in_words():
    assert sparsity_label(0.0) == "dense"
    assert sparsity_label(0.96875) == "96.9% sparse"
