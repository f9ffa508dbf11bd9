"""Show rows live in TensorBoard or Weights & Biases, which are extras.

A mirror reads the rows that runs append to their folders and forwards the new
ones. The rows stay the record; a mirror can be switched on or off at any time.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

from isoflop.config import UserError
from isoflop.sweep.study import StudyMap

MIRRORS = ("tensorboard", "wandb")


@runtime_checkable
class Writer(Protocol):
    """One run's page in a tracker."""

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Show the figures of one step."""

    def close(self) -> None:
        """Write what is open."""


def open_mirror(kind: str, root: Path) -> "Mirror":
    """A mirror of this kind, its files under `root`.

    Raises:
        UserError: no such kind, or its package is not installed.
    """
    if kind not in MIRRORS:
        raise UserError(f"mirror {kind!r} must be one of {', '.join(MIRRORS)}")
    if find_spec(kind) is None:
        raise UserError(f"mirror {kind} needs its package: pip install 'isoflop[{kind}]'")
    return Mirror(kind, root)


class Mirror:
    """Forwards new rows of every run."""

    def __init__(self, kind: str, root: Path):
        self._kind, self._root = kind, root
        self._writers: dict[str, Writer] = {}
        self._read: dict[Path, int] = {}
        self._make = _tensorboard_writer if kind == "tensorboard" else _wandb_writer

    def poll(self, study: StudyMap) -> None:
        """Forward the rows that came since the last call; a run of GRPO has a page of its own."""
        for run in study.runs:
            self._show(study, run.name, run.train.path, TRAINING_FILES)
            for one in run.grpo:
                self._show(study, one.train.name, one.train.path, GRPO_FILES)

    def _show(self, study: StudyMap, page: str, path: str, files: "Files") -> None:
        for name, figures in files.items():
            for row in self._new_rows(self._root / path / name):
                if page not in self._writers:
                    place = self._root / self._kind / page
                    self._writers[page] = self._make(place, study.experiment.name, page)
                self._writers[page].add(row["step"], figures(row))

    def close(self) -> None:
        """End all pages."""
        for writer in self._writers.values():
            writer.close()

    def _new_rows(self, path: Path) -> Iterator[dict[str, Any]]:
        """Whole lines beyond those read before. A resumed run rewrites its file, shorter or equal:
        then the rows it makes again are shown again, with the same values."""
        if not path.exists():
            return
        with path.open("rb") as file:
            start = self._read.get(path, 0)
            if path.stat().st_size < start:
                start = 0
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                start += len(line)
                yield json.loads(line)
        self._read[path] = start


def _step_figures(row: dict[str, Any]) -> dict[str, float]:
    loads = [max(layer) * len(layer) for layer in row["expert_load"]]
    return {
        "train/loss": row["train_loss"],
        "train/learning_rate": row["learning_rate"],
        "train/gradient_norm": row["gradient_norm"],
        "router/balance_loss": fmean(row["balance_loss"]),
        "router/z_loss": fmean(row["z_loss"]),
        "router/max_expert_load": max(loads),
    }


def _loss_figures(row: dict[str, Any]) -> dict[str, float]:
    return {f"loss/{row['source']}/{row['split']}": row["loss"]}


GRPO_FIGURES = {
    "reward": "grpo/reward",
    "reward_standard_deviation": "grpo/reward_standard_deviation",
    "share_without_signal": "grpo/share_without_signal",
    "share_ungradable": "grpo/share_ungradable",
    "share_truncated": "grpo/share_truncated",
    "response_tokens": "grpo/response_tokens",
    "policy_loss": "grpo/policy_loss",
    "clip_share": "grpo/clip_share",
    "divergence": "grpo/divergence",
    "entropy": "grpo/entropy",
    "gradient_l2_norm": "grpo/gradient_l2_norm",
    "gradient_l1_norm": "grpo/gradient_l1_norm",
    "update_l2_norm": "grpo/update_l2_norm",
    "routing_disagreement": "router/disagreement",
    "max_expert_load": "router/max_expert_load",
}
"""What is shown of a GrpoStepRow, and its name in a tracker."""


def _grpo_figures(row: dict[str, Any]) -> dict[str, float]:
    # A divergence that is not taken is no 0: it has no point.
    shown = {label: row[name] for name, label in GRPO_FIGURES.items() if row[name] is not None}
    means = {f"router/{name}": fmean(row[name]) for name in ("balance_loss", "z_loss")}
    return shown | means


def _validation_figures(row: dict[str, Any]) -> dict[str, float]:
    names = ("reward", "share_ungradable", "response_tokens")
    return {
        f"validation/{row['source']}/{name}": row[name] for name in names if row[name] is not None
    }


Files = Mapping[str, Callable[[dict[str, Any]], dict[str, float]]]
"""Files of rows in a folder, and what is shown of each row."""

TRAINING_FILES: Files = {"steps.jsonl": _step_figures, "losses.jsonl": _loss_figures}
GRPO_FILES: Files = {"steps.jsonl": _grpo_figures, "validation.jsonl": _validation_figures}


class _TensorboardWriter:
    def __init__(self, place: Path):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(place))

    def add(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandbWriter:
    def __init__(self, place: Path, project: str, name: str):
        import wandb

        place.mkdir(parents=True, exist_ok=True)
        with _wandb_errors():
            self._run = wandb.init(
                project=project, name=name, id=name, dir=place, resume="allow", reinit="create_new"
            )

    def add(self, step: int, figures: dict[str, float]) -> None:
        # wandb's own step must never go back; training rows and losses of one step come apart.
        with _wandb_errors():
            self._run.log({**figures, "step": step})

    def close(self) -> None:
        with _wandb_errors():
            self._run.finish()


@contextmanager
def _wandb_errors() -> Iterator[None]:
    """Tell what the tracker refuses (no login, no network) as one line."""
    import wandb

    try:
        yield
    except (wandb.Error, OSError) as error:
        raise UserError(f"wandb: {error}; log in, or set WANDB_MODE=offline") from None


def _tensorboard_writer(place: Path, project: str, name: str) -> Writer:
    return _TensorboardWriter(place)


def _wandb_writer(place: Path, project: str, name: str) -> Writer:
    return _WandbWriter(place, project, name)
