"""Reasoning probe: the shortest path in a graph given in the prompt, on unseen graphs.

A document lists the edges, asks for a path and gives it: "a-b;c-b;c-d;a>d?a-b-c-d".

Source: "Mixture of Parrots", shortest path task (arXiv:2410.19034).
"""

import itertools
import random
from collections import deque
from collections.abc import Iterator
from string import ascii_lowercase

from isoflop.config import UserError
from isoflop.corpus.config import ShortestPathProbe
from isoflop.corpus.probes.texts import HELD_OUT, SEEN, ProbeTexts
from isoflop.corpus.seeds import generator
from isoflop.records import Document, EvaluationItem

Graph = frozenset[tuple[int, int]]
"""Undirected edges, each as (lower node, higher node)."""

MAX_DRAWS_WITHOUT_NEW = 10_000
"""Random graphs in a row that may be unfit or known before drawing stops. Chosen: with this
many, all but about one in ten thousand of the usable graphs by probability have been met."""

MAX_ENUMERATED_NODES = 6
"""Up to 2^15 graphs, so that all can be listed in seconds."""


def shortest_path(probe: ShortestPathProbe, seed: int) -> ProbeTexts:
    """Training graphs, validation graphs and questions, no graph twice.

    Raises:
        UserError: fewer different graphs exist, or can be met by drawing, than are asked for.
    """
    # Questions are drawn first: they do not depend on how many graphs are trained on.
    sizes = [probe.num_items, probe.num_validation, probe.num_problems]
    graphs = itertools.islice(_distinct_graphs(probe, seed), sum(sizes))
    spelling = generator(seed, "shortest path spelling", probe.name)
    spelled = [_spell(probe, graph, spelling) for graph in graphs]
    _require(probe, sum(sizes), len(spelled))
    asked, validation, train = (
        spelled[end - size : end]
        for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)
    )
    questions = [(SEEN, i, texts) for i, texts in enumerate(train[: probe.num_items])]
    questions += [(HELD_OUT, i, texts) for i, texts in enumerate(asked)]
    return ProbeTexts(
        train=_documents(probe, "train", train),
        validation=_documents(probe, "validation", validation),
        items=[
            EvaluationItem(
                id=f"{probe.name}-{split}-{i}",
                task=probe.name,
                split=split,
                prompt=prompt,
                answer=answer,
                final_answer=answer,
            )
            for split, i, (prompt, answer) in questions
        ],
    )


def unique_shortest_paths(graph: Graph, num_nodes: int, min_length: int) -> list[tuple[int, ...]]:
    """The paths of `min_length` edges or more that are the only shortest ones, by their ends."""
    paths = []
    for source in range(num_nodes):
        path_counts, before = _breadth_first(graph, source, num_nodes)
        for target in range(num_nodes):
            if path_counts[target] != 1:
                continue
            path = [target]
            while path[-1] != source:
                path.append(before[path[-1]])
            if len(path) > min_length:
                paths.append(tuple(reversed(path)))
    return paths


def _breadth_first(graph: Graph, source: int, num_nodes: int) -> tuple[list[int], list[int]]:
    """For each node, the number of shortest paths from `source` and its predecessor on one."""
    neighbours: list[list[int]] = [[] for _ in range(num_nodes)]
    for low, high in sorted(graph):
        neighbours[low].append(high)
        neighbours[high].append(low)
    distances, path_counts, before = [-1] * num_nodes, [0] * num_nodes, [source] * num_nodes
    distances[source], path_counts[source] = 0, 1
    waiting = deque([source])
    while waiting:
        node = waiting.popleft()
        for other in neighbours[node]:
            if distances[other] < 0:
                distances[other], before[other] = distances[node] + 1, node
                waiting.append(other)
            if distances[other] == distances[node] + 1:
                path_counts[other] += path_counts[node]
    return path_counts, before


def _distinct_graphs(probe: ShortestPathProbe, seed: int) -> Iterator[Graph]:
    """Usable graphs, none twice: random ones, then, if they are few, those that draws miss."""
    draws = generator(seed, "shortest path graphs", probe.name)
    pairs = list(itertools.combinations(range(probe.num_nodes), 2))
    met: set[Graph] = set()
    fruitless = 0
    while fruitless < MAX_DRAWS_WITHOUT_NEW:
        graph = frozenset(pair for pair in pairs if draws.random() < probe.edge_probability)
        new = graph not in met
        met.add(graph)
        if new and _usable(probe, graph):
            fruitless = 0
            yield graph
        else:
            fruitless += 1
    if probe.num_nodes <= MAX_ENUMERATED_NODES:
        every = (
            frozenset(itertools.compress(pairs, chosen))
            for chosen in itertools.product((False, True), repeat=len(pairs))
        )
        missed = [graph for graph in every if graph not in met and _usable(probe, graph)]
        draws.shuffle(missed)
        yield from missed


def _usable(probe: ShortestPathProbe, graph: Graph) -> bool:
    return bool(unique_shortest_paths(graph, probe.num_nodes, probe.min_length))


def _require(probe: ShortestPathProbe, asked: int, found: int) -> None:
    if found == asked:
        return
    exist = "exist" if probe.num_nodes <= MAX_ENUMERATED_NODES else "were found by drawing"
    raise UserError(
        f"{probe.name}: num_problems + num_validation + num_items = {asked} different graphs, but "
        f"only {found} {exist} with num_nodes={probe.num_nodes}, edge_probability="
        f"{probe.edge_probability} and min_length={probe.min_length}; ask for fewer, or raise "
        "num_nodes or lower min_length"
    )


def _spell(probe: ShortestPathProbe, graph: Graph, draws: random.Random) -> tuple[str, str]:
    """Prompt and answer for one of the graph's unique shortest paths."""
    path = draws.choice(unique_shortest_paths(graph, probe.num_nodes, probe.min_length))
    edges = [draws.sample(edge, 2) for edge in sorted(graph)]
    draws.shuffle(edges)
    listed = ";".join("-".join(ascii_lowercase[node] for node in edge) for edge in edges)
    prompt = f"{listed};{ascii_lowercase[path[0]]}>{ascii_lowercase[path[-1]]}?"
    return prompt, "-".join(ascii_lowercase[node] for node in path)


def _documents(probe: ShortestPathProbe, kind: str, group: list[tuple[str, str]]) -> list[Document]:
    return [
        Document(id=f"{probe.name}-{kind}-{i}", text=prompt + answer)
        for i, (prompt, answer) in enumerate(group)
    ]
