"""`isoflop bench` on the command line: nothing heavy before work, one line for a mistake."""

import subprocess
import sys

import pytest

from isoflop import cli
from isoflop.allocator import KEEP_MEMORY

PROGRAM = """
import sys
from isoflop.cli import main
sys.argv = ["isoflop", "bench", "--help"]
status = main()
print("LOADED", *sorted(set(sys.modules) & {"torch", "transformers"}))
sys.exit(status)
"""


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command in this process, under the settings with which it does not start again."""
    for name, value in KEEP_MEMORY.items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["isoflop", "bench", *words])
        status = cli.main()
        out, error = capsys.readouterr()
        return status, out, error

    return run


def test_help_loads_neither_torch_nor_transformers():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].split() == ["LOADED"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "--device", "cuda"), "device='cuda': PyTorch sees no CUDA device here"),
        (("train", "--shape", "d1"), "no shape 'd1'; there are"),
        (("train", "--peers", "fast"), "no peer 'fast'; there are"),
        (("memory", "--shape", "d1"), "no shape 'd1'; there are"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(call, monkeypatch, words, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, out, error = call(*words)
    assert (status, out) == (2, "")
    assert len(error.splitlines()) == 1
    assert message in error
