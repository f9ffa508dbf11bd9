"""Kill a GRPO run at random moments, start it again each time, and compare with an undisturbed one.

    python benchmarks/grpo_kill_and_resume.py CHECKPOINT --items ITEMS [--kills 5] [--steps 200] [--seed 0]

States are saved every second here (by default every minute), so that kills fall between them too. What
is compared, byte by byte: every file of the run but its times: steps, validation, answers, left-out
problems, second-moment probes, checkpoints. Exit status 0 if all are equal.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = """
import sys
import isoflop.posttrain.loop as loop
loop.RESUME_SECONDS = 1.0
from isoflop.cli import main
sys.exit(main())
"""

NOT_COMPARED = {"timings.jsonl", "env.json", "lock", "rollouts.html"}


def start(arguments: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, "grpo", str(arguments.checkpoint)]
    command += ["--task", "probes", "--data", str(arguments.items), "--prompt", "{question}"]
    command += ["--validate", f"probes={arguments.items}", "--out", str(out)]
    for change in (
        f"num_steps={arguments.steps}",
        "prompts_per_step=64",
        "mini_batch_prompts=32",
        "samples_per_prompt=8",
        "max_response_tokens=8",
        "learning_rate=1e-3",
        "validation_steps=10",
        "checkpoint_steps=20",
        "probe_steps=20",
        "reward=answer",
    ):
        command += ["--set", change]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def files_of(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lots = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as text:
        calm, killed = Path(text) / "calm", Path(text) / "killed"
        begun = time.monotonic()
        if start(arguments, calm).wait() != 0:
            raise SystemExit("the undisturbed run failed: run `isoflop grpo` by hand to see why")
        whole = time.monotonic() - begun
        print(f"undisturbed: {whole:.0f} s", flush=True)
        kills = 0
        while kills < arguments.kills:
            run = start(arguments, killed)
            # Starting takes a few seconds; what a kill leaves done shortens the rest.
            time.sleep(lots.uniform(4.0, max(6.0, whole / 4)))
            if run.poll() is not None:
                break
            run.send_signal(signal.SIGKILL)
            run.wait()
            kills += 1
            rows = list(killed.rglob("steps.jsonl"))
            done = rows[0].read_bytes().count(b"\n") if rows else 0
            print(f"killed with {done} steps in steps.jsonl", flush=True)
        if start(arguments, killed).wait() != 0:
            raise SystemExit("the run did not go on after a kill")
        expected, found = files_of(calm), files_of(killed)
    names = sorted(expected.keys() | found.keys())
    wrong = [name for name in names if expected.get(name) != found.get(name)]
    print(f"{kills} kills, {len(names)} files compared, {len(wrong)} differ", *wrong, sep="\n")
    return 1 if wrong or kills < arguments.kills else 0


if __name__ == "__main__":
    sys.exit(main())
