"""Our signatures against datasketch's: texts a second, and error of the estimated similarity.

    pip install datasketch && python benchmarks/corpus_minhash.py --data FOLDER [--texts 500]

Both take the same shingles of 5 tokens and 128 hash functions. Similarities are estimated between each
text and a copy in which every twentieth token is another one, and compared with the exact ones.
"""

import argparse
import gzip
import itertools
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasketch import MinHash

from isoflop.corpus.minhash import (
    Signature,
    hash_functions,
    shingles,
    signature,
    similarity,
    token_hashes,
    tokens,
)

NUM_FUNCTIONS = 128
SHINGLE = 5
FUNCTIONS = hash_functions(NUM_FUNCTIONS)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of python_code_raw.jsonl.gz")
    parser.add_argument("--texts", type=int, default=500)
    options = parser.parse_args()
    with gzip.open(Path(options.data) / "python_code_raw.jsonl.gz") as lines:
        first = [json.loads(line)["text"] for line in itertools.islice(lines, options.texts)]
    rng = random.Random(0)
    second = [changed(text, rng) for text in first]
    exact = [jaccard(a, b) for a, b in zip(first, second, strict=True)]
    for name, sign, like in (
        ("ours", ours, similarity),
        ("datasketch", theirs, lambda a, b: float(a.jaccard(b))),
    ):
        report(name, first, second, exact, sign, like)


def report(
    name: str,
    first: list[str],
    second: list[str],
    exact: list[float],
    sign: Callable[[str], object],
    like: Callable[..., float],
) -> None:
    """Time and error of one library."""
    begun = time.process_time()
    left = [sign(text) for text in first]
    seconds = time.process_time() - begun
    right = [sign(text) for text in second]
    errors = np.array([like(a, b) for a, b in zip(left, right, strict=True)]) - exact
    print(
        f"{name}: {len(first) / seconds:.0f} texts a second of processor time; error of the "
        f"similarity: mean {errors.mean():+.4f}, root mean square {np.sqrt((errors**2).mean()):.4f}"
    )


def ours(text: str) -> Signature:
    """Our signature."""
    return signature(shingles(token_hashes(tokens(text)), SHINGLE), FUNCTIONS)


def theirs(text: str) -> MinHash:
    """datasketch's, with its batch interface."""
    made = MinHash(num_perm=NUM_FUNCTIONS)
    made.update_batch([" ".join(gram).encode() for gram in grams(text)])
    return made


def grams(text: str) -> set[tuple[str, ...]]:
    """The set of shingles."""
    found = tokens(text)
    size = min(SHINGLE, len(found))
    return {tuple(found[at : at + size]) for at in range(len(found) - size + 1)}


def jaccard(first: str, second: str) -> float:
    """Exactly."""
    a, b = grams(first), grams(second)
    return len(a & b) / len(a | b)


def changed(text: str, rng: random.Random) -> str:
    """Every twentieth token is another one."""
    words = tokens(text)
    return " ".join(f"w{rng.random()}"[:8] if n % 20 == 7 else w for n, w in enumerate(words))


if __name__ == "__main__":
    main()
