"""`isoflop eval`: a score on standard output, rows in a folder, one line for a mistake."""

import json

import pytest

from isoflop.cli import main
from isoflop.model.checkpoint import save_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Untrained, with its tokenizer beside it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    config = ModelConfig(
        vocabulary_size=320,
        num_layers=1,
        d_model=16,
        num_heads=2,
        d_expert=16,
        num_experts=2,
        top_k=2,
        sequence_length=48,
    )
    save_checkpoint(Transformer(config), folder)
    train_tokenizer(
        TokenizerConfig(vocabulary_size=300),
        ["the sheep sheared 12"] * 9,
        folder / "tokenizer.json",
    )
    return folder


@pytest.fixture
def data(tmp_path):
    rows = [
        {"question": "the sheep?", "answer": "the sheep\n#### 12"},
        {"question": "no", "answer": "none"},
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["isoflop", "eval", *map(str, arguments)])
    status = main()
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_score_as_json_and_the_rows_in_a_folder(
    checkpoint, data, tmp_path, monkeypatch, capsys
):
    asked = (checkpoint, "--task", "gsm8k", "--data", data, "--shots", 0, "--max-new-tokens", 4)
    status, out, _ = run(monkeypatch, capsys, *asked, "--json", "--out", tmp_path)
    score = json.loads(out)
    assert status == 0
    assert (score["num_items"], score["num_set_aside"], score["num_scored"]) == (1, 1, 1)
    assert score["accuracy"] == score["accuracy_flexible"] == 0
    (folder,) = (tmp_path / "eval").iterdir()
    assert json.loads((folder / "score.jsonl").read_text()) == score
    status, out, _ = run(monkeypatch, capsys, *asked, "--loss-only")
    assert status == 0
    assert "accuracy" not in out
    assert "1 rows set aside (1 no final answer)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "gsm9k"), "there is no task 'gsm9k'"),
        (
            ("--task", "gsm8k", "--data", "nowhere.jsonl", "--shots", 0),
            "nowhere.jsonl: no such file",
        ),
        (("--task", "promptanswer"), "is not on the hub; give its file with --data"),
        (("--task", "gsm8k", "--data", "DATA"), "give --shots-data FILE"),
        (
            ("--task", "gsm8k", "--data", "DATA", "--shots", 0, "--device", "gpu"),
            "device='gpu' is not here",
        ),
        (
            ("--task", "gsm8k", "--data", "DATA", "--shots", 0, "--device", "cuda:99"),
            "device='cuda:99' is not here",
        ),
    ],
)
def test_a_mistake_is_one_line(checkpoint, data, monkeypatch, capsys, arguments, message):
    given = [data if part == "DATA" else part for part in arguments]
    status, _, err = run(monkeypatch, capsys, checkpoint, *given)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
