"""Find an experiment by its name, or in a Python file of the user's."""

import runpy
import traceback
from collections.abc import Callable
from pathlib import Path

from isoflop.config import UserError, from_dict, to_dict
from isoflop.experiments.demo import demo
from isoflop.experiments.demo_grpo import demo_grpo
from isoflop.experiments.desk import desk
from isoflop.experiments.paper import paper
from isoflop.sweep.config import Experiment

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "demo": demo,
    "demo-grpo": demo_grpo,
    "desk": desk,
    "paper": paper,
}


def load_experiment(name: str) -> Experiment:
    """The experiment called `name`, or what ``experiment()`` in the file `name` returns.

    Raises:
        UserError: no such experiment or file, or a mistake in the file.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]()
    if not name.endswith(".py"):
        raise UserError(
            f"no experiment {name!r}; there are {', '.join(EXPERIMENTS)}, or give a Python file "
            "with a function experiment()"
        )
    path = Path(name)
    if not path.is_file():
        raise UserError(f"{name}: no such file")
    try:
        made = runpy.run_path(name)["experiment"]()
    except UserError as error:
        raise UserError(f"{name}:{_line(error, path)}: {error}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's file can raise anything
        what = "no function experiment()" if repr(error) == "KeyError('experiment')" else str(error)
        raise UserError(f"{name}:{_line(error, path)}: {type(error).__name__}: {what}") from None
    if not isinstance(made, Experiment):
        raise UserError(
            f"{name}: experiment() must return an Experiment, not {type(made).__name__}"
        )
    # Through the text form and back: Python checks no types, and workers read the text.
    try:
        return from_dict(Experiment, to_dict(made), name)
    except RecursionError:
        raise UserError(f"{name}: experiment() returned a config that contains itself") from None


def _line(error: BaseException, path: Path) -> int:
    """Last line of the user's file that led to the error."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno or 0 for frame in frames if Path(frame.filename).name == path.name]
    return lines[-1] if lines else 1
