"""One run of a study in a process of its own: ``python -m isoflop.sweep.worker FOLDER NUMBER [LAYOUT]``.

It tells its progress as JSON lines on standard output and ends with status 0,
or 2 with the reason in one line on standard error. It ends when its standard
input does: a killed parent must not leave a worker that writes on.

With a layout it is one of the run's ranks, which `isoflop.sweep.rank_group` starts.
"""

import json
import os
import sys
import threading
from pathlib import Path

from isoflop.config import UserError, from_dict
from isoflop.design.layout import Layout
from isoflop.sweep.pool import USER_ERROR, end_with_parent, tell_reason
from isoflop.sweep.posttrain import post_train
from isoflop.sweep.stages import train_and_evaluate
from isoflop.sweep.study import read_study_map


def main(arguments: list[str]) -> int:
    """Run one run of the study; returns the exit status."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    root, number = Path(arguments[0]), int(arguments[1])
    try:
        study = read_study_map(root)
        layout = None
        if len(arguments) > 2:
            layout = from_dict(Layout, json.loads(arguments[2]), "layout")
        train_and_evaluate(study, root, study.runs[number], _tell, layout)
        if layout is None or os.environ.get("RANK", "0") == "0":
            # By one process, however many trained.
            post_train(study, root, study.runs[number], _tell)
    except UserError as error:
        tell_reason(error)
        return USER_ERROR
    except OSError as error:
        tell_reason(f"{error.filename or root}: {error.strerror}")
        return USER_ERROR
    return 0


def _tell(stage: str, done: int, total: int, tokens_per_second: float | None) -> None:
    print(json.dumps([stage, done, total, tokens_per_second]), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
