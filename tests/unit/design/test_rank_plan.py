"""What a rank needs and sends, by cell: sums that hold, and mistakes that are told."""

import json

import pytest

from fakes import tiny_model
from isoflop.config import UserError
from isoflop.design.family import Cell
from isoflop.design.layout import Layout
from isoflop.design.rank_plan import plan_ranks, rank_plan_to_json, rank_plan_to_table
from isoflop.design.ranks import RankStep, estimate_rank_memory, estimate_rank_traffic
from isoflop.experiments.paper import paper
from isoflop.model.count import total_params

STEP = RankStep(sequence_length=32, micro_batch_sequences=2, micro_batches=1)
CELLS = [Cell(name=f"E{e}-k2", model=tiny_model(num_experts=e)) for e in (4, 8)]


def test_one_rank_holds_everything_and_sends_nothing():
    for cell in CELLS:
        memory = estimate_rank_memory(cell.model, Layout(ranks=1), STEP)
        assert memory.states == 16 * total_params(cell.model)
        assert estimate_rank_traffic(cell.model, Layout(ranks=1), STEP).total == 0


@pytest.mark.parametrize("name", ["d512-E8-k2-320M-A170M", "d2048-E128-k16-52.2B-A7.1B"])
def test_parts_of_the_papers_cells_add_up(name):
    (model,) = (cell.model for cell in paper().cells if cell.name == name)
    step = RankStep(sequence_length=4096, micro_batch_sequences=1, micro_batches=16)
    for layout in (
        Layout(ranks=64, shard=64),
        Layout(ranks=64, shard=64, expert_parallel=8),
        Layout(ranks=64, shard=8, expert_parallel=8),
    ):
        memory = estimate_rank_memory(model, layout, step)
        # Copies of dense and expert weights are as many as the layout says, padding apart.
        least = 16 * total_params(model) / layout.ranks
        copies = max(layout.replicas, layout.expert_replicas)
        assert least <= memory.states <= 1.001 * copies * least


def test_more_micro_batches_gather_more_often_and_reduce_as_often():
    layout = Layout(ranks=4, shard=2, expert_parallel=2)
    one, four = (
        estimate_rank_traffic(
            CELLS[1].model,
            layout,
            RankStep(
                sequence_length=32,
                micro_batch_sequences=8 // count,
                micro_batches=count,
                balance_scope="micro",
            ),
        )
        for count in (1, 4)
    )
    assert four.all_gather == 4 * one.all_gather
    assert four.reduce_scatter == 4 * one.reduce_scatter
    assert four.all_reduce == one.all_reduce
    assert four.all_to_all == pytest.approx(one.all_to_all, rel=0.05)


def test_recomputing_sends_tokens_again():
    layout = Layout(ranks=2, expert_parallel=2)
    model = CELLS[1].model
    plain, again = (
        estimate_rank_traffic(
            model,
            layout,
            RankStep(
                sequence_length=32, micro_batch_sequences=2, micro_batches=1, recompute=recompute
            ),
        ).all_to_all
        for recompute in ("none", "layers")
    )
    assert again == pytest.approx(1.5 * plain, rel=0.05)


def test_table_and_json_have_a_line_a_cell():
    given = {"batch_sequences": 8, "micro_batch_sequences": None, "step": STEP}
    rows = plan_ranks(CELLS, Layout(ranks=4, shard=2, expert_parallel=2), **given)
    table = rank_plan_to_table(rows).splitlines()
    assert [line.split()[0] for line in table[1:3]] == ["E4-k2", "E8-k2"]
    assert table[-1].startswith("each of 4 ranks, shard 2, expert parallel 2: 1 micro-batches of 2")
    told = json.loads(rank_plan_to_json(rows))
    assert told[0]["memory_bytes"] == rows[0].memory.total
    assert told[1]["sent_bytes_per_step"] == rows[1].traffic.total
    with pytest.raises(UserError, match="E4-k2: expert_parallel=8 must divide num_experts=4"):
        plan_ranks(CELLS, Layout(ranks=8, expert_parallel=8), **given)
    with pytest.raises(UserError, match="a plan needs at least one cell"):
        plan_ranks([], Layout(ranks=1), **given)
