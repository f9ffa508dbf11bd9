"""Laws of compiling: whatever is wrong with the compiler, "auto" trains on; "native" says what."""

import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from isoflop.config import UserError
from isoflop.model.config import ModelConfig
from isoflop.model.ops import NATIVE_OPS, TORCH_OPS, build, select_ops
from isoflop.model.transformer import Transformer

ROOT = Path(__file__).parents[4]

with_compiler = pytest.mark.skipif(build._compiler() is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No library is loaded yet, none lies in the cache, and no other test sees what happens."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    build._libraries.cache_clear()
    yield
    build._libraries.cache_clear()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make the environment's CC a script that answers --version, then does as told."""

    def write(script: str, version: str = "echo compiler 1.0") -> Path:
        path = tmp_path / "compiler"
        lines = ["#!/bin/sh", f'echo "$@" >> {tmp_path}/calls']
        lines += [f'if [ "$1" = --version ]; then {version}; exit; fi', script]
        path.write_text("\n".join(lines))
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))
        return path

    return write


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


EMPTY_LIBRARY = """
while [ "$1" != -o ]; do shift; done
exec cc -shared -fPIC -x c /dev/null -o "$2"
"""


def told() -> str:
    """What "native" says where "auto" falls back."""
    assert not build.native_available()
    assert select_ops("auto") is TORCH_OPS
    assert select_ops("torch") is TORCH_OPS
    with pytest.raises(UserError) as raised:
        select_ops("native")
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith("ops='native': ")
    assert text.endswith("; use ops='torch'")
    return text


def test_without_a_compiler_auto_falls_back_and_native_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C compiler (cc, gcc, clang, or the environment's CC) was found" in told()
    shape = ModelConfig(
        vocabulary_size=8,
        num_layers=1,
        d_model=8,
        num_heads=1,
        d_expert=8,
        num_experts=2,
        top_k=2,
        sequence_length=4,
    )
    assert Transformer(shape).ops is TORCH_OPS
    assert not (tmp_path / "cache").exists()


def test_a_failing_compiler_is_told_with_its_first_line(compiler):
    path = compiler("echo 'unknown flag -march' >&2; echo 'more words' >&2; exit 1")
    text = told()
    assert str(path) in text
    assert "unknown flag -march" in text
    assert "more words" not in text


def test_a_compiler_that_fails_without_a_word(compiler):
    compiler("exit 3")
    assert "no message" in told()


def test_a_compiler_that_does_not_tell_its_version(compiler):
    compiler("exit 0", version="echo 'no license' >&2; exit 1")
    assert "no license" in told()


def test_a_compiler_that_cannot_be_started(tmp_path, monkeypatch):
    path = tmp_path / "compiler"
    path.write_bytes(b"\x00\x01")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))
    assert str(path) in told()


def test_a_compiler_that_never_ends_is_given_up(compiler, monkeypatch):
    monkeypatch.setattr(build, "COMPILE_SECONDS", 0.3)
    compiler("exec sleep 20")
    assert "timed out" in told()


@pytest.mark.parametrize("script", ["exit 0", EMPTY_LIBRARY.replace("exec cc", "echo >$2 #")])
def test_a_compiler_that_writes_nothing_or_no_library(compiler, script):
    """It claims success; what it wrote cannot be loaded."""
    compiler(script)
    told()


def test_sources_that_are_not_there_are_told(compiler, monkeypatch, tmp_path):
    compiler(EMPTY_LIBRARY)
    monkeypatch.setattr(build, "SOURCES", (tmp_path / "lost.c",))
    assert "lost.c" in told()


def test_the_sources_are_installed_with_the_package():
    """A wheel without them would silently be slow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["isoflop"]
    sources = c_files()
    assert set(build.SOURCES) <= set(sources)
    for source in sources:
        inner = str(source.relative_to(ROOT / "src" / "isoflop"))
        assert any(fnmatch.fnmatch(inner, pattern) for pattern in patterns), inner


def c_files() -> list[Path]:
    """Sources and what they include."""
    return sorted(build.SOURCES[0].parent.glob("*.[ch]"))


def test_every_c_file_is_part_of_the_folders_name(compiler, monkeypatch):
    """Else a library of an older source would be loaded."""
    path, read = str(compiler("exit 1")), []
    read_text = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, **given: read.append(self) or read_text(self, **given)
    )
    build._digest(path)
    assert set(c_files()) <= set(read)


def test_nothing_half_written_stays(compiler, tmp_path):
    compiler('while [ "$1" != -o ]; do shift; done; echo half > "$2"; exit 1')
    told()
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert left == []


@with_compiler
def test_what_was_compiled_once_is_loaded_again(compiler, tmp_path):
    compiler(EMPTY_LIBRARY)
    assert build.native_available()
    assert select_ops("auto") is select_ops("native") is NATIVE_OPS
    assert len(calls(tmp_path)) == 3  # Version, and one for each precision.
    build._libraries.cache_clear()
    assert build.native_available()
    assert len(calls(tmp_path)) == 4
    libraries = sorted(path.name for path in (tmp_path / "cache").rglob("*.so"))
    assert libraries == ["bfloat16.so", "float32.so"]


@with_compiler
def test_a_cache_that_cannot_be_written_to_gives_way_to_a_temporary_folder(
    compiler, tmp_path, monkeypatch
):
    compiler(EMPTY_LIBRARY)
    (tmp_path / "file").write_text("")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert build.native_available()
    # Loaded libraries need no file, and every worker would leave one.
    assert list((tmp_path / "temporary").iterdir()) == []


@with_compiler
@pytest.mark.parametrize("content", [b"", b"half a library"])
def test_a_broken_library_in_the_cache_is_compiled_again(compiler, tmp_path, content):
    """As a power cut may leave it."""
    compiler(EMPTY_LIBRARY)
    assert build.native_available()
    for path in (tmp_path / "cache").rglob("*.so"):
        path.unlink()  # The loaded one is still mapped: a new file, not new bytes.
        path.write_bytes(content)
    build._libraries.cache_clear()
    assert build.native_available()


@with_compiler
def test_a_folder_that_others_may_write_to_is_not_used(compiler, tmp_path):
    compiler(EMPTY_LIBRARY)
    shared = tmp_path / "cache" / "isoflop"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    assert build.native_available()
    assert list(shared.rglob("*.so")) == []


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    assert build._folder("0123") is None


def test_a_relative_cache_is_ignored_as_the_standard_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert build._folder("0123") == tmp_path / ".cache" / "isoflop" / "0123"


def test_the_environments_compiler_goes_first_and_one_that_is_not_there_is_passed_over(
    compiler, monkeypatch
):
    path = compiler("exit 1")
    assert build._compiler() == str(path)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build._compiler() != "no-such-compiler"


def test_another_processor_source_flag_or_compiler_has_another_folder(
    compiler, tmp_path, monkeypatch
):
    path = str(compiler("exit 1"))
    digests = [build._digest(path)]
    assert build._digest(path) == digests[0]
    monkeypatch.setattr(build, "_processor", lambda: "another processor")
    digests.append(build._digest(path))
    changed = tmp_path / "kernels.c"
    changed.write_text(build.SOURCES[0].read_text() + "\n")
    monkeypatch.setattr(build, "SOURCES", (changed, *build.SOURCES[1:]))
    digests.append(build._digest(path))
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    digests.append(build._digest(path))
    compiler("exit 1", version="echo compiler 2.0")
    digests.append(build._digest(path))
    assert len(set(digests)) == 5


def test_the_processor_is_named_with_its_features_and_without_what_changes():
    """Clock rates stand in the same file and change from moment to moment."""
    assert build._processor() == build._processor()
    assert "MHz" not in build._processor()
    if Path("/proc/cpuinfo").exists():
        assert "flags" in build._processor() or "Features" in build._processor()


WORKER = """
import torch
from isoflop.model.ops import build, native
assert build.native_available(), build._libraries()[1]
logits = torch.linspace(-2, 2, 12).view(3, 4)
for dtype in (torch.float32, torch.bfloat16):
    print(native.row_losses(logits.to(dtype), torch.tensor([0, 1, 2]))[0].tolist())
"""


@with_compiler
def test_processes_that_compile_at_once_do_each_other_no_harm(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [worker.communicate(timeout=100)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert answers[0] == answers[1]
    assert torch.tensor([json.loads(line) for line in answers[0].splitlines()]).isfinite().all()
    found = (tmp_path / "cache" / "isoflop").rglob("*")
    assert sorted(path.name for path in found if path.is_file()) == ["bfloat16.so", "float32.so"]
