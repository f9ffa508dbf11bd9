"""Figures of stages against counts made by hand; a page that holds what it should and nothing it runs."""

import asyncio
import json
import re

import pytest

from fakes_corpus import row
from isoflop.config import UserError
from isoflop.corpus.difference import side_by_side
from isoflop.corpus.filters.config import FilterConfig
from isoflop.corpus.intake import CorpusInput, input_digest, open_input
from isoflop.corpus.report import rewritten_pairs, stats_to_json, stats_to_text, write_report
from isoflop.corpus.rewrite import CodeRewriter, CodeRules, RewriteConfig, rewrite
from isoflop.corpus.rows import Rewriting
from isoflop.corpus.shards import OutputConfig, Stage, write_stage
from isoflop.corpus.stats import funnel, stage_stats, stats_of

EVIL = "<script>alert(1)</script>"


def made(prompt_tokens, completion_tokens):
    return Rewriting(
        rewriter="model", prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
    )


ROWS = [
    row("a" * 50, lint_score=9.0, pylint_score=9.5, compiles=True, comment_language="english"),
    row("b" * 500, lint_score=7.0, pylint_score=7.0, compiles=True, comment_language="english"),
    row(
        f"c = 1  # {EVIL}",
        lint_score=-1.0,
        pylint_score=0.0,
        compiles=True,
        rejected_by="lint",
        reason="low score",
        detail=EVIL,
    ),
    row("d", compiles=False, rejected_by="syntax", reason="SyntaxError", detail="x"),
    row("", rejected_by="read", reason="not UTF-8", detail="byte 3"),
]
REWRITTEN = [
    row("a" * 40 + EVIL, parent_id=ROWS[0].id, stage="sgcr", rewriting=made(10, 20), compiles=True),
    row("b" * 600, parent_id=ROWS[1].id, stage="sgcr", rewriting=made(11, None), compiles=True),
]


def write(folder, name, rows):
    stage = Stage(
        name=name, config=FilterConfig(), input_digest=name, output=OutputConfig(format="jsonl")
    )
    write_stage(folder, stage, lambda done: rows[done:])
    return folder


@pytest.fixture
def folders(tmp_path):
    return [write(tmp_path / "one", "filter", ROWS), write(tmp_path / "two", "rewrite", REWRITTEN)]


def test_figures_are_counts_of_the_rows(folders):
    first, second = stats_of(folders)
    assert (first.num_read, first.num_kept, first.num_rejected) == (5, 2, 3)
    assert first.kept_share == 2 / 5
    assert first.syntax_error_share == 1 / 4
    assert first.reasons == {"lint: low score": 1, "read: not UTF-8": 1, "syntax: SyntaxError": 1}
    lint = first.scores["lint_score"]
    assert (lint.below, lint.counts[7], lint.counts[9], lint.not_measured) == (1, 1, 1, 2)
    assert lint.below + sum(lint.counts) + lint.not_measured == 5
    assert first.scores["pylint_score"].counts[0] == 1
    assert "llm_score" not in first.scores
    assert sum(first.lengths.counts) == 2
    assert first.threshold == 7.0
    assert (first.prompt_tokens, first.kept_tokens) == (None, None)
    assert (second.prompt_tokens, second.completion_tokens) == (21, 20)


def test_the_funnel_goes_down_by_what_each_filter_rejected(folders):
    steps = list(funnel(stats_of(folders)))
    assert [(name, texts) for name, texts, _ in steps] == [
        ("filter: read", 5),
        ("filter: after read", 4),
        ("filter: after syntax", 3),
        ("filter: after lint", 2),
        ("rewrite: read", 2),
    ]
    assert steps[0][2] == sum(len(r.text) for r in ROWS)
    assert steps[3][2] == 550


def test_tokens_are_counted_by_the_tokenizer_that_is_given(folders, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert stage_stats(folders[0], tmp_path / "tokenizer.json").kept_tokens == 2
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        stage_stats(folders[0], tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="no such file"):
        stage_stats(folders[0], tmp_path / "nowhere.json")


def test_text_and_json_hold_every_reason(folders):
    stages = stats_of(folders)
    text = stats_to_text(stages)
    data = json.loads(stats_to_json(stages))
    for reason in stages[0].reasons:
        assert reason in text
        assert reason in data["stages"][0]["reasons"]
    assert data["stages"][0]["syntax_error_share"] == 0.25
    assert data["funnel"][1]["characters"] is None


def test_rewritten_texts_are_joined_with_their_parents(folders):
    pairs = rewritten_pairs(folders)
    assert {(p.parent.id, p.row.id) for p in pairs} == {
        (ROWS[0].id, REWRITTEN[0].id),
        (ROWS[1].id, REWRITTEN[1].id),
    }
    assert {round(p.length_ratio, 2) for p in pairs} == {1.2, 1.3}
    assert rewritten_pairs(folders[1:]) == [], "no parent there"


def test_the_page_is_whole_escaped_and_the_same_each_time(folders, tmp_path):
    page = tmp_path / "page.html"
    write_report(page, folders, stats_of(folders))
    text = page.read_text()
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=", text), "no outside reference"
    for said in ("lint: low score", "Before and after", "25.00% of 4", "<mark>"):
        assert said in text
    write_report(tmp_path / "again.html", folders, stats_of(folders))
    assert (tmp_path / "again.html").read_text() == text


def test_a_rewritings_folder_is_read_like_a_stage(tmp_path):
    """A real one, by rules, from its input on; unfinished it is refused."""
    texts = ["import os\nx=1\nprint( x )\n", "def f(:\n", "y = {'a':1}\n"]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out, how, given = tmp_path / "out", CodeRules.installed(), CorpusInput(path=str(source))
    config = RewriteConfig(how=how, input_digest=input_digest(given))
    asyncio.run(rewrite(open_input(given), out, config, lambda store: CodeRewriter(how)))
    found = stage_stats(out)
    assert (found.num_read, found.num_kept) == (3, 2)
    before = write(tmp_path / "before", "filter", list(open_input(given)))
    parents = {pair.parent.text for pair in rewritten_pairs([before, out])}
    assert parents == {texts[0], texts[2]}
    (out / "DONE").unlink()
    with pytest.raises(UserError, match="has not finished: run it again"):
        stage_stats(out)


def test_side_by_side_loses_nothing_and_marks_what_differs():
    before, after = "a = 1\nb = 2\nc = 3", "a = 1\nb = 22\nnew\nc = 3"
    pairs = side_by_side(before, after)
    joined = [
        "\n".join("".join(text for _, text in side) for side in sides if side is not None)
        for sides in ([p.before for p in pairs], [p.after for p in pairs])
    ]
    assert joined == [before, after]
    marked = [text for p in pairs for side in (p.before, p.after) for d, text in side or () if d]
    assert marked == ["2", "new"]
    assert side_by_side("x\n" * 1000, "")[-1].before == ((True, "... 601 more lines"),)
