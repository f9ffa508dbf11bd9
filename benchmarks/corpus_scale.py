"""Memory and texts a second of the corpus stages at growing sizes.

    python benchmarks/corpus_scale.py --data FOLDER [--sizes 10000 100000 1000000] [--workers 1]
        [--stages filter deduplicate decontaminate] [--characters N]

The corpus is python_code_raw repeated, each copy of a text with one more line that makes it another
text; --characters cuts every text, for sizes at which only the number of texts matters. `filter` runs
without pylint, whose speed does not depend on the size. Told are seconds and texts a second by the clock
and of processor time (all processes), the peak of the driver's resident memory, and that of all its
processes together (pages that forked processes share are counted once in each).
"""

import argparse
import gzip
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.25
MEASURES = ["--set", "lint.measure=none", "--set", "lint.threshold=None"]


def main() -> None:
    """Measure, and print a table."""
    options = parse()
    with gzip.open(Path(options.data) / "python_code_raw.jsonl.gz") as lines:
        texts = [json.loads(line)["text"][: options.characters] for line in lines]
    benchmark = str(Path(options.data) / "humaneval.jsonl.gz")
    stages = {
        "filter": MEASURES,
        "deduplicate": [],
        "decontaminate": ["--benchmark", benchmark],
    }
    print(
        "| stage | texts | seconds | a second | processor seconds | a second | driver, MB | all, MB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            source = Path(folder) / "corpus.jsonl"
            write_corpus(source, texts, size)
            for stage in options.stages:
                out = Path(folder) / stage
                command = [sys.executable, "-m", "isoflop", "corpus", stage, str(source)]
                command += ["--out", str(out), "--workers", str(options.workers), "--json"]
                before = processor_seconds()
                seconds, driver, all_processes, read = measure([*command, *stages[stage]])
                spent = processor_seconds() - before
                assert read == size, f"{read} of {size} read"
                print(
                    f"| {stage} | {size:,} | {seconds:.1f} | {size / seconds:.0f} "
                    f"| {spent:.1f} | {size / spent:.0f} "
                    f"| {driver / 1e6:.0f} | {all_processes / 1e6:.0f} |",
                    flush=True,
                )
                shutil.rmtree(out)


def write_corpus(path: Path, texts: list[str], size: int) -> None:
    """So many different texts."""
    with path.open("w", encoding="utf-8") as out:
        for number in range(size):
            copy, place = divmod(number, len(texts))
            text = texts[place] + (f"\n# copy {copy}\n" if copy else "")
            out.write(json.dumps({"text": text, "path": "a.py"}) + "\n")


def measure(command: list[str]) -> tuple[float, int, int, int]:
    """Seconds, peak bytes of the driver and of all processes, and texts read."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    driver, everything = 0, 0
    while process.poll() is None:
        own = resident(process.pid)
        driver = max(driver, own)
        everything = max(everything, own + sum(map(resident, descendants(process.pid))))
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - begun
    assert process.stdout is not None
    assert process.returncode == 0
    return seconds, driver, everything, json.loads(process.stdout.read())["num_read"]


def processor_seconds() -> float:
    """Of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def descendants(process: int) -> list[int]:
    """Processes below a process, on Linux."""
    found: list[int] = []
    with suppress(OSError):
        path = Path(f"/proc/{process}/task/{process}/children")
        for child in map(int, path.read_text().split()):
            found += [child, *descendants(child)]
    return found


def resident(process: int) -> int:
    """Resident bytes of a process; 0 if it has ended."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of python_code_raw.jsonl.gz")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--characters", type=int, help="of each text; default: all")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--stages", nargs="+", default=["filter", "deduplicate", "decontaminate"])
    parser.add_argument("--scratch", help="folder for the corpora; default: the system's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
