"""Kill `isoflop sample` at random moments, start it again each time, compare with an undisturbed run.

    python benchmarks/sample_kill_and_resume.py CHECKPOINT --items ITEMS [--kills 5] [--samples 128]

ITEMS is a probe's items.jsonl. Every file but the environment's must be the same bytes; exit status 0
if all are.
"""

import argparse
import sys
from pathlib import Path

import kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    def command(out: Path) -> list[str]:
        asked = ["--task", "probes_held_out", "--data", str(arguments.items)]
        asked += ["--samples", str(arguments.samples), "--max-new-tokens", "16"]
        checkpoint = str(arguments.checkpoint)
        return ["-m", "isoflop", "sample", checkpoint, *asked, "--out", str(out)]

    def kept(out: Path) -> str:
        return f"{sum(path.stat().st_size for path in out.rglob('*.jsonl*'))} bytes of rows kept"

    return kills.compare(
        kills.Killing(
            command=command,
            kills=arguments.kills,
            seed=arguments.seed,
            # Starting takes some seconds; what a kill leaves done shortens the rest.
            life=lambda whole: (0.08 * whole, 0.3 * whole),
            kept=kept,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
