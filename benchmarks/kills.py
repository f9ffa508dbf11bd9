"""The loop of the kill-and-resume benchmarks: kill a command at random moments, start it again each
time, and compare what it leaves with what an undisturbed run leaves. Not a benchmark itself.

SIGKILL goes to the command and to the processes that it started, together.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

NOT_COMPARED = frozenset({"env.json", "lock", "timings.jsonl"})
"""Files that say when and where a run ran, which differ from run to run."""


def files_of(out: Path, leaving_out: frozenset[str] = NOT_COMPARED) -> dict[str, bytes]:
    """Every file under `out` by its path, but those of these names."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in leaving_out
    }


@dataclass(frozen=True, kw_only=True)
class Killing:
    """What is killed, how often, when, and what must then be equal."""

    command: Callable[[Path], Sequence[str]]
    """Arguments of the interpreter that write into a folder, or go on there."""
    kills: int
    seed: int
    life: Callable[[float], tuple[float, float]]
    """Least and most seconds until a kill, from the seconds of the undisturbed run."""
    compared: Callable[[Path], dict[str, bytes]] = files_of
    """What the folder holds that must be equal, by name."""
    kept: Callable[[Path], str]
    """What a kill left, in words."""


def compare(killing: Killing) -> int:
    """Run undisturbed, run with kills, print what differs; 0 if nothing does."""
    draws = random.Random(killing.seed)
    with tempfile.TemporaryDirectory() as text:
        calm, killed = Path(text, "calm"), Path(text, "killed")
        begun = time.monotonic()
        if _start(killing, calm).wait() != 0:
            shown = " ".join(killing.command(Path("OUT")))
            raise SystemExit(f"the undisturbed run failed: run by hand: python {shown}")
        whole = time.monotonic() - begun
        print(f"undisturbed: {whole:.0f} s", flush=True)
        kills = 0
        while kills < killing.kills:
            run = _start(killing, killed)
            life = draws.uniform(*killing.life(whole))
            try:
                status = run.wait(timeout=life)
            except subprocess.TimeoutExpired:
                _kill_all(run)
                kills += 1
                print(f"killed after {life:.1f} s with {killing.kept(killed)}", flush=True)
            else:
                print(f"it had ended with status {status}", flush=True)
                break
        if _start(killing, killed).wait() != 0:
            raise SystemExit("the run did not go on after a kill")
        expected, found = killing.compared(calm), killing.compared(killed)
    names = sorted(expected.keys() | found.keys())
    wrong = [name for name in names if expected.get(name) != found.get(name)]
    print(f"{kills} kills, {len(names)} files compared, {len(wrong)} differ", *wrong, sep="\n")
    return 1 if wrong or not names or kills < killing.kills else 0


def _start(killing: Killing, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, *killing.command(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill_all(run: subprocess.Popen[bytes]) -> None:
    workers = _children(run.pid)
    run.kill()
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    run.wait()


def _children(process: int) -> list[int]:
    """Processes that `process` started, on Linux."""
    with suppress(OSError):
        return [
            int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ]
    return []
