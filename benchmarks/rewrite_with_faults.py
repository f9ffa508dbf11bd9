"""2,000 files through SGCR and SCOR against a faulty endpoint, killed at ten random moments: same bytes?

    python benchmarks/rewrite_with_faults.py --data DIR --out DIR [--files 2000] [--kills 10]

A real HTTP server on this machine gives canned replies and plants faults: resets, half bodies, malformed
JSON, another schema, empty choices, 500, 503, 429 with Retry-After, silence. The undisturbed run has a server
without faults; the other is SIGKILLed at seeded moments and run again until it ends. Then:

    kept, rejected and summary are the same bytes
    no request whose reply was stored before a kill was sent again
    every failure of every request has a name
"""

import argparse
import contextlib
import gzip
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fakes_endpoint import FakeEndpoint, serving
from isoflop.corpus.rewrite.messages import Message, Request, Sampling
from isoflop.corpus.rewrite.stages import prompt_digest

FAULT_SHARE = 0.25
DELAY_SECONDS = 0.02


def command(source: Path, stage: str, out: Path, url: str) -> list[str]:
    """One rewriting as a user types it."""
    return [
        sys.executable, "-m", "isoflop", "corpus", "rewrite", str(source), "--stage", stage,
        "--out", str(out), "--endpoint", url, "--model", "canned", "--concurrency", "32",
        "--rows-per-shard", "100", "--request-seconds", "2", "--price-prompt", "0.5",
        "--price-completion", "1.5", "--json",
    ]  # fmt: skip


def stored(out: Path) -> set[str]:
    """Keys of the stored replies; read when no process works in the folder."""
    path = out / "replies.sqlite"
    if not path.exists():
        return set()
    with contextlib.closing(sqlite3.connect(path)) as file:
        return {key.hex() for (key,) in file.execute("select key from replies")}


def key_of(raw: bytes) -> str:
    """The key under which the client will store the reply to a request."""
    body = json.loads(raw)
    sampling = Sampling(
        temperature=body["temperature"], top_p=body["top_p"], max_new_tokens=body["max_tokens"]
    )
    messages = tuple(Message(**message) for message in body["messages"])
    request = Request(
        model=body["model"],
        prompt_digest=prompt_digest(messages[0].content),
        messages=messages,
        sampling=sampling,
        attempt=1,
    )
    return request.key().hex()


def run_with_kills(
    commands: list[list[str]], outs: list[Path], state: FakeEndpoint, kills: int, seed: int
) -> list[str]:
    """Run the stages in order, killing at random moments; keys that were asked for although stored."""
    draw = random.Random(seed)
    asked_when_stored: dict[str, int] = {}
    for line, out in zip(commands, outs, strict=True):
        planned = kills // len(commands)
        log = (out.parent / "stderr.log").open("a")
        while True:
            # Moments are drawn over the work, not over start-up.
            wanted = sum(state.requests.values()) + draw.randint(1, 300)
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=log)
            while planned and process.poll() is None:
                if sum(state.requests.values()) >= wanted:
                    time.sleep(draw.random() * 0.05)
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.001)
            status = process.wait()
            keys = stored(out)
            for key in keys:
                asked_when_stored.setdefault(key, state.requests[key])
            if status == 0:
                break
            assert status == -signal.SIGKILL, f"exit status {status}: see {log.name}"
            planned -= 1
            shards = len(list(out.glob("counts-*.json")))
            print(f"killed: {len(keys)} replies stored, {shards} shards complete", flush=True)
    return [key for key, times in asked_when_stored.items() if state.requests[key] != times]


def same_bytes(one: Path, other: Path) -> list[str]:
    """Files of results that differ; every one must be on both sides."""
    names = sorted(
        {p.name for folder in (one, other) for p in folder.iterdir()}
        - {"replies.sqlite", "replies.sqlite-wal", "requests.json", "env.json", ".lock"}
    )
    return [
        name
        for name in names
        if not (one / name).exists()
        or not (other / name).exists()
        or (one / name).read_bytes() != (other / name).read_bytes()
    ]


def main() -> int:
    """Exit status 0 if all three laws hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    source = out / "files.jsonl"
    with gzip.open(arguments.data / "python_code_raw.jsonl.gz", "rt", newline="\n") as lines:
        source.write_text(
            "".join(line for _, line in zip(range(arguments.files), lines, strict=False))
        )
    stages = ("sgcr", "scor")
    folders = {}
    for name, share in (("undisturbed", 0.0), ("disturbed", FAULT_SHARE)):
        state = FakeEndpoint(
            fault_share=share,
            seed=arguments.seed,
            delay_seconds=DELAY_SECONDS,
            keep_bodies=False,
            name_of=key_of,
        )
        folders[name] = [out / f"{name}-{stage}" for stage in stages]
        with serving(state):
            inputs = [source, folders[name][0]]
            commands = [
                command(i, s, o, state.url)
                for i, s, o in zip(inputs, stages, folders[name], strict=True)
            ]
            began = time.perf_counter()
            kills = arguments.kills if share else 0
            wrongly = run_with_kills(commands, folders[name], state, kills, arguments.seed)
            seconds = time.perf_counter() - began
        replies = sum(len(stored(folder)) for folder in folders[name])
        again = sum(state.answered.values()) - len(state.answered)
        print(
            f"{name}: {seconds:.0f} s, {sum(state.requests.values())} requests, "
            f"{sum(state.answered.values())} answered in full, {replies} replies stored, "
            f"{again} answered again because a kill came before they were stored, "
            f"{len(wrongly)} asked for although stored, faults {dict(state.planted)}",
            flush=True,
        )
        for folder in folders[name]:
            print(folder.name, (folder / "requests.json").read_text().replace("\n", " "))
    differ = [
        f"{b.name}/{file}"
        for a, b in zip(*folders.values(), strict=True)
        for file in same_bytes(a, b)
    ]
    print((folders["disturbed"][0] / "summary.json").read_text())
    print(f"files that differ: {differ or 'none'}")
    return int(bool(differ or wrongly))


if __name__ == "__main__":
    raise SystemExit(main())
