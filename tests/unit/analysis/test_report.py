"""One page that holds the answer, escapes every name and needs nothing else."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from tests.fakes_analysis import (
    checkpoint,
    dense_helps,
    loss_row,
    rows_of,
    sparse_helps,
    study_of,
)

from isoflop.analysis.answer import answer
from isoflop.analysis.page.grids import command_line, device_text, environment_lines
from isoflop.analysis.report import report, write_report
from isoflop.analysis.study import read_study
from isoflop.config import UserError
from isoflop.records import CellState, write_rows, write_text

GRID = ((2, 2), (32, 2))
HOSTILE = "<script>alert('1')</script>"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """The page's words and addresses; fails on a tag that is closed in the wrong order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [
            v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset") and v
        ]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.addresses += [
            v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset") and v
        ]

    def handle_data(self, data):
        self.words.append(data)


def page_of(folder, study):
    return write_report(folder, study).read_text(encoding="utf-8")


def test_the_page_opens_with_the_answer_and_stands_alone(tmp_path):
    failed = CellState(cell=HOSTILE, seed=0, run="x", state="failed", reason="no <memory> left")
    study = study_of(rows_of(sparse_helps, dense_helps, steps=(100,), grid=GRID), [failed])
    text = page_of(tmp_path, study)
    page = Page(text)
    words = " ".join(" ".join(page.words).split())
    found = answer(study)
    sentences = (found.question, *found.tasks, *found.split)
    places = [words.index(" ".join(sentence.split())) for sentence in sentences]
    assert places == sorted(places)
    assert places[-1] < words.index("Against density")
    assert f"{HOSTILE}, seed 0: failed: no <memory> left" in words
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"@import|url\((?!#)", text)
    for expected in (
        "12.5",
        "torch",
        "isoflop run made-up --out 'a folder'",
        "not recorded",
        "Device: cpu",
    ):
        assert expected in words
    assert (tmp_path / "table.csv").is_file()
    assert (tmp_path / "table.json").is_file()


def test_hostile_names_are_escaped(tmp_path):
    row = checkpoint(cell=HOSTILE, losses=(loss_row("code", "validation", 2.0),))
    study = replace(study_of([row]), name=HOSTILE, config={"a": HOSTILE})
    text = page_of(tmp_path, study)
    assert "alert(" in text
    assert "<script>alert" not in text
    assert text.count("<script") == 2  # the data and the page's own


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [checkpoint()],
        [checkpoint(final=False)],
        [checkpoint(num_experts=e, losses=(loss_row("code", "validation", 2.0),)) for e in (2, 8)],
        [checkpoint(seconds=None, tokens_per_second=None)],
    ],
    ids=["no rows", "one row", "none final", "text alone", "no times"],
)
def test_little_data_gives_a_page(tmp_path, rows):
    study = replace(study_of(rows), corpus=(), mixture=(), environment={}, config=None)
    Page(page_of(tmp_path, study))


def write_folder(folder, rows):
    study = study_of(rows)
    write_text(folder / "experiment.json", json.dumps(study.config))
    write_rows(folder / "ledger.jsonl", study.rows)
    write_rows(folder / "cells.jsonl", study.states)
    write_rows(folder / "corpus.jsonl", study.corpus)
    write_rows(folder / "mixture.jsonl", study.mixture)
    write_text(folder / "env.json", json.dumps(study.environment))
    return study


def test_a_folder_is_read_back_and_reported_with_the_same_bytes(tmp_path):
    losses = (loss_row("code", "validation", 2.0),)
    study = write_folder(tmp_path, [checkpoint(num_experts=e, losses=losses) for e in (2, 8)])
    assert read_study(tmp_path) == study
    names = ("report.html", "table.csv", "table.json")
    report(tmp_path)
    first = [(tmp_path / name).read_bytes() for name in names]
    write_rows(tmp_path / "ledger.jsonl", study.rows[::-1])
    report(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in names] == first


@pytest.mark.parametrize("missing", ["experiment.json", "ledger.jsonl", "cells.jsonl"])
def test_a_folder_without_a_study_is_named(tmp_path, missing):
    write_folder(tmp_path, [checkpoint()])
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=f"no {missing}, so this is not the folder"):
        report(tmp_path)


def test_no_folder_and_broken_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        report(tmp_path / "nowhere")
    write_folder(tmp_path, [checkpoint()])
    write_text(tmp_path / "env.json", "[1]")
    with pytest.raises(UserError, match=r"env\.json: expected a JSON object"):
        report(tmp_path)
    write_text(tmp_path / "env.json", "{\n")
    with pytest.raises(UserError, match=r"env\.json:2: not JSON"):
        report(tmp_path)
    write_text(tmp_path / "env.json", "{}")
    write_text(tmp_path / "ledger.jsonl", '{"cell": 1}\n')
    with pytest.raises(UserError, match=r"ledger\.jsonl:1"):
        read_study(tmp_path)


def test_environment_is_flat_and_shows_no_folder_of_the_program():
    lines = environment_lines({"packages": {"torch": "2", "numpy": None}, "command": ["a"]})
    assert lines == (("packages.torch", "2"), ("packages.numpy", "not recorded"))
    assert command_line({"command": ["/somewhere/isoflop", "run", "a b"]}) == "isoflop run 'a b'"
    assert command_line({}) is None
    assert "device" not in dict(environment_lines({"device": "cpu"}))
    assert device_text({"device": "cpu"}) == "cpu"
    assert device_text({}) is None
