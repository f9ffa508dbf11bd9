"""`isoflop corpus rewrite` and `isoflop corpus fidelity` as a user types them."""

import json

import pytest

from fakes_endpoint import FakeEndpoint, serving
from isoflop import cli
from isoflop.corpus.rewrite.stages import STAGES, prompt_digest, prompt_text

FILES = [
    "import os,sys\ndef add(a,b):\n  return a+b\n",
    "def double(n):\n  print( n )\n  return n*2\n",
    "print 1\n",
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [{"text": text, "repo": "r", "stars": n} for n, text in enumerate(FILES)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "not JSON\n")
    return path


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["isoflop", "corpus", *map(str, arguments)])
    status = cli.main()
    out = capsys.readouterr()
    return status, out.out, out.err


def test_rules_then_fidelity(monkeypatch, capsys, source, tmp_path):
    out = tmp_path / "out"
    status, text, _ = run(
        monkeypatch, capsys, "rewrite", source, "--stage", "sgcr", "--rules", "--out", out
    )
    assert status == 0
    assert "read 4, kept 2, rejected 2" in text
    assert "1 read: malformed JSON" in " ".join(text.split())
    kept = [json.loads(line) for line in (out / "kept-00000.jsonl").read_text().splitlines()]
    assert kept[0]["metadata"] == {"repo": "r", "stars": 0}
    assert kept[0]["text"] == "def add(a, b):\n    return a + b\n"
    rows = tmp_path / "fidelity.jsonl"
    status, text, _ = run(monkeypatch, capsys, "fidelity", source, out, "--json", "--out", rows)
    assert status == 0
    summary = json.loads(text)
    assert summary["functions"]["same"] == 2
    assert summary["texts"]["kept"]["share"] == 1.0
    assert len(rows.read_text().splitlines()) == 2


def test_new_texts_are_measured_as_the_filter_measures_them(monkeypatch, capsys, source, tmp_path):
    rewritten, filtered = tmp_path / "rewritten", tmp_path / "filtered"
    status, _, _ = run(
        monkeypatch, capsys, "rewrite", source, "--stage", "tidy_code", "--lint", "--out", rewritten
    )
    assert status == 0
    again = tmp_path / "in2.jsonl"
    kept = [json.loads(line) for line in (rewritten / "kept-00000.jsonl").read_text().splitlines()]
    again.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in kept))
    status, _, _ = run(
        monkeypatch, capsys, "filter", again, "--annotate-only", "--format", "jsonl",
        "--workers", "1", "--out", filtered,
    )  # fmt: skip
    assert status == 0
    told = [json.loads(line) for line in (filtered / "kept-00000.jsonl").read_text().splitlines()]
    measures = ("id", "pylint_score", "lint_score", "comment_share", "language", "longest_repeat")
    assert [[row[name] for name in measures] for row in kept] == [
        [row[name] for name in measures] for row in told
    ]
    assert all(row["pylint_score"] is not None for row in kept)
    assert json.loads((rewritten / "config.json").read_text())["lint"].keys() >= {"pylint"}


def test_a_folder_of_a_rewriting_is_an_input(monkeypatch, capsys, source, tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"
    run(monkeypatch, capsys, "rewrite", source, "--stage", "tidy_code", "--out", first)
    with serving(
        FakeEndpoint(
            canned=lambda m: (
                f"```python\n{m[-1]['content']}\n\nX = 1\n" + "# x\n" * 20 + "```",
                "stop",
            )
        )
    ) as server:
        status, text, _ = run(
            monkeypatch, capsys, "rewrite", first, "--stage", "scor", "--out", second, "--endpoint",
            server.url, "--model", "m", "--price-prompt", "1", "--json",
        )  # fmt: skip
    assert status == 0
    assert json.loads(text)["counts"]["kept"] == 2
    assert json.loads(text)["cost"] > 0
    status, text, _ = run(monkeypatch, capsys, "fidelity", first, second)
    assert status == 0
    assert "behaviour kept: 100.00% of 2" in text


def test_unanswered_rows_are_exit_status_one(monkeypatch, capsys, source, tmp_path):
    with serving(FakeEndpoint(status=500)) as server:
        status, text, _ = run(
            monkeypatch, capsys, "rewrite", source, "--stage", "sgcr", "--out", tmp_path / "o",
            "--endpoint", server.url, "--model", "m", "--tries", "1",
        )  # fmt: skip
    assert status == 1
    assert "3 without a reply: run the same command again" in text


@pytest.mark.parametrize("key", ["cl\u00e9", "abc\n", "abc ", "a\tb"])
def test_a_key_that_no_header_can_hold_is_one_line_with_its_variable(
    monkeypatch, capsys, source, tmp_path, key
):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    status, _, error = run(
        monkeypatch, capsys, "rewrite", source, "--stage", "sgcr", "--out", tmp_path / "o",
        "--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--tries", "1",
    )  # fmt: skip
    assert (status, error.count("\n")) == (2, 1)
    assert "OPENAI_API_KEY" in error


@pytest.mark.parametrize(
    ("refuse", "said", "not_said"),
    [(400, "(4xx); not asked again", "asking again"), (500, "asking again", "not asked again")],
)
def test_what_is_told_of_a_failure_is_what_happens(
    monkeypatch, capsys, source, tmp_path, refuse, said, not_said
):
    with serving(FakeEndpoint(status=refuse)) as server:
        _, _, error = run(
            monkeypatch, capsys, "rewrite", source, "--stage", "sgcr", "--out", tmp_path / "o",
            "--endpoint", server.url, "--model", "m", "--tries", "1",
        )  # fmt: skip
    assert said in error
    assert not_said not in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "sgcr"], "--endpoint"),
        (["--stage", "nothing", "--endpoint", "http://h/v1", "--model", "m"], "choose one of sgcr"),
        (["--stage", "sgcr", "--endpoint", "http://h/v1"], "model must be named"),
        (["--stage", "sgcr", "--endpoint", "h", "--model", "m"], "must look like"),
        (["--stage", "sgcr", "--rules", "--endpoint", "http://h/v1"], "one of"),
        (["--stage", "sgcr_rust", "--rules"], "rules exist for"),
        (["--stage", "math_v1", "--rules", "--lint"], "makes no Python"),
        (
            ["--stage", "sgcr", "--endpoint", "http://h/v1", "--model", "m", "--temperature", "9"],
            "temperature",
        ),
        (
            [
                "--stage",
                "sgcr",
                "--endpoint",
                "http://h/v1",
                "--model",
                "m",
                "--instructions-as",
                "x",
            ],
            "system or user",
        ),
        (
            ["--stage", "sgcr", "--endpoint", "http://h/v1", "--model", "m", "--tokenizer", "no"],
            "tokenizer.json",
        ),
        (["--stage", "sgcr", "--vllm", "--model", "m"], "vLLM"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, source, tmp_path, arguments, words):
    status, _, error = run(
        monkeypatch, capsys, "rewrite", source, "--out", tmp_path / "o", *arguments
    )
    assert status == 2
    assert words in error
    assert error.count("\n") == 1


def test_a_missing_input_is_one_line(monkeypatch, capsys, tmp_path):
    missing = tmp_path / "no"
    status, _, error = run(
        monkeypatch, capsys, "rewrite", missing, "--stage", "tidy_code", "--out", tmp_path / "o"
    )
    assert (status, error.count("\n")) == (2, 1)


def test_texts_that_do_not_belong_together_are_refused(monkeypatch, capsys, source, tmp_path):
    out = tmp_path / "out"
    run(monkeypatch, capsys, "rewrite", source, "--stage", "tidy_code", "--out", out)
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"text": "z = 1\n"}) + "\n")
    status, _, error = run(monkeypatch, capsys, "fidelity", other, out)
    assert status == 2
    assert "input of this very rewriting" in error


def test_every_prompt_is_there_and_has_a_digest_of_its_own():
    prompts = [prompt_text(stage, "Japanese") for stage in STAGES.values()]
    assert len({prompt_digest(prompt) for prompt in prompts}) == len(STAGES)
    assert all("{" + "language}" not in prompt and len(prompt) > 100 for prompt in prompts)
    french = prompt_text(STAGES["translate_math"], "French")
    assert "French" in french
    assert prompt_digest(french) != prompt_digest(prompt_text(STAGES["translate_math"], "Japanese"))
