"""pylint's score of one text after the other, in one process: the figure its command line prints.

    python -m pylint --rcfile=/dev/null --persistent=n --disable=... isoflop_text.py

A process per file spends most of its time on starting Python and pylint and on reading the standard
library's sources again; here both are done once. What a file can leave behind for the next:

- caches of pylint and astroid that hold its trees: emptied after every file;
- its own module in astroid's cache: taken out;
- counts of messages: a new record for every file;
- attributes it sets on classes and modules of others ("threading.Thread.mine = 1"), which astroid
  writes into the shared trees of those: a file with such an assignment is scored in a forked copy;
- checkers that stopped half-way where pylint crashed: `LintScore.spoiled` asks for a new process.

Trees of imported modules stay: they are the same for every file that imports them, once what they write into
each other is taken back (`shared_trees.py`).
`benchmarks/corpus_filter_speed.py` holds the scores against the command line's.
"""

import ast
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from isoflop.corpus.filters.shared_trees import SharedTrees
from isoflop.corpus.filters.syntax import COMPILE_ERRORS
from isoflop.corpus.formats import extra

MODULE_NAME = "isoflop_text"
"""Every text is this module: a name that no text imports, so that its score depends on it alone."""

COMMAND_LINE_FRAMES = 5
"""Python frames below PyLinter.check under `python -m pylint`: two of runpy, the module's,
run_pylint, Run.__init__. Where recursion ends is where inference gives up."""

WARM_MODULES = (
    "sys", "abc", "_py_abc", "_collections_abc", "collections", "collections.abc", "enum",
    "types", "_weakref", "_io", "io", "os", "posix", "posixpath", "ntpath", "genericpath",
    "stat", "functools", "_functools", "typing", "re", "re._constants", "re._parser",
    "re._compiler", "time", "random", "_random", "contextlib", "dataclasses", "json",
    "json.decoder", "json.encoder", "json.scanner", "unittest", "unittest.case",
    "unittest.suite", "datetime", "_datetime", "operator", "_operator", "threading", "tkinter",
    "tkinter.constants", "tkinter.ttk", "tkinter.messagebox", "math", "pathlib", "copy",
    "copyreg", "warnings", "argparse", "ast", "inspect", "hashlib", "string", "subprocess",
    "importlib", "importlib._bootstrap", "uuid", "itertools", "socket", "struct", "csv",
    "logging", "traceback", "doctest", "linecache", "bdb", "cmd", "pdb",
)  # fmt: skip
"""Modules that files import most, read before the first file so that every worker shares them.
Counted on 4,723 files; which they are changes speed alone."""


@dataclass(frozen=True, kw_only=True)
class LintScore:
    """What pylint says of one text."""

    score: float | None
    """As printed: two decimals, at most 10. None: it prints none."""
    problem: str | None
    """Why it prints none, or that it crashed. None: neither."""
    spoiled: bool = False
    """Whether this process must not score another text."""


def may_change_others(text: str) -> bool:
    """Whether the text assigns to an attribute of anything but `self` or `cls`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.removeprefix("\ufeff"))
        return any(_is_foreign_target(node) for node in ast.walk(tree))
    except COMPILE_ERRORS:
        return False  # pylint cannot read it either


def _is_foreign_target(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute) or isinstance(node.ctx, ast.Load):
        return False
    return not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))


class PylintScorer:
    """pylint, started once. Its process should do nothing else: standard output is closed to it.

    Raises:
        UserError: pylint is not installed, or knows no such message.
    """

    def __init__(self, disabled: Sequence[str], cpu_seconds: float):
        self._home = tempfile.TemporaryDirectory(prefix="isoflop-lint-")
        home = Path(self._home.name)
        os.environ["PYLINTHOME"] = str(home)
        self._cpu_seconds = cpu_seconds
        self._owner = self._writer = os.getpid()
        self._path, self._crash = self._files()
        self._path.write_text("", encoding="utf-8")
        lint = extra("pylint.lint", "the lint score")
        self._trees = SharedTrees()
        self._trees.follow()
        options = ["--rcfile=" + os.devnull, "--persistent=n", "--disable=" + ",".join(disabled)]
        self._linter = lint.Run([*options, str(self._path)], reporter=_silent(), exit=False).linter
        self._linter.crash_file_path = str(self._crash)
        self._trees.keep()
        self._forget()

    def _files(self) -> tuple[Path, Path]:
        """Where this process puts a text, and pylint its report of a crash."""
        folder = Path(tempfile.mkdtemp(dir=self._home.name))
        return folder / f"{MODULE_NAME}.py", folder / "crash.txt"

    def warm(self) -> None:
        """Read the modules that files import most."""
        self._read_modules(WARM_MODULES)
        self._trees.forget()
        gc.collect()
        gc.freeze()

    def _read_modules(self, names: Iterable[str]) -> None:
        from astroid import MANAGER
        from astroid.exceptions import AstroidError

        for name in names:
            try:
                MANAGER.ast_from_module_name(name)
            except AstroidError:
                continue  # A Python built without it, or a part of another module's tree.

    def score(self, text: str) -> LintScore:
        """The score of one text.

        Raises:
            MemoryError: the process's limit of memory ended pylint.
        """
        if os.getpid() != self._writer:
            # Forked: in one file, workers would read each other's texts.
            self._writer = os.getpid()
            self._path, self._crash = self._files()
            self._linter.crash_file_path = str(self._crash)
        self._path.write_bytes(text.encode("utf-8"))
        if may_change_others(text):
            return self._score_in_a_copy()
        try:
            return self._score_here()
        finally:
            self._forget()

    def close(self) -> None:
        """Delete the files; only in the process that made them."""
        if os.getpid() == self._owner:
            self._home.cleanup()

    def _score_here(self) -> LintScore:
        from pylint.utils import LinterStats

        linter = self._linter
        linter.stats = LinterStats()
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + _frames() - COMMAND_LINE_FRAMES)
        gc.disable()
        try:
            linter.check([str(self._path)])
            score = linter.generate_reports()
        finally:
            sys.setrecursionlimit(limit)
        printed = None if score is None else float(f"{score:.2f}")
        if linter.stats.fatal:
            return LintScore(score=printed, problem=self._crash_reason(), spoiled=True)
        problem = _why_unrated(linter.stats.by_msg) if printed is None else None
        return LintScore(score=printed, problem=problem)

    def _crash_reason(self) -> str:
        """The exception that pylint reports of itself, in one line."""
        report = self._crash.read_text(errors="replace") if self._crash.exists() else ""
        self._crash.unlink(missing_ok=True)
        if "MemoryError" in report:
            raise MemoryError
        lines = [line for line in report.splitlines() if line[:1].isalpha() and "Error" in line]
        # A chain of exceptions is told cause first.
        return "pylint crashed: " + (lines[0][:200] if lines else "no reason given")

    def _score_in_a_copy(self) -> LintScore:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            self._child(writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        if said:
            score, problem, modules = json.loads(said)
            # The next copy shall find them here.
            self._read_modules(modules)
            self._forget()
            return LintScore(score=score, problem=problem)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
            return LintScore(score=None, problem="time limit")
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == OUT_OF_MEMORY:
            raise MemoryError
        return LintScore(score=None, problem=f"pylint's process ended with status {status}")

    def _child(self, writing: int) -> None:
        """Score in a forked copy and end it."""
        status = OUT_OF_MEMORY
        try:
            signal.setitimer(signal.ITIMER_PROF, self._cpu_seconds)
            known = set(_known_modules())
            found = self._score_here()
            modules = [name for name in _known_modules() if name not in known]
            said = json.dumps([found.score, found.problem, modules])
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(said.encode())
            status = 0
        except MemoryError:
            pass
        finally:
            os._exit(status)

    def _forget(self) -> None:
        """Empty every cache that holds trees of the file. The names are astroid 4's and pylint 4's."""
        from astroid import MANAGER
        from astroid.context import _invalidate_cache
        from astroid.inference_tip import clear_inference_tip_cache
        from astroid.interpreter.objectmodel import ObjectModel
        from astroid.nodes._base_nodes import LookupMixIn
        from astroid.nodes.scoped_nodes import ClassDef
        from pylint.checkers.clear_lru_cache import clear_lru_caches

        MANAGER.astroid_cache.pop(MODULE_NAME, None)
        self._trees.forget()
        clear_lru_caches()
        _invalidate_cache()
        clear_inference_tip_cache()
        for cached in (
            LookupMixIn.lookup,
            ClassDef._metaclass_lookup_attribute,
            ObjectModel.attributes,
        ):
            cached.cache_clear()
        # Only what this file made is looked through: the rest is frozen.
        gc.collect()
        gc.freeze()


OUT_OF_MEMORY = 97
"""Exit status of a process that its limit of memory ended. Chosen: unused elsewhere."""


def resident_bytes() -> int:
    """Memory of this process now; its peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


def _known_modules() -> list[str]:
    """Imported modules whose trees astroid holds."""
    from astroid import MANAGER

    return [name for name in MANAGER.astroid_cache if name not in ("", MODULE_NAME)]


def _why_unrated(messages: dict[str, int]) -> str:
    if messages.get("syntax-error"):
        return "pylint finds a syntax error"
    return "pylint rates nothing: no statements, or skip-file"


def _frames() -> int:
    """Python frames of the caller, its own included."""
    count = 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        count, frame = count + 1, frame.f_back
    return count


def _silent() -> Any:
    """A reporter that shows nothing."""
    from pylint.reporters.base_reporter import BaseReporter

    class Silent(BaseReporter):
        def handle_message(self, msg: Any) -> None:
            pass

        def display_messages(self, layout: Any) -> None:
            pass

        def display_reports(self, layout: Any) -> None:
            pass

        def _display(self, layout: Any) -> None:
            pass

    return Silent()
