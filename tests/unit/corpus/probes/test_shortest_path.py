"""Gold paths are the only shortest ones, and no graph is used twice."""

import itertools
import re

import pytest

from isoflop.config import UserError, override
from isoflop.corpus import ShortestPathProbe
from isoflop.corpus.probes.shortest_path import shortest_path

PROBE = ShortestPathProbe(num_problems=300, num_validation=30, num_items=40)


def parsed(text: str) -> tuple[frozenset[frozenset[str]], str, str, list[str]]:
    """Edges, ends and path of a document."""
    prompt, _, path = text.partition("?")
    *edges, question = prompt.split(";")
    return frozenset(frozenset(e.split("-")) for e in edges), *question.split(">"), path.split("-")


def shortest_paths(edges: frozenset[frozenset[str]], source: str, target: str) -> list[list[str]]:
    """All shortest paths, by trying every sequence of nodes, shorter ones first."""
    nodes = sorted(set().union(*edges) - {source, target})
    for between in range(len(nodes) + 1):
        walks = ([source, *middle, target] for middle in itertools.permutations(nodes, between))
        found = [w for w in walks if all({a, b} in edges for a, b in itertools.pairwise(w))]
        if found:
            return found
    return []


@pytest.mark.parametrize("probe", [PROBE, override(PROBE, "min_length=3")])
def test_the_gold_path_is_the_only_shortest_one(probe):
    for document in shortest_path(probe, 0).train[:100]:
        edges, source, target, path = parsed(document.text)
        assert shortest_paths(edges, source, target) == [path]
        assert len(path) > probe.min_length
        assert re.fullmatch(r"([a-h]-[a-h];)+[a-h]>[a-h]\?[a-h](-[a-h])+", document.text)


def test_no_graph_is_both_trained_on_and_held_out():
    texts = shortest_path(PROBE, 1)
    train = [document.text for document in texts.train]
    others = [document.text for document in texts.validation]
    others += [item.prompt + item.answer for item in texts.items if item.split == "held_out"]
    assert (len(train), len(others)) == (300, 70)
    assert len({parsed(text)[0] for text in train + others}) == 370
    seen = [item for item in texts.items if item.split == "seen"]
    assert len(seen) == 40
    assert all(item.prompt + item.answer in train for item in seen)


def test_questions_do_not_depend_on_how_many_graphs_are_trained_on():
    more = shortest_path(override(PROBE, "num_problems=500"), 1).items
    less = shortest_path(PROBE, 1).items
    assert [i for i in more if i.split == "held_out"] == [i for i in less if i.split == "held_out"]


def test_all_graphs_that_exist_can_be_asked_for_and_not_one_more():
    # Of the 64 graphs of four nodes, counted by trying all paths of all of them.
    pairs = [frozenset(pair) for pair in itertools.combinations("abcd", 2)]
    graphs = itertools.chain.from_iterable(itertools.combinations(pairs, n) for n in range(7))
    exist = 0
    for graph in graphs:
        ends = itertools.combinations(sorted(set().union(*graph)), 2)
        paths = [shortest_paths(frozenset(graph), a, b) for a, b in ends]
        exist += any(len(found) == 1 and len(found[0]) > 2 for found in paths)
    probe = ShortestPathProbe(
        num_nodes=4, num_problems=exist - 4, num_validation=2, num_items=2, edge_probability=0.1
    )
    assert len(shortest_path(probe, 0).train) == exist - 4
    with pytest.raises(UserError, match=f"= {exist + 1} different graphs, but only {exist} exist"):
        shortest_path(override(probe, f"num_problems={exist - 3}"), 0)


def test_a_small_sample_is_pinned():
    texts = shortest_path(override(PROBE, "num_problems=2"), 0)
    assert [document.text for document in texts.train] == [
        "d-f;e-g;a-h;c-f;e-f;c-b;d-e;b>d?b-c-f-d",
        "e-h;f-h;g-h;g>e?g-h-e",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("num_nodes=27", "num_nodes=27 must be 3 to 26"),
        ("edge_probability=1.0", "edge_probability=1.0 in"),
        ("min_length=8", "min_length=8 must be 1 to num_nodes - 1"),
        ("num_items=0", "num_items=0 must be at least 1"),
    ],
)
def test_impossible_graphs_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        override(PROBE, change)
