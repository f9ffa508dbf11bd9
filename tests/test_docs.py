"""The pages' own Python and shell blocks run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutorial-analysis.md"]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    """Python blocks that define experiment() are saved as mine.py, as the pages say; shell lines
    run beside them on a folder of notes, and beside docs/ with its example."""
    notes = tmp_path / "notes"
    notes.mkdir()
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    for number in range(40):
        words = [f"word{(number * 7 + i) % 50}" for i in range(900)]
        (notes / f"note{number}.txt").write_text(" ".join(words))
    blocks = BLOCK.findall(page.read_text())
    assert {"python", "sh"} <= {kind for kind, _ in blocks}
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, str(page), "exec"), {})
            if "def experiment" in text:
                (tmp_path / "mine.py").write_text(text)
        else:
            for line in text.splitlines():
                _run(line.partition("#")[0], tmp_path)


def _run(line: str, folder: Path) -> None:
    # Names with a star as a shell has them.
    command = [
        name
        for part in shlex.split(line)
        for name in (sorted(map(str, folder.glob(part))) if "*" in part else [part])
    ]
    assert command[0] == "isoflop", f"the test knows how to run isoflop, not {line!r}"
    # One small seed and cell list: the page's study, shortened by the page's own --set.
    small = [
        "--set",
        "train.train_tokens=40000",
        "--set",
        "train.warmup_steps=5",
        "--set",
        "seeds=(0,)",
    ]
    if command[1] == "run":
        command += small
    run = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"{line}\n{run.stderr}"


def test_every_page_that_is_named_exists():
    root = Path(__file__).parents[1]
    named = re.compile(r"\bdocs/[A-Za-z0-9_/-]+\.(?:md|svg|html|csv|json|tsv)\b")
    files = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("benchmarks/*.py")]
    files += [*root.glob("src/**/*.py"), *root.glob("src/**/*.[ch]")]
    missing = {
        f"{file.relative_to(root)}: {page}"
        for file in files
        for page in named.findall(file.read_text(encoding="utf-8"))
        if not (root / page).exists()
    }
    assert not missing
