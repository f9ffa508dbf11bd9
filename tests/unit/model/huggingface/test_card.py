"""The card is valid for the hub whatever the study's names hold, and says where a model is from."""

from dataclasses import replace

import yaml

from fakes_huggingface import shape
from isoflop.model.huggingface.card import Lineage, model_card

LINEAGE = Lineage(
    experiment="desk",
    run="E4-k2-s3-0123abcd",
    cell="E4-k2",
    seed=3,
    step=100,
    train_tokens=25_600,
    planned_train_tokens=51_200,
    balance_coefficient=0.01,
    config_digest="0123abcd",
    tokenizer_digest="89abcdef",
    corpora={"memory": "11111111", "notes": "22222222"},
    tokens={"memory": "33333333", "notes": "44444444"},
    shares={"memory": 3.0, "notes": 1.0},
    environments=(
        {"packages": {"torch": "2"}, "python": "3.11", "device": "cpu", "commit": "abc"},
    ),
)


def card(lineage: Lineage | None) -> str:
    return model_card(
        shape(), "deadbeef", dtype="float32", lineage=lineage, tokenizer="tokenizer.json"
    )


def header(text: str) -> dict[str, object]:
    start, front, _ = text.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(front)


def test_the_header_is_yaml_that_the_hub_reads():
    found = header(card(LINEAGE))
    assert found["library_name"] == "transformers"
    assert found["pipeline_tag"] == "text-generation"
    assert "mixture-of-experts" in found["tags"]


def test_every_fact_of_the_lineage_is_told():
    text = card(LINEAGE)
    for fact in ("desk", "E4-k2-s3-0123abcd", "25,600 of 51,200", "89abcdef", "deadbeef"):
        assert fact in text
    assert "| source memory | 75.0% of the tokens; corpus 11111111, shards 33333333 |" in text
    assert "torch 2; Python 3.11; cpu; commit abc" in text


def test_a_name_cannot_break_the_table():
    odd = replace(LINEAGE, experiment="a | b\n---\n# c")
    assert "| experiment | a \\| b --- # c |" in card(odd)


def test_an_unknown_origin_is_said():
    text = card(None)
    assert "Not known" in text
    assert "trained from random weights" not in text
