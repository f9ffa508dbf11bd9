"""Seeds depend on their parts and on nothing else."""

from isoflop.corpus.seeds import generator, stable_hash


def test_hashes_are_pinned_and_part_by_part():
    assert stable_hash(0, "split", "a") == 9197079688608372934
    assert stable_hash(1, "a") != stable_hash("1", "a") != stable_hash("1a")
    assert generator(3, "x").random() == generator(3, "x").random() != generator(4, "x").random()
