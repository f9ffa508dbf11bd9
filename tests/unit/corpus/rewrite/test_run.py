"""Nothing is lost, nothing twice, nothing paid for twice, whatever the concurrency and wherever the kill."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fakes_endpoint import FakeEndpoint, serving, sgcr_reply
from isoflop.config import UserError
from isoflop.corpus.rewrite import (
    STAGES,
    Endpoint,
    ModelConfig,
    ModelRewriter,
    Patience,
    Prices,
    RewriteConfig,
    Sampling,
    chat_messages,
    rewrite,
)
from isoflop.corpus.rewrite.limits import count_bytes
from isoflop.corpus.rewrite.model import ROWS_AHEAD
from isoflop.corpus.rewrite.reasons import Note, Reason
from isoflop.corpus.rows import Rewriting, TextRow, text_id
from isoflop.records import read_rows, write_rows

QUICK = Patience(tries=30, first_wait_seconds=0.001, most_wait_seconds=0.01, request_seconds=5.0)
RESULTS = (
    "kept-*.jsonl",
    "rejected-*.jsonl",
    "counts-*.json",
    "summary.json",
    "config.json",
    "DONE",
)
GOOD = "### Evaluation: 8\n### Suggestions:\n- x\n### Improved Code:\n```python\nx = 1\n```"


def rows_of(number, **changes):
    texts = [f"def f{n}(a):\n    return a + {n}\n" for n in range(number)]
    return [TextRow(id=text_id(t), text=t, where=f"a:{n}", **changes) for n, t in enumerate(texts)]


def config_of(stage="sgcr", rows_per_shard=10, limit=None, **changes):
    settings = {"model": "m", "sampling": Sampling(max_new_tokens=512)} | changes
    how = ModelConfig(stage=stage, **settings)
    return RewriteConfig(how=how, input_digest="d", rows_per_shard=rows_per_shard, limit=limit)


def run(rows, out, server, config=None, *, concurrency=8, patience=QUICK, prices=None, **options):
    """One rewriting; its summary."""
    config = config or config_of()

    async def main():
        endpoints = []

        def make(store):
            endpoints.append(Endpoint((server.url,), patience=patience, count=store.count))
            return ModelRewriter(
                config.how, STAGES[config.how.stage], endpoints[0], store, patience=patience,
                concurrency=concurrency, **options,
            )  # fmt: skip

        try:
            return await rewrite(rows, out, config, make, prices=prices)
        finally:
            for endpoint in endpoints:
                await endpoint.close()

    return asyncio.run(main())


def results_in(folder: Path):
    """All files that must not depend on how the run went."""
    return {p.name: p.read_bytes() for pattern in RESULTS for p in folder.glob(pattern)}


def kept(folder):
    return [row for path in sorted(folder.glob("kept-*.jsonl")) for row in read_rows(path, TextRow)]


def rejects(folder):
    return [row for path in sorted(folder.glob("rejected-*")) for row in read_rows(path, TextRow)]


def replying(text, finish="stop"):
    return FakeEndpoint(canned=lambda messages: (text, finish))


def test_every_row_has_one_outcome_in_order_with_its_lineage(tmp_path):
    rows = rows_of(60)
    with serving(FakeEndpoint()) as server:
        summary = run(rows, tmp_path, server)
    counts = summary.counts
    assert (counts.read, counts.kept + counts.rejected, counts.unanswered) == (60, 60, 0)
    new, bad = kept(tmp_path), rejects(tmp_path)
    places = [row.where for row in rows]
    assert sorted(places.index(row.where) for row in new + bad) == list(range(60))
    for found in (new, bad):
        order = [places.index(row.where) for row in found]
        assert order == sorted(order)
    parents = {row.id: row for row in rows}
    for row in new:
        how = row.rewriting
        assert row.id == text_id(row.text)
        assert row.compiles is True
        assert row.stage == "sgcr"
        assert (how.rewriter, how.temperature, how.tries) == ("m", 0.2, 1)
        assert how.parent_characters == len(parents[row.parent_id].text)
        assert how.completion_tokens > 0
    reasons = {row.reason for row in bad}
    assert reasons <= {reason.value for reason in Reason}
    assert len(reasons) >= 4
    assert sum(counts.reasons.values()) == counts.rejected
    assert (tmp_path / "DONE").exists()


def test_the_bytes_do_not_depend_on_concurrency_or_faults(tmp_path):
    rows = rows_of(50)
    outs = [tmp_path / name for name in ("one", "many", "faulty")]
    faults = ("reset", "half body", "500", "429", "malformed JSON", "empty choices", "other schema")
    servers = [
        FakeEndpoint(),
        FakeEndpoint(),
        FakeEndpoint(fault_share=0.4, faults=faults, retry_after="0.001"),
    ]
    for out, state, concurrency in zip(outs, servers, (1, 16, 5), strict=True):
        with serving(state) as server:
            run(rows, out, server, concurrency=concurrency)
        assert state.most_at_once <= concurrency
    assert results_in(outs[0]) == results_in(outs[1]) == results_in(outs[2])
    assert servers[1].most_at_once > 1


def test_no_more_rows_are_taken_than_the_window_holds(tmp_path):
    state, ahead, taken = replying(GOOD), 0, 0

    def rows():
        nonlocal ahead, taken
        for row in rows_of(100):
            taken += 1
            ahead = max(ahead, taken - sum(state.answered.values()))
            yield row

    with serving(state) as server:
        run(rows(), tmp_path, server, concurrency=2)
    assert taken == 100
    assert 2 <= ahead <= ROWS_AHEAD * 2


def test_a_second_run_does_nothing_and_asks_nothing(tmp_path):
    rows = rows_of(25)
    with serving(FakeEndpoint()) as server:
        first = run(rows, tmp_path, server)
        before = results_in(tmp_path)
        asked = sum(server.requests.values())
        assert run(rows, tmp_path, server) == first
        (tmp_path / "DONE").unlink()
        assert run(rows, tmp_path, server) == first
        assert sum(server.requests.values()) == asked
    assert results_in(tmp_path) == before


def test_equal_texts_are_asked_once_and_both_are_there(tmp_path):
    row = rows_of(1)[0]
    rows = [replace(row, where=f"b:{n}") for n in range(20)]
    with serving(replying(GOOD)) as server:
        summary = run(rows, tmp_path, server)
    assert sum(server.requests.values()) == 1
    assert summary.replies == 1
    assert [row.where for row in kept(tmp_path)] == [row.where for row in rows]


def test_rows_without_a_reply_are_asked_again_by_the_next_run(tmp_path):
    rows = rows_of(25)
    few = Patience(tries=1, first_wait_seconds=0.0, given_up_in_succession=1000)
    with serving(
        FakeEndpoint(canned=lambda m: (GOOD, "stop"), fault_share=0.5, faults=("500",))
    ) as server:
        first = run(rows, tmp_path, server, patience=few)
        assert 0 < first.counts.unanswered < 25
        assert not (tmp_path / "DONE").exists()
        assert {row.reason for row in rejects(tmp_path)} == {Reason.SERVER_ERROR.value}
        answered = dict(server.answered)
        server.fault_share = 0.0
        second = run(rows, tmp_path, server, patience=few)
        assert all(server.answered[name] == 1 for name in answered)
    assert (second.counts.unanswered, second.counts.kept) == (0, 25)
    with serving(replying(GOOD)) as server:
        run(rows, tmp_path / "clean", server)
    assert results_in(tmp_path) == results_in(tmp_path / "clean")


def test_an_endpoint_that_is_down_ends_the_run_in_one_line(tmp_path):
    patience = Patience(tries=1, first_wait_seconds=0.0, given_up_in_succession=5)
    with (
        serving(FakeEndpoint(status=500)) as server,
        pytest.raises(UserError, match="in succession"),
    ):
        run(rows_of(200), tmp_path, server, patience=patience)
    assert sum(server.requests.values()) < 100


def test_refusals_of_single_texts_do_not_end_the_run_but_a_refusing_endpoint_does(tmp_path):
    patience = Patience(tries=1, given_up_in_succession=3)
    with serving(FakeEndpoint(status=400)) as server, pytest.raises(UserError, match="400"):
        run(rows_of(50), tmp_path / "all", server, patience=patience)
    with serving(replying(GOOD)) as server:
        run(rows_of(5), tmp_path / "some", server, patience=patience, config=config_of(limit=5))
    # The same folder with more rows: another limit is another config, so a fresh store is copied.
    (tmp_path / "more").mkdir()
    (tmp_path / "some" / "replies.sqlite").rename(tmp_path / "more" / "replies.sqlite")
    with serving(FakeEndpoint(status=400)) as server:
        summary = run(rows_of(50), tmp_path / "more", server, patience=patience)
    assert (summary.counts.kept, summary.counts.unanswered) == (5, 0)
    assert summary.counts.reasons == {f"sgcr: {Reason.REFUSED.value}": 45}


def test_another_config_or_input_in_the_folder_is_refused(tmp_path):
    with serving(replying(GOOD)) as server:
        run(rows_of(3), tmp_path, server)
        for other in (config_of(model="n"), replace(config_of(), input_digest="e")):
            with pytest.raises(UserError, match="another folder"):
                run(rows_of(3), tmp_path, server, other)


def test_rejected_rows_go_through_and_are_not_asked(tmp_path):
    rows = rows_of(2)
    rows[0] = replace(rows[0], rejected_by="syntax", reason="no", detail="x")
    with serving(replying(GOOD)) as server:
        summary = run(rows, tmp_path, server)
    assert sum(server.requests.values()) == 1
    assert rejects(tmp_path) == [rows[0]]
    assert summary.counts.reasons == {"syntax: no": 1}


def test_texts_that_cannot_fit_are_rejected_by_bytes_or_by_tokens(tmp_path):
    text = "x = 1\n" * 200
    row = TextRow(id=text_id(text), text=text, where="a:1")
    config = config_of(context_tokens=3000)
    for name, count, fits in (
        ("bytes", count_bytes, False),
        ("tokens", lambda t: len(t) // 4, True),
    ):
        with serving(replying(GOOD)) as server:
            summary = run([row], tmp_path / name, server, config, count_tokens=count)
        assert summary.counts.kept == int(fits)
        if not fits:
            assert summary.counts.reasons == {f"sgcr: {Reason.INPUT_TOO_LONG.value}": 1}
            assert not server.requests


def test_a_repair_says_what_was_wrong_once_and_is_counted_apart(tmp_path):
    def canned(messages):
        return (GOOD, "stop") if len(messages) == 4 else ("### Evaluation: 5\nno code", "stop")

    with serving(FakeEndpoint(canned=canned)) as server:
        plain = run(rows_of(3), tmp_path / "plain", server)
        mended = run(rows_of(3), tmp_path / "mended", server, config_of(max_repairs=1))
    assert (plain.counts.kept, plain.repairs) == (0, 0)
    assert (mended.counts.kept, mended.replies, mended.repairs) == (3, 6, 3)
    asked = next(body for body in server.bodies if len(body["messages"]) == 4)
    assert [m["role"] for m in asked["messages"]] == ["system", "user", "assistant", "user"]
    assert Reason.NO_CODE.value in asked["messages"][-1]["content"]
    assert {row.rewriting.tries for row in kept(tmp_path / "mended")} == {2}


def test_a_cut_reply_is_not_repaired(tmp_path):
    with serving(replying("### Evaluation: 5\n", "length")) as server:
        summary = run(rows_of(2), tmp_path, server, config_of(max_repairs=3))
    assert (summary.replies, summary.repairs) == (2, 0)


def test_code_that_does_not_compile_is_kept_among_the_rejects(tmp_path):
    with serving(replying(GOOD.replace("x = 1", "x = (1"))) as server:
        summary = run(rows_of(1), tmp_path, server)
    (row,) = rejects(tmp_path)
    assert (row.text, row.compiles, row.reason) == (
        "x = (1\n",
        False,
        Reason.DOES_NOT_COMPILE.value,
    )
    assert row.parent_id == rows_of(1)[0].id
    assert row.llm_score == 8.0
    assert summary.counts.not_compiled == 1


def test_new_texts_are_measured_again_by_what_is_plugged_in(tmp_path):
    parent = replace(rows_of(1)[0], lint_score=3.0, pylint_score=4.0)
    with serving(replying(GOOD)) as server:
        run([parent], tmp_path / "plain", server)
        run([parent], tmp_path / "lint", server, annotate=lambda row: replace(row, lint_score=9.0))
    assert kept(tmp_path / "plain")[0].lint_score is None
    assert kept(tmp_path / "lint")[0].lint_score == 9.0


def test_tokens_and_cost_are_those_of_the_stored_replies(tmp_path):
    with serving(replying(GOOD)) as server:
        summary = run(rows_of(4), tmp_path, server, prices=Prices(prompt=2.0, completion=10.0))
    assert summary.completion_tokens == 4 * len(GOOD)
    expected = (2.0 * summary.prompt_tokens + 10.0 * summary.completion_tokens) / 1e6
    assert summary.cost == pytest.approx(expected)
    written = json.loads((tmp_path / "requests.json").read_text())
    assert written == {"answered": 4}


@pytest.mark.parametrize(
    ("stage", "text", "reply", "new"),
    [
        (
            "scor",
            None,
            f"```python\n{'x = 1' + chr(10)}{'y = 2' + chr(10) * 1}" + "z = 3\n" * 10 + "```",
            None,
        ),
        ("refactor", None, "```python\nx = 1\n```", "x = 1\n"),
        (
            "translate_comments",
            "x = 1  # one\n",
            "```python\nx = 1  # ichi\n```",
            "x = 1  # ichi\n",
        ),
        (
            "translate_comments",
            'def f():\n    """One."""\n    return "a"\n',
            '```python\ndef f():\n    """Ichi."""\n    return "a"\n```',
            'def f():\n    """Ichi."""\n    return "a"\n',
        ),
        (
            "sgcr_cpp",
            "int x;",
            "### Evaluation: 3\n### Improved Code:\n```cpp\nint y;\n```",
            "int y;\n",
        ),
        (
            "sgcr_rust",
            "fn x() {}",
            "### Evaluation: 3\n### Improved Code:\n```rust\nfn y() {}\n```",
            "fn y() {}\n",
        ),
        ("instruct_question", None, "Write a function that adds zero.", None),
        ("instruct_stub", None, '```python\ndef f0(a):\n    """Add."""\n```', None),
        ("math_v1", "page", "What is 2 + 2? " * 5 + "\n#### 4", None),
        ("math_v2", "page", "## Problem\n## Approach\n## Solution\n\\boxed{4}\n" + "x" * 20, None),
    ],
)
def test_every_stage_makes_rows(tmp_path, stage, text, reply, new):
    row = rows_of(1)[0]
    row = row if text is None else replace(row, text=text, id=text_id(text))
    with serving(replying(reply)) as server:
        run([row], tmp_path, server, config_of(stage))
    (made,) = kept(tmp_path)
    assert (made.stage, made.parent_id) == (stage, row.id)
    assert new is None or made.text == new
    if stage.startswith("instruct"):
        messages = chat_messages(made)
        assert messages[1]["content"] == row.text
        assert made.text.startswith(messages[0]["content"])


@pytest.mark.parametrize(
    ("stage", "text", "reply", "reason"),
    [
        (
            "translate_comments",
            "x = 1  # one\n",
            "```python\nx = 2  # ichi\n```",
            Reason.CODE_CHANGED,
        ),
        ("translate_comments", 'x = "a"\n', '```python\nx = "b"\n```', Reason.CODE_CHANGED),
        ("instruct_stub", "x = 1\n", '```python\ndef g():\n    """Go."""\n```', Reason.NOT_A_STUB),
        ("scor", "x = 1\n", "```python\nx = 1\n```", Reason.TOO_SHORT),
        ("refactor", "x = 1\n", "```python\n# Your code goes here\n```", Reason.NO_STATEMENTS),
        ("math_v1", "page", "4", Reason.TOO_SHORT),
        ("score", "x", "fine", Reason.NO_SCORE),
    ],
)
def test_every_stage_checks_what_was_made(tmp_path, stage, text, reply, reason):
    row = TextRow(id=text_id(text), text=text, where="a:1")
    with serving(replying(reply)) as server:
        run([row], tmp_path, server, config_of(stage))
    assert [bad.reason for bad in rejects(tmp_path)] == [reason.value]


def test_a_score_stays_on_the_text_itself(tmp_path):
    row = rows_of(1)[0]
    with serving(replying("### Score: 6")) as server:
        run([row], tmp_path, server, config_of("score"))
    assert kept(tmp_path) == [replace(row, llm_score=6.0)]


def test_a_pair_is_translated_in_two_requests(tmp_path):
    pair = {"question": "What is 1 + 1?", "answer": "It is 2."}
    good = TextRow(id="1", text="x", where="a:1", metadata=pair)
    bad = TextRow(id="2", text="x", where="a:2", metadata={"question": "What?"})
    with serving(FakeEndpoint(canned=lambda m: (m[-1]["content"].upper(), "stop"))) as server:
        run([good, bad], tmp_path, server, config_of("translate_math", target_language="Latin"))
    assert kept(tmp_path)[0].text == "[Question]\nWHAT IS 1 + 1?\n\n[Answer]\nIT IS 2.\n"
    assert rejects(tmp_path)[0].reason == Reason.NO_PAIR.value
    assert "Latin" in server.bodies[0]["messages"][0]["content"]


def test_instructions_can_stand_in_the_user_s_message(tmp_path):
    with serving(replying(GOOD)) as server:
        run(rows_of(1), tmp_path, server, config_of(instructions_as="user"))
    (message,) = server.bodies[0]["messages"]
    assert message["role"] == "user"
    assert message["content"].endswith(rows_of(1)[0].text)


def test_an_unchanged_text_is_noted(tmp_path):
    row = TextRow(id=text_id("x = 1\n"), text="x = 1\n", where="a:1")
    with serving(replying(GOOD)) as server:
        run([row], tmp_path, server)
    assert Note.UNCHANGED in kept(tmp_path)[0].rewriting.notes


@pytest.mark.parametrize(
    "changes",
    [
        {"model": ""},
        {"max_repairs": -1},
        {"context_tokens": 512},
    ],
)
def test_nonsense_is_refused(changes):
    with pytest.raises(UserError):
        config_of(**changes)


def test_rewriting_row_survives_json(tmp_path):
    how = Rewriting(rewriter="m", suggestions=("a", "b"), notes=("n",), removed_lines={"date": 2})
    row = TextRow(id="1", text="\ud7ff\x85", where="w", rewriting=how)
    write_rows(tmp_path / "r.jsonl", [row])
    assert list(read_rows(tmp_path / "r.jsonl", TextRow)) == [row]


def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": row.text}) + "\n" for row in rows_of(120)))
    environment = dict(os.environ)

    def command(url, out):
        return [
            sys.executable, "-m", "isoflop", "corpus", "rewrite", str(source), "--stage", "sgcr",
            "--out", str(out), "--endpoint", url, "--model", "m", "--rows-per-shard", "25",
            "--concurrency", "4",
        ]  # fmt: skip

    with serving(FakeEndpoint(canned=sgcr_reply)) as server:
        done = subprocess.run(command(server.url, tmp_path / "calm"), env=environment, check=True,
                              capture_output=True, text=True)  # fmt: skip
        assert "read 120" in done.stdout
    state = FakeEndpoint(canned=sgcr_reply, delay_seconds=0.02)
    with serving(state) as server:
        for wanted in (10, 45):
            process = subprocess.Popen(
                command(server.url, tmp_path / "killed"), env=environment,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while sum(state.answered.values()) < wanted and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        subprocess.run(command(server.url, tmp_path / "killed"), env=environment, check=True,
                       capture_output=True)  # fmt: skip
    assert results_in(tmp_path / "calm") == results_in(tmp_path / "killed")
    # Only what was under way at a kill is asked twice: at most the concurrency for each of two kills.
    assert sum(state.answered.values()) <= 120 + 2 * 4
