"""One run of a study in a process of its own: ``python -m isoflop.sweep.worker FOLDER NUMBER``.

It tells its progress as JSON lines on standard output and ends with status 0,
or 2 with the reason in one line on standard error. It ends when its standard
input does: a killed parent must not leave a worker that writes on.
"""

import json
import os
import sys
import threading
from pathlib import Path

from isoflop.config import UserError
from isoflop.sweep.pool import USER_ERROR
from isoflop.sweep.posttrain import post_train
from isoflop.sweep.stages import train_and_evaluate
from isoflop.sweep.study import read_study_map


def main(arguments: list[str]) -> int:
    """Run one run of the study; returns the exit status."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    root, number = Path(arguments[0]), int(arguments[1])
    try:
        study = read_study_map(root)
        train_and_evaluate(study, root, study.runs[number], _tell)
        post_train(study, root, study.runs[number], _tell)
    except UserError as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        print(f"{error.filename or root}: {error.strerror}", file=sys.stderr)
        return USER_ERROR
    return 0


def _tell(stage: str, done: int, total: int, tokens_per_second: float | None) -> None:
    print(json.dumps([stage, done, total, tokens_per_second]), flush=True)


def _end_with_parent() -> None:
    # Not sys.stdin: its lock, held while waiting, would abort the interpreter's own end.
    while os.read(sys.stdin.fileno(), 1):
        pass
    # Not sys.exit: that would end this thread only. Nothing is lost: files appear whole.
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
