"""Kill `isoflop sample` at random moments, start it again each time, compare with an undisturbed run.

    python benchmarks/sample_kill_and_resume.py CHECKPOINT --items ITEMS [--kills 5] [--samples 128]

ITEMS is a probe's items.jsonl. Every file but the environment's must be the same bytes; exit status 0
if all are.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NOT_COMPARED = {"env.json", "lock", "timings.jsonl"}


def start(arguments: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "isoflop", "sample", str(arguments.checkpoint)]
    command += ["--task", "probes_held_out", "--data", str(arguments.items), "--out", str(out)]
    command += ["--samples", str(arguments.samples), "--max-new-tokens", "16"]
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
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lots = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as text:
        calm, killed = Path(text) / "calm", Path(text) / "killed"
        begun = time.monotonic()
        if start(arguments, calm).wait() != 0:
            raise SystemExit("the undisturbed run failed: run `isoflop sample` by hand to see why")
        whole = time.monotonic() - begun
        print(f"undisturbed: {whole:.0f} s", flush=True)
        kills = 0
        while kills < arguments.kills:
            run = start(arguments, killed)
            # Starting takes some seconds; what a kill leaves done shortens the rest.
            time.sleep(lots.uniform(0.1 * whole, 0.45 * whole))
            if run.poll() is not None:
                break
            run.send_signal(signal.SIGKILL)
            run.wait()
            kills += 1
            kept = sum(path.stat().st_size for path in killed.rglob("*.jsonl*"))
            print(f"killed with {kept} bytes of rows kept", flush=True)
        if start(arguments, killed).wait() != 0:
            raise SystemExit("the run did not go on after a kill")
        expected, found = files_of(calm), files_of(killed)
    names = sorted(expected.keys() | found.keys())
    wrong = [name for name in names if expected.get(name) != found.get(name)]
    print(f"{kills} kills, {len(names)} files compared, {len(wrong)} differ", *wrong, sep="\n")
    return 1 if wrong or kills < arguments.kills else 0


if __name__ == "__main__":
    sys.exit(main())
