"""Mathematical answers in LaTeX, compared by math-verify in a process that can be ended.

math-verify reads LaTeX with ANTLR and compares with SymPy, which can run for hours on a few
characters (9^{9^{9^9}}). So it runs apart, with bounds on memory and on processor time, which,
unlike real time, other work on the machine hardly changes. A comparison that takes more ends the
process, the answer is ungradable, and the next one gets a new process. The extra `isoflop[eval]`
brings it.
"""

import atexit
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import threading
from typing import IO, Any

from isoflop.config import UserError
from isoflop.graders.numbers import canonical_number, number_text
from isoflop.graders.verdict import Grade, graded, ungradable

MAX_CHARACTERS = 10_000
"""Of a text whose end is searched for the answer."""

MAX_DEPTH = 30
"""Of nested braces in it; the parser's own recursion ends far deeper."""

MAX_DIGIT_RUN = 300
"""Digits in a row: SymPy would factor them."""

CPU_SECONDS = 10.0
"""Of processor time for one comparison, which takes milliseconds; it decides. Chosen."""

WALL_SECONDS = 300.0
"""Of real time for a comparison, or for the process to import SymPy, which takes two seconds of
processor time. A backstop that a loaded machine does not reach. Chosen."""


def grade_latex(text: str, gold: str) -> Grade:
    """Compare the final expression in `text`, boxed where one is, with the gold answer.

    Raises:
        UserError: math-verify is not installed.
    """
    text = text[-MAX_CHARACTERS:]
    problem = _too_much(text)
    if problem is None and (gold_problem := _too_much(gold)) is not None:
        problem = f"the gold answer: {gold_problem}"
    if problem is not None:
        return ungradable(problem)
    reply = _COMPARER.ask(text, gold)
    if reply.get("problem") is not None:
        return ungradable(str(reply["problem"]))
    answer = str(reply["answer"])
    number = canonical_number(answer) if len(answer) < MAX_DIGIT_RUN else None
    key = answer if number is None or not _is_bare(answer) else number_text(number)
    return graded(key, correct=bool(reply["correct"]))


def _is_bare(answer: str) -> bool:
    """Whether an expression is a number and nothing else, so that 0.5 and 1/2 vote together."""
    return set(answer) <= set("0123456789.,-/ ")


def _too_much(text: str) -> str | None:
    """Why a text is not given to the parser; None: it is."""
    if not text.strip():
        return "no answer"
    depth = deepest = run = longest = 0
    for character in text:
        depth = max(0, depth + (character in "{([") - (character in "})]"))
        run = run + 1 if character.isdigit() else 0
        deepest, longest = max(deepest, depth), max(longest, run)
    if deepest > MAX_DEPTH:
        return f"brackets nested {deepest} deep"
    if longest > MAX_DIGIT_RUN:
        return f"{longest} digits in a row"
    return None


class _Comparer:
    """One process that compares, started at the first question and ended with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, text: str, gold: str) -> dict[str, Any]:
        """Its reply; a `problem` where it gave none."""
        question = {"text": text, "gold": gold, "cpu_seconds": CPU_SECONDS}
        with self._lock:
            process = self._running()
            try:
                line = _answered(process, json.dumps(question).encode() + b"\n")
            except BaseException:
                # The reply may still come, and would be taken for the next question's.
                self._end()
                raise
            if line is None or not line.endswith(b"\n"):
                self._end()
                if line is None:
                    return {"problem": f"comparing took over {WALL_SECONDS:g} s of real time"}
                return {"problem": _how_it_ended(process.returncode)}
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _running(self) -> subprocess.Popen[bytes]:
        # A forked child must not share its parent's pipes.
        if self._process is None or self._owner != os.getpid():
            self._process = _start()
            self._owner = os.getpid()
        return self._process

    def _end(self) -> None:
        if self._process is None or self._owner != os.getpid():
            return
        self._process.kill()
        self._process.communicate()
        self._process = None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()


def _start() -> subprocess.Popen[bytes]:
    if importlib.util.find_spec("math_verify") is None:
        raise UserError(
            "LaTeX answers are compared by math-verify, which is not installed; "
            "run: pip install 'isoflop[eval]'"
        )
    process = subprocess.Popen(
        [sys.executable, "-m", "isoflop.graders.latex_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    if not _line(process.stdout):
        process.kill()
        process.communicate()
        raise UserError(
            "math-verify could not be started; try: python -m isoflop.graders.latex_process"
        )
    return process


def _answered(process: subprocess.Popen[bytes], question: bytes) -> bytes | None:
    """What it says to a question, as `_line` has it."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(question)
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    return _line(process.stdout)


def _line(stream: IO[bytes]) -> bytes | None:
    """The next line, which is written at once; empty: the stream ended; None: nothing in time."""
    ready, _, _ = select.select([stream], [], [], WALL_SECONDS)
    return stream.readline() if ready else None


def _how_it_ended(status: int) -> str:
    """Why there is no reply, from the status of a process that ended in the middle of a question."""
    if status == -signal.SIGPROF:
        return f"comparing took over {CPU_SECONDS:g} s of processor time"
    if status < 0:
        return f"{signal.Signals(-status).name} ended the comparison"
    return f"the comparison ended with status {status}"


_COMPARER = _Comparer()
atexit.register(_COMPARER.close)
