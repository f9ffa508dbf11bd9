"""The standard library is the same corpus each time, and hostile source is set aside."""

import sysconfig
from pathlib import Path

import pytest

from isoflop.config import UserError
from isoflop.corpus import StdlibSource
from isoflop.corpus.formats import BadRecordError
from isoflop.corpus.stdlib import python_text, read_stdlib, stdlib_files, stdlib_root
from isoflop.records import Document, SetAside, row_to_line

HOSTILE = {
    "bad_syntax.py": b"def f(:\n",
    "python2.py": b'print "hello"\n',
    "outside.py": b"return 1\n",
    "null.py": b"a = 1\x00\n",
    "deep.py": b"(" * 5000 + b")" * 5000,
    "long_chain.py": b"a" + b".a" * 100_000,
    "long_sum.py": b"-" * 100_000 + b"1",
    "many_digits.py": b"a = " + b"9" * 5000,
    "coding.py": b"# coding: no-such\n",
    "not_text.py": b"# coding: rot13\nn = 1\n",
    "latin.py": b"a = 'caf\xe9'\n",
    "mixed.py": b"\xef\xbb\xbf# coding: latin-1\n",
    "surrogate.py": b"# coding: raw_unicode_escape\na = '\\ud800'\n",
    "tabs.py": b"if 1:\n\ta = 1\n        b = 1\n",
    "empty.py": b"",
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small folder that passes for the standard library."""
    for name, raw in HOSTILE.items():
        (tmp_path / name).write_bytes(raw)
    for name in ("good.py", "package/good.py", "package/__pycache__/x.py", "site-packages/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"# coding: latin-1\r\na = '\\d caf\xe9' is 1\r\n")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    return tmp_path


def test_what_does_not_compile_is_set_aside_and_the_rest_decoded(library):
    found = list(read_stdlib(StdlibSource(), 0))
    for record in found:
        row_to_line(record).encode("utf-8")
    assert len(found) == len(HOSTILE) + 2
    assert {r.where for r in found if isinstance(r, SetAside)} == set(HOSTILE)
    kept = {r.id: r.text for r in found if isinstance(r, Document)}
    text = "# coding: latin-1\na = '\\d café' is 1\n"
    assert kept == {"good.py": text, "package/good.py": text}


def test_a_valid_file_of_any_declared_encoding_is_text():
    assert python_text(b"# coding: koi8-r\na = '\xc1'\n") == "# coding: koi8-r\na = '\u0430'\n"
    with pytest.raises(BadRecordError, match="does not compile"):
        python_text(b"a = = 1")


def test_a_library_without_files_is_the_users_error(tmp_path, monkeypatch):
    for stdlib in (tmp_path, tmp_path / "python311.zip"):
        monkeypatch.setattr(sysconfig, "get_paths", lambda stdlib=stdlib: {"stdlib": str(stdlib)})
        with pytest.raises(UserError, match=r"no .py files on disk .*use a TextSource"):
            list(read_stdlib(StdlibSource(), 0))


def test_max_bytes_takes_a_beginning_of_the_seeded_order():
    def taken(max_bytes: int, seed: int) -> list[str]:
        source = StdlibSource(max_bytes=max_bytes)
        return [r.id for r in read_stdlib(source, seed) if isinstance(r, Document)]

    few, more = taken(50_000, 0), taken(150_000, 0)
    assert few == more[: len(few)]
    assert len(few) < len(more)
    assert taken(50_000, 1) != few == taken(50_000, 0)


def test_the_bytes_kept_pass_the_limit_with_the_last_file_only():
    texts = [
        record.text
        for record in read_stdlib(StdlibSource(max_bytes=100_000), 0)
        if isinstance(record, Document)
    ]
    sizes = [len(text.encode()) for text in texts]
    assert sum(sizes[:-1]) < 100_000 <= sum(sizes)


def test_packages_of_others_are_no_part_of_the_library():
    names = stdlib_files(stdlib_root())
    assert "os.py" in names
    assert names == sorted(names)
    assert not [name for name in names if "site-packages" in Path(name).parts]
