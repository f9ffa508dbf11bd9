"""What a sandbox promises its caller: order, verdicts, limits, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.sandbox.test_attacks import descendants, open_descriptors

from isoflop.config import UserError
from isoflop.sandbox import Limits, Program, Sandbox, usage, worker
from isoflop.sandbox.inside.watch import session_seconds
from isoflop.sandbox.layers import as_layers, layers_to_json, layers_to_text
from isoflop.sandbox.worker import WorkerDied, WorkerProcess

VERDICTS = [
    ("a = 1", None, "passed"),
    ("assert 1 == 1", None, "passed"),
    ("assert 1 == 2", None, "failed"),
    ("assert False, 'why'", None, "failed"),
    ("1 / 0", None, "error"),
    ("a b", None, "error"),
    ("", None, "passed"),
    ("raise MemoryError", None, "memory"),
    ("def f(x): return x + 1", "assert f(1) == 2", "passed"),
    ("def f(x): return x", "assert f(1) == 2", "failed"),
    ("def f(x): return 1 / 0", "f(1)", "error"),
    ("def f(x): return 1 / 0", "try:\n  f(1)\nexcept ZeroDivisionError: pass", "passed"),
    ("def f(*a, **k): return a, k", "assert f(1, b={2}) == ((1,), {'b': {2}})", "passed"),
    ("def f(x):\n  yield 1\n  yield x", "assert list(f(2)) == [1, 2]", "passed"),
    ("def f(x): return lambda y: x + y", "assert f(1)(2) == 3", "passed"),
    ("def f(x): return x", "assert f(10**5000) == 10**5000", "passed"),
    ("def f(x): return x", "assert f(float('inf')) == float('inf')", "passed"),
    ("def f(x): return x", "v = [None, True, 1.5, 2j, b'a', 'a\\ud800', (1,), {1}, {(1,): [2]}]\n"
     "assert f(v) == v and [type(a) for a in f(v)] == [type(a) for a in v]", "passed"),
    ("class A:\n  def __init__(self, v): self.v = v\ndef f(a): return a.v + a.w",
     "a = A(1)\na.w = 2\nassert f(a) == 3", "passed"),
    ("def sum(a, b): return a * b", "assert sum([1, 2]) == 3", "passed"),
    ("def sum(a, b): return a * b", "sum = __source__.sum\nassert sum(3, 4) == 12", "passed"),
    ("def f(x, kind): return [a for a in x if type(a) is kind]", "assert f([1, 'a'], str) == ['a']",
     "passed"),
    ("def f(): return range(3)", "assert f() == range(3) and len(f()) == 3 and f()[1] == 1 and f()",
     "passed"),
    ("from fractions import Fraction\nfrom decimal import Decimal\n"
     "def f(): return [Fraction(1, 2), Decimal('0.5'), 0.5]", "assert f() == [0.5] * 3", "passed"),
    ("from collections import Counter, OrderedDict, defaultdict, deque\ndef f():\n"
     "  return [Counter('aab'), OrderedDict(b=1, a=2), defaultdict(int), deque([1, 2], 2)]",
     "a, b, c, d = f()\nassert a.most_common(1) == [('a', 2)] and list(b) == ['b', 'a']\n"
     "assert c['x'] == 0 and d.maxlen == 2 and d[0] == 1 and list(d) == [1, 2]", "passed"),
    ("def f():\n  d = {'a': 1}\n  return d.keys(), d.values(), d.items()",
     "a, b, c = f()\nassert a == {'a'} and list(b) == [1] and c == {('a', 1)} and len(b) == 1",
     "passed"),
    ("import datetime as d\ndef f():\n  zone = d.timezone(d.timedelta(hours=2))\n"
     "  return d.date(2024, 2, 29), d.datetime(2024, 1, 1, 5, tzinfo=zone), d.timedelta(1), d.time(3)",
     "import datetime as d\nzone = d.timezone(d.timedelta(hours=2))\nassert f() == ("
     "d.date(2024, 2, 29), d.datetime(2024, 1, 1, 5, tzinfo=zone), d.timedelta(1), d.time(3))",
     "passed"),
    ("from collections import namedtuple\ndef f(): return namedtuple('P', 'x y')(1, 2)",
     "assert f().x == 1 and f() == (1, 2)", "passed"),
    ("class A:\n  def __str__(self): return 'a'\n  def __len__(self): return 0\n"
     "def f(): return A()", "assert str(f()) == 'a' and len(f()) == 0 and not f()", "passed"),
    ("def f():\n  yield 1\n  yield 2", "g = f()\nassert next(g) == 1 and list(g) == [2]", "passed"),
    ("def f(): return (i for i in [1])", "assert f() == [1]", "failed"),
    ("def f(): return bytearray(b'a'), {1: frozenset('a')}, 1j",
     "assert f() == (b'a', {1: {'a'}}, 1j)", "passed"),
    ("from pathlib import PurePath\ndef f(): return PurePath('a')",
     "from pathlib import PurePath\nassert f() == PurePath('a')", "not-carried"),
    ("from array import array\ndef f(): return array('i', [1])", "assert f() < 2", "not-carried"),
    ("def f(g): return g(1)", "assert f(lambda x: x) == 1", "not-carried"),
]  # fmt: skip


def test_verdicts_come_in_the_order_of_the_programs(sandbox: Sandbox) -> None:
    slow = Program(source="import time; time.sleep(0.3); print('slow')")
    programs = [slow, *(Program(source=source, tests=tests) for source, tests, _ in VERDICTS)]
    first, *outcomes = sandbox.run(programs)
    assert first.stdout == "slow\n"
    for (source, tests, verdict), outcome in zip(VERDICTS, outcomes, strict=True):
        assert outcome.verdict == verdict, (source, tests, outcome)
        assert (outcome.reason is None) == (verdict == "passed")


def test_input_and_output_are_carried(sandbox: Sandbox) -> None:
    text = "3\nä\0" + "x" * 300_000
    programs = [
        Program(source="import sys; print(len(sys.stdin.read()))", stdin=text),
        Program(source="print('a'); 1 / 0"),
        Program(source="import os; os.write(1, b'\\xff' * 3)"),
        Program(source="def f(): print('from f')", tests="f(); print('from tests')"),
        Program(source="print('x' * 10**6)"),
    ]
    length, error, bad, apart, long = sandbox.run(programs)
    assert length.stdout == f"{len(text)}\n"
    assert (error.verdict, error.stdout) == ("error", "a\n")
    assert bad.stdout == "\N{REPLACEMENT CHARACTER}" * 3
    assert apart.stdout == "from f\nfrom tests\n"
    assert long.verdict == "error"
    assert len(long.stdout) == sandbox.limits.output_bytes


def test_no_program_sees_what_another_left(sandbox: Sandbox) -> None:
    leaves = "import builtins, sys\nopen('kept', 'w').write('x')\nbuiltins.kept = sys.kept = 1"
    looks = "import builtins, os, sys\nassert os.listdir('.') == []\n"
    looks += "assert not hasattr(builtins, 'kept') and not hasattr(sys, 'kept')"
    outcomes = sandbox.run([Program(source=text) for text in (leaves, looks) * 4])
    assert [outcome.verdict for outcome in outcomes] == ["passed"] * 8


def test_chance_and_hashes_are_the_same_in_every_run(sandbox: Sandbox) -> None:
    source = "import random\nprint(random.random(), hash('a'), list({'a', 'b', 'c', 'd'}))"
    outcomes = list(sandbox.run([Program(source=source)] * 6))
    assert len({outcome.stdout for outcome in outcomes}) == 1


BURNS = "import os, time\ndef burn():\n  while time.process_time() < 0.4: pass\n"
"""Starts a program whose processes each use 0.4 s."""

CHILDREN = BURNS + "for _ in range(3):\n  if os.fork() == 0:\n    burn()\n"

TOGETHER_TOO_LONG = {
    "children collected": (
        CHILDREN + "    os._exit(0)\nfor _ in range(3): os.wait()",
        None,
    ),
    "children left alive": (
        # They hold the pipe's other end until their time is used.
        BURNS + "read, write = os.pipe()\nfor _ in range(3):\n  if os.fork() == 0:\n"
        "    burn()\n    os.close(write)\n    os.close(read)\n    time.sleep(600)\n"
        "os.close(write)\nos.read(read, 1)",
        None,
    ),
    "source and tests apart": (BURNS + "burn()\ndef f(): return 1", BURNS + "burn()\nf()"),
}
"""Sources and tests none of whose processes passes a limit of 0.6 s alone."""


@pytest.mark.parametrize("name", TOGETHER_TOO_LONG)
def test_processor_time_of_all_processes_counts(sandbox: Sandbox, name: str) -> None:
    source, tests = TOGETHER_TOO_LONG[name]
    with Sandbox(limits=Limits(cpu_seconds=0.6), workers=1) as other:
        for outcome in other.run([Program(source=source, tests=tests)] * 2):
            assert outcome.verdict == "time-out"
            assert outcome.reason == "more than 0.6 s of processor time"
            assert outcome.cpu_seconds >= 0.6


def test_processor_time_of_processes_that_the_wall_limit_ends_counts(sandbox: Sandbox) -> None:
    # A small part of the real time, so that it is used on a busy machine too.
    source = CHILDREN.replace("0.4", "0.1") + "    time.sleep(600)\ntime.sleep(600)"
    with Sandbox(limits=Limits(cpu_seconds=0.2, wall_seconds=6.0), workers=1) as other:
        (outcome,) = other.run([Program(source=source)])
    assert (outcome.verdict, outcome.reason) == ("time-out", "more than 0.2 s of processor time")
    assert outcome.cpu_seconds >= 0.2


def test_without_namespaces_children_left_alive_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = (
        "import isoflop.sandbox.inside.isolation as isolation\n"
        "def refuse(): raise OSError('unshare: refused')\nisolation.enter_namespaces = refuse\n"
    )
    start, _, last = worker._BOOTSTRAP.rpartition("zygote.main")
    monkeypatch.setattr(worker, "_BOOTSTRAP", f"{start}{refusing}zygote.main{last}")
    # The limit of processes holds for all of the user's here.
    limits = Limits(cpu_seconds=0.6, wall_seconds=60.0, processes=10_000)
    source = TOGETHER_TOO_LONG["children left alive"][0]
    with Sandbox(limits=limits, workers=1, allow_weaker_isolation=True) as other:
        assert any(layer.required and not layer.active for layer in other.layers())
        calm, outcome = other.run([Program(source="a = 1"), Program(source=source)])
    assert calm.verdict == "passed"
    assert (outcome.verdict, outcome.reason) == ("time-out", "more than 0.6 s of processor time")


def test_processor_time_of_a_session_is_read_where_there_is_no_namespace() -> None:
    code = BURNS + "if os.fork() == 0:\n  burn()\n  print(1, flush=True)\n  time.sleep(600)\n"
    code += "time.sleep(600)"
    leader = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    assert leader.stdout is not None
    with leader.stdout as lines:
        lines.readline()
        seconds = session_seconds(leader.pid)
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()
    assert 0.35 < seconds < 5


def test_verdicts_are_the_same_when_every_core_is_busy(sandbox: Sandbox) -> None:
    # 0.3 s of processor time: far from the limit of 1 s, whatever real time it takes.
    works = "import time\nwhile time.process_time() < 0.3: pass"
    programs = [Program(source=works), Program(source="assert 0"), Program(source="a = 1")] * 2
    calm = [outcome.verdict for outcome in sandbox.run(programs)]
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        loaded = [outcome.verdict for outcome in sandbox.run(programs)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert calm == loaded == ["passed", "failed", "passed"] * 2


def test_a_program_that_waits_for_a_processor_is_not_ended_for_its_real_time(
    sandbox: Sandbox,
) -> None:
    # With four others on its core 0.4 s of processor time take two seconds, one more than allowed.
    works = Program(source="import time\nwhile time.process_time() < 0.4: pass")
    sleeps = Program(source="import time; time.sleep(600)")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    busy = [
        # In sessions of their own: some kernels share a core among sessions, not processes.
        subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
        for _ in range(4)
    ]
    try:
        with Sandbox(limits=Limits(cpu_seconds=0.9, wall_seconds=1.0), workers=1) as other:
            other.layers()
            began = time.monotonic()
            (worked,) = other.run([works])
            seconds = time.monotonic() - began
            (slept,) = other.run([sleeps])
    finally:
        os.sched_setaffinity(0, cores)
        for process in busy:
            process.kill()
            process.wait()
    assert (worked.verdict, worked.reason) == ("passed", None)
    assert seconds > 1.0
    assert slept.verdict == "time-out"
    assert "asleep" in (slept.reason or "")


@pytest.mark.parametrize(
    ("source", "tests"),
    [
        ("def f(x): return x", "while True: f(1)"),
        ("def f(x):\n  while True: yield x", "list(f(1))"),
        ("def f(x):\n  while True: pass", "f(1)"),
        ("while True: pass", "f(1)"),
    ],
    ids=["calls", "items", "a call that does not end", "a source that does not end"],
)
def test_source_and_tests_do_not_escape_the_processor_limit(
    sandbox: Sandbox, source: str, tests: str
) -> None:
    # Processes that wake each other sleep whenever the kernel's clock ticks, by which its limit counts.
    with Sandbox(limits=Limits(cpu_seconds=1.0, wall_seconds=120.0), workers=1) as other:
        other.layers()
        (outcome,) = other.run([Program(source=source, tests=tests)])
    assert (outcome.verdict, outcome.reason) == ("time-out", "more than 1 s of processor time")
    assert outcome.cpu_seconds < 4.0


def test_children_in_no_sum_do_not_put_off_the_end(sandbox: Sandbox) -> None:
    source = "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    source += "for _ in range(6):\n  if os.fork() == 0:\n    while True: pass\ntime.sleep(600)"
    limits = Limits(cpu_seconds=1.0, wall_seconds=120.0)
    with Sandbox(limits=limits, workers=1) as other:
        other.layers()
        (outcome,) = other.run([Program(source=source)])
    assert (outcome.verdict, outcome.reason) == ("time-out", "more than 1 s of processor time")


def test_where_nothing_is_seen_real_time_decides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert min(usage.usage_of_program(os.getpid())) >= 0.0
    monkeypatch.setattr(usage, "PROC", tmp_path)
    assert usage.usage_of_program(os.getpid()) == (0.0, 0.0)


def test_a_dead_worker_is_replaced_and_its_program_run_again(sandbox: Sandbox) -> None:
    idle = sandbox._idle[-1]
    idle._process.kill()
    idle._process.wait()
    outcomes = list(sandbox.run([Program(source="a = 1")] * 4))
    assert [outcome.verdict for outcome in outcomes] == ["passed"] * 4


def test_a_program_whose_workers_died_has_no_verdict_that_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts = []

    def begin(self: WorkerProcess, *, allow_weaker_isolation: bool) -> None:
        self.refused, self.layers = "", {}
        self.close = self.kill = lambda: None  # type: ignore[method-assign]

    def die(self: WorkerProcess, program: Program, limits: Limits) -> None:
        starts.append(program)
        raise WorkerDied("killed for memory")

    monkeypatch.setattr(WorkerProcess, "__init__", begin)
    monkeypatch.setattr(WorkerProcess, "start", die)
    with Sandbox(workers=1) as sandbox:
        (outcome,) = sandbox.run([Program(source="a = 1")])
    assert (outcome.verdict, outcome.reason) == ("refused", "its workers died")
    assert len(starts) == 2


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1])
def test_leaving_the_sandbox_ends_everything(sandbox: Sandbox, delay: float) -> None:
    """Whenever it is left: also while a second worker is still being started."""
    before = descendants()
    descriptors = open_descriptors()
    with Sandbox(workers=2) as other:
        sleeper = Program(source="import time; time.sleep(600)")
        outcomes = other.run([Program(source="a = 1"), sleeper, sleeper])
        assert next(outcomes).verdict == "passed"
        time.sleep(delay)
        began = time.monotonic()
        outcomes.close()
        assert time.monotonic() - began < 10
    assert descendants() == before
    assert open_descriptors() == descriptors


def test_nothing_outlives_a_killed_caller(sandbox: Sandbox) -> None:
    code = (
        "from isoflop.sandbox import *\nwith Sandbox(workers=1) as s:\n"
        "  print('ready', flush=True)\n"
        "  list(s.run([Program(source='import time; time.sleep(600)')]))"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert caller.stdout is not None
    with caller.stdout as lines:
        lines.readline()
        deadline = time.monotonic() + 20
        # The caller, its worker's two processes, and the program's two.
        while len(family := descendants(caller.pid)) < 5:
            assert time.monotonic() < deadline, family
            time.sleep(0.05)
        caller.send_signal(signal.SIGKILL)
        caller.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{process}").exists() for process in family):
        assert time.monotonic() < deadline, "processes outlive the caller"
        time.sleep(0.05)


def test_without_namespaces_programs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: WorkerProcess, *, allow_weaker_isolation: bool) -> None:
        self.refused, self.layers = "unshare: Operation not permitted", {}
        self.close = self.kill = lambda: None  # type: ignore[method-assign]

    monkeypatch.setattr(WorkerProcess, "__init__", refuse)
    with Sandbox(workers=1) as sandbox:
        (outcome,) = sandbox.run([Program(source="a = 1")])
        layers = sandbox.layers()
    assert outcome.verdict == "refused"
    assert "unshare" in (outcome.reason or "")
    absent = [layer.name for layer in layers if layer.required and not layer.active]
    assert len(absent) == 4
    assert "REFUSED" in layers_to_text(layers)
    assert "unshare" in layers_to_json(layers)


def test_a_layer_that_was_not_measured_is_never_active() -> None:
    assert not any(layer.active for layer in as_layers("refused", {}))
    partly = as_layers("", {"namespaces": "", "measuring": "died"})
    assert [layer.active for layer in partly if layer.name == "system call filter"] == [False]


@pytest.mark.parametrize(
    ("name", "value"), [("cpu_seconds", 0.0), ("memory_bytes", -1), ("wall_seconds", 1.0)]
)
def test_limits_that_bound_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=name):
        Limits(**{name: value})


def test_a_sandbox_needs_a_worker() -> None:
    with pytest.raises(UserError, match="workers=0"):
        Sandbox(workers=0)
