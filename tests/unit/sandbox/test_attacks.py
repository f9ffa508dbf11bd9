"""Hostile programs get the verdict that contains them, and the host is as it was before."""

import os
from pathlib import Path

import pytest
from tests.unit.sandbox.hostile import ATTACKS, Attack

from isoflop.sandbox import Program, Sandbox
from isoflop.sandbox.inside.calls import HEAD, MARK

MARKS = (Path("/mark"), Path("/dev/mark"), Path(os.__file__ + ".mark"))


def descendants(root: int | None = None) -> set[int]:
    """Processes that come from `root`, by default this one, zombies included."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(folder.name)] = int(fields[1])
    found = {root or os.getpid()}
    while True:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def open_descriptors() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def host_state() -> tuple[object, ...]:
    """What a program must not change."""
    return (
        descendants(),
        Path("/proc/self/mounts").read_text(),
        open_descriptors(),
        os.uname().nodename,
        Path(os.__file__).stat().st_mtime_ns,
        [mark.exists() for mark in MARKS],
    )


def test_the_suite_has_at_least_forty_attacks_with_names_of_their_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 40


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_contained(sandbox: Sandbox, attack: Attack) -> None:
    before = host_state()
    source = attack.source.replace("HOST_PROCESS", str(os.getpid()))
    (outcome,) = sandbox.run([Program(source=source)])
    assert outcome.verdict in attack.verdicts.split(), outcome
    assert attack.reason in (outcome.reason or ""), outcome
    assert host_state() == before


CHEATS_ON_TESTS = {
    "an object that equals everything": "class A:\n  def __eq__(self, other): return True\n"
    "def f(x): return A()",
    "an object that compares with everything": "class A:\n  def __eq__(self, other): return True\n"
    "  def __ne__(self, other): return False\n  __hash__ = object.__hash__\n"
    "  def __add__(self, other): return 2\n  def __len__(self): return 1\ndef f(x): return A()",
    "answers with a named tuple whose fields hide methods": "class A(tuple):\n"
    "  _fields = ('__eq__', 'count')\n  def __eq__(self, other): return True\n"
    "def f(x): return A((1, 2))",
    "a number that equals everything": "class A(int):\n  def __eq__(self, other): return True\n"
    "def f(x): return A(0)",
    "leaves when called": "import os\ndef f(x): os._exit(0)",
    "leaves at once": "import os\nos._exit(0)",
    "exits when called": "import sys\ndef f(x): sys.exit(0)",
    "hides built-in names": "def len(x): return 2\ndef set(x): return 2\ndef f(x): return 0",
    "patches built-in names": "import builtins\nbuiltins.len = lambda x: 2\ndef f(x): return 0",
    "searches frames and descriptors": "import os, sys\ndef f(x):\n  for n in range(3, 64):\n"
    "    for data in (b'P' + b'0' * 16, b'P'):\n      try: os.write(n, data)\n"
    "      except OSError: pass\n  os._exit(0)",
    "kills the tests": "import os, signal\ndef f(x):\n  for n in range(2, 20):\n"
    "    if n != os.getpid():\n      try: os.kill(n, signal.SIGKILL)\n"
    "      except OSError: pass\n  return 2",
    "raises an AssertionError": "def f(x): raise AssertionError",
    "answers with nonsense": "def f(x): return [[[[]]]]",
    "answers with depth": "def f(x):\n  y = []\n  for _ in range(10**4): y = [y]\n  return y",
    "answers itself": "def f(x):\n  y = []\n  y.append(y)\n  return y",
    "syntax error": "def f(x)",
    "is not there": "def g(x): return 2",
}


@pytest.mark.parametrize("name", CHEATS_ON_TESTS)
def test_no_source_passes_tests_that_stand_apart_without_the_right_answer(
    sandbox: Sandbox, name: str
) -> None:
    tests = "assert f(1) == 2 and len([f(1)]) == 1"
    (outcome,) = sandbox.run([Program(source=CHEATS_ON_TESTS[name], tests=tests)])
    assert outcome.verdict in ("failed", "error", "not-carried"), outcome


def test_the_secret_cannot_be_had_by_a_source_whose_tests_stand_apart(sandbox: Sandbox) -> None:
    source = (
        "import os, select\ndef f(x):\n  got = b''\n  for n in range(3, 64):\n"
        "    try:\n      if select.select([n], [], [], 0)[0]: got += os.read(n, 16)\n"
        "    except (OSError, ValueError): pass\n  return len(got)"
    )
    (outcome,) = sandbox.run([Program(source=source, tests="assert f(1) == 0")])
    assert outcome.verdict == "passed", outcome


@pytest.mark.parametrize(
    "junk",
    [b"\0", b"x", b"P" + b"0" * 16, bytes(8), b"\0\0\0\0\0\0\1\0", b"x" * 1000,
     HEAD.pack(MARK, 2**40), HEAD.pack(MARK, 2) + b"[["],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("when", ["at once", "when called"])
def test_junk_on_the_way_to_the_tests_is_an_error_at_once(
    sandbox: Sandbox, junk: bytes, when: str
) -> None:
    writes = "import os\ndef spoil():\n  for n in range(3, 64):\n    try: os.write(n, %r)\n"
    writes += "    except OSError: pass\n"
    last = "spoil()\ndef f(x): return 2" if when == "at once" else "def f(x): spoil(); return 2"
    # Not even tests that take any exception for the right one.
    tests = "for _ in range(3):\n  try: f(1)\n  except Exception: pass"
    (outcome,) = sandbox.run([Program(source=writes % junk + last, tests=tests)])
    assert outcome.verdict == "error", outcome
    assert "BadFrameError" in (outcome.reason or ""), outcome
