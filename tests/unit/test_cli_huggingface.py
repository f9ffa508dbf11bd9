"""`isoflop export` and `isoflop import`: a path and one line, or one line and status 2."""

import sys

import pytest

from fakes import names_in
from fakes_huggingface import checkpoint, tokenizer_file
from isoflop import cli


@pytest.fixture
def call(capsys, monkeypatch):
    """Run a command in this process."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["isoflop", *map(str, words)])
        status = cli.main()
        out, error = capsys.readouterr()
        return status, out, error

    return run


def test_there_and_back(call, tmp_path):
    checkpoint(tmp_path / "ours", vocabulary_size=384)
    tokenizer = tokenizer_file(tmp_path)
    words = ("export", tmp_path / "ours", tmp_path / "hf", "--to", "hf", "--tokenizer", tokenizer)
    status, out, error = call(*words, "--max-shard-bytes", 100_000, "--dtype", "bfloat16")
    assert (status, error) == (0, "")
    path, line = out.splitlines()
    assert path == str(tmp_path / "hf")
    assert line.startswith("MixtralForCausalLM, ")
    assert "in bfloat16, 2 shards" in line
    assert line.endswith(f"tokenizer: {tokenizer}")
    status, out, error = call("import", tmp_path / "hf", tmp_path / "back")
    assert (status, error) == (0, "")
    assert out.splitlines()[0] == str(tmp_path / "back")
    assert "in float32: 2 layers, d_model 32, 4 experts of 64, top_k 2" in out.splitlines()[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export", "ours", "hf"), "Missing option '--to'"),
        (("export", "ours", "hf", "--to", "gguf"), "'gguf'"),
        (("export", "ours", "hf", "--to", "hf"), "give --tokenizer FILE"),
        (("export", "ours", "hf", "--to", "hf", "--dtype", "float16"), "'float16'"),
        (("export", "ours", "hf", "--to", "hf", "--max-shard-bytes", "0"), "--max-shard-bytes"),
        (("export", "nowhere", "hf", "--to", "hf"), "nowhere: no checkpoint here"),
        (("export", "ours", "ours", "--to", "hf", "--tokenizer", "none"), "ours: is there and not"),
        (("import", "nowhere", "back"), "nowhere/config.json: no such file: no model here"),
        (("import", "ours", "back"), "ours/config.json: model_type=None is no Mixtral"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(call, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "ours")
    status, out, error = call(*words)
    assert (status, out, len(error.splitlines())) == (2, "", 1)
    assert said in error
    assert names_in(tmp_path) == ["ours"]
