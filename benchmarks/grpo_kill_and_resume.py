"""Kill a GRPO run at random moments, start it again each time, and compare with an undisturbed one.

    python benchmarks/grpo_kill_and_resume.py CHECKPOINT --items ITEMS [--kills 5] [--steps 200] [--seed 0]

States are saved every second here (by default every minute), so that kills fall between them too. What
is compared, byte by byte: every file of the run but its times: steps, validation, answers, left-out
problems, second-moment probes, checkpoints. Exit status 0 if all are equal.
"""

import argparse
import sys
from pathlib import Path

import kills

PROGRAM = """
import sys
import isoflop.posttrain.loop as loop
loop.RESUME_SECONDS = 1.0
from isoflop.cli import main
sys.exit(main())
"""

NOT_COMPARED = kills.NOT_COMPARED | {"rollouts.html"}

CHANGES = (
    "prompts_per_step=64",
    "mini_batch_prompts=32",
    "samples_per_prompt=8",
    "max_response_tokens=8",
    "learning_rate=1e-3",
    "validation_steps=10",
    "checkpoint_steps=20",
    "probe_steps=20",
    "reward=answer",
)


def kept(out: Path) -> str:
    rows = list(out.rglob("steps.jsonl"))
    done = rows[0].read_bytes().count(b"\n") if rows else 0
    return f"{done} steps in steps.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    def command(out: Path) -> list[str]:
        asked = ["--task", "probes", "--data", str(arguments.items), "--prompt", "{question}"]
        asked += ["--validate", f"probes={arguments.items}", "--out", str(out)]
        for change in (f"num_steps={arguments.steps}", *CHANGES):
            asked += ["--set", change]
        return ["-c", PROGRAM, "grpo", str(arguments.checkpoint), *asked]

    return kills.compare(
        kills.Killing(
            command=command,
            kills=arguments.kills,
            seed=arguments.seed,
            # Starting takes a few seconds; what a kill leaves done shortens the rest.
            life=lambda whole: (4.0, max(6.0, whole / 4)),
            compared=lambda out: kills.files_of(out, NOT_COMPARED),
            kept=kept,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
