"""Made-up checkpoints with known truth, for tests of the analysis."""

import hashlib
import random
from collections.abc import Callable, Sequence

from isoflop.analysis.study import Study
from isoflop.records import CellState, CheckpointRow, LossRow, MixtureRow, ScoreRow, SourceRow

Law = Callable[[float], float]
"""Mean accuracy of a cell from its density."""

TOKENS = 4_000_000
ACTIVE_PARAMS = 120_000
GRID = ((2, 2), (4, 2), (8, 2), (16, 2), (32, 2), (64, 2), (32, 4))
"""(num_experts, top_k): dense, five sparse cells, and one of another top_k."""


def noise(*names: object, spread: float) -> float:
    """A normal draw that depends on the names alone."""
    code = hashlib.sha256(repr(names).encode()).hexdigest()
    return random.Random(code).gauss(0, spread)


def score_row(task: str, split: str, accuracy: float | None, **changes: object) -> ScoreRow:
    """A score whose losses follow from its accuracy; `changes` replaces fields."""
    known = accuracy is not None
    bits = 3 * (1 - accuracy) + 0.1 if accuracy is not None else None
    fields = {
        **{"step": 100, "tokens": TOKENS, "task": task, "split": split},
        **{"num_items": 512, "num_scored": 512, "num_ungradable": 0, "num_joined": 0},
        "accuracy": accuracy,
        "accuracy_standard_error": 0.02 if known else None,
        "bits_per_byte": bits,
        "bits_per_byte_standard_error": 0.01 if known else None,
        "bits_per_token": bits,
        "bits_per_token_standard_error": 0.01 if known else None,
        "answer_bits": None if bits is None else 2 * bits,
        "answer_probability": None if accuracy is None else 0.8 * accuracy,
    }
    return ScoreRow(**{**fields, **changes})


def loss_row(source: str, split: str, loss: float) -> LossRow:
    """A loss with a standard error."""
    return LossRow(
        step=100,
        tokens=TOKENS,
        source=source,
        split=split,
        loss=loss,
        standard_error=0.01,
        num_tokens=10_000,
    )


def checkpoint(
    *, num_experts: int = 8, top_k: int = 2, seed: int = 0, **changes: object
) -> CheckpointRow:
    """One final checkpoint without losses and scores; `changes` replaces fields."""
    total = ACTIVE_PARAMS + 24_000 // top_k * (num_experts - top_k)
    cell = changes.get("cell", f"E{num_experts}-k{top_k}")
    fields = {
        **{"experiment": "made-up", "cell": cell, "seed": seed, "run": f"{cell}-s{seed}-0123abcd"},
        **{"step": 100, "tokens": TOKENS, "final": True},
        **{"num_layers": 2, "d_model": 32, "d_expert": 128 // top_k},
        **{"num_experts": num_experts, "top_k": top_k},
        **{"sparsity": 1 - top_k / num_experts, "density": top_k / num_experts},
        **{"total_params": total, "active_params": ACTIVE_PARAMS},
        **{"train_flops": 7 * ACTIVE_PARAMS * TOKENS, "train_flops_6n": 6 * ACTIVE_PARAMS * TOKENS},
        **{"tpp": TOKENS / total, "active_tpp": TOKENS / ACTIVE_PARAMS},
        **{"train_loss": 1.6, "balance_loss": 1.02, "max_expert_load": 1.4},
        **{"tokens_per_second": 45_000.0, "seconds": 90.0, "losses": (), "scores": ()},
    }
    return CheckpointRow(**{**fields, **changes})


def rows_of(
    memory: Law,
    reasoning: Law,
    *,
    seeds: int = 3,
    spread: float = 0.03,
    steps: Sequence[int] = (25, 50, 100),
    grid: Sequence[tuple[int, int]] = GRID,
) -> list[CheckpointRow]:
    """All checkpoints of a study whose accuracies follow two laws and normal noise."""
    rows = []
    for num_experts, top_k in grid:
        for seed in range(seeds):
            for step in steps:
                rows.append(_row(memory, reasoning, num_experts, top_k, seed, step, spread))
    return rows


def _row(
    memory: Law, reasoning: Law, num_experts: int, top_k: int, seed: int, step: int, spread: float
) -> CheckpointRow:
    density, share = top_k / num_experts, step / 100
    where = (num_experts, top_k, seed, step)

    def accuracy(name: str, law: Law) -> float:
        return min(1.0, max(0.0, share * law(density) + noise(name, *where, spread=spread)))

    recall, solved = accuracy("memory", memory), accuracy("reasoning", reasoning)
    loss = 1.5 + 0.1 / share + 0.2 * density + noise("loss", *where, spread=0.01)
    return checkpoint(
        num_experts=num_experts,
        top_k=top_k,
        seed=seed,
        step=step,
        tokens=TOKENS * step // 100,
        final=step == 100,
        train_loss=loss,
        tpp=TOKENS * share / (ACTIVE_PARAMS + 24_000 // top_k * (num_experts - top_k)),
        losses=(
            loss_row("memory", "train", loss),
            loss_row("memory", "validation", loss + 0.02),
            loss_row("python-stdlib", "train", loss + 0.5),
            loss_row("python-stdlib", "validation", loss + 0.6),
        ),
        scores=(
            score_row("memory", "seen", recall, step=step),
            score_row("memory", "held_out", 0.01, step=step),
            score_row("reasoning", "seen", min(1.0, solved + 0.1), step=step),
            score_row("reasoning", "held_out", solved, step=step),
        ),
    )


def rows_from(**tables: Sequence[Sequence[float]]) -> list[CheckpointRow]:
    """Final checkpoints of E2, E4, E8, ... at k=2 from the accuracies of each task, a cell a row."""
    return [
        checkpoint(
            num_experts=2 ** (place + 1),
            seed=seed,
            scores=tuple(
                score_row(task, "seen" if task == "memory" else "held_out", cells[place][seed])
                for task, cells in tables.items()
            ),
        )
        for place, first in enumerate(next(iter(tables.values())))
        for seed in range(len(first))
    ]


def study_of(rows: Sequence[CheckpointRow], failed: Sequence[CellState] = ()) -> Study:
    """A study of these checkpoints with corpus, mixture and environment."""
    done = {(row.cell, row.seed): row.run for row in rows}
    states = [
        CellState(cell=cell, seed=seed, run=run, state="done", reason=None)
        for (cell, seed), run in done.items()
    ]
    return Study(
        name="made-up",
        rows=tuple(rows),
        states=(*states, *failed),
        config={"kind": "Experiment", "name": "made-up"},
        corpus=(
            SourceRow(
                source="memory",
                num_documents=20_000,
                num_validation_documents=100,
                num_set_aside=0,
                num_bytes=400_000,
                information_bits=6643.9,
            ),
            SourceRow(
                source="python-stdlib",
                num_documents=600,
                num_validation_documents=6,
                num_set_aside=2,
                num_bytes=9_000_000,
                information_bits=None,
            ),
        ),
        mixture=(
            MixtureRow(
                source="memory",
                share=0.5,
                unique_tokens=160_000,
                used_tokens=2_000_000,
                epochs=12.5,
            ),
        ),
        environment={
            "python": "3.11.9",
            "packages": {"torch": "2.9.1", "numpy": None},
            "command": ["/usr/bin/isoflop", "run", "made-up", "--out", "a folder"],
            "commit": None,
            "device": "cpu",
        },
    )


def sparse_helps(density: float) -> float:
    """Accuracy rises as density falls: 0.35 dense, 0.85 at 1/32."""
    return 0.85 - 0.5 * density


def flat(density: float) -> float:
    """Accuracy is the same at every density."""
    return 0.5


def dense_helps(density: float) -> float:
    """Accuracy falls as density falls."""
    return 0.3 + 0.5 * density
