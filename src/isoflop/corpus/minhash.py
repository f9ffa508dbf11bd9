"""Shingles of a text, and MinHash signatures that tell how many of them two texts share.

A shingle is n tokens in a row, as a 64-bit hash. A signature holds, for each of P hash functions, the
least value over the text's shingles; the share of equal places in two signatures estimates the
Jaccard similarity of the two sets with a standard error of at most 0.5 / sqrt(P)
(Broder 1997, "On the resemblance and containment of documents").

numpy does all shingles of a text at once. Against datasketch, which hashes shingle by shingle in
Python, `benchmarks/corpus_minhash.py` compares speed and error.
"""

import functools
import hashlib
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Signature = npt.NDArray[np.uint32]

TOKEN = re.compile(r"\w+|[^\w\s]")
"""A word, name or number, or one other character that is no white space."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio, odd: an odd multiplier loses no bit."""

CACHED_TOKENS = 1 << 17
"""Hashes of tokens that are kept; a corpus uses few tokens often."""

SHINGLES_AT_ONCE = 1 << 12
"""Shingles times hash functions are held at once; bounds memory at 4 MB for 128. Chosen."""


def tokens(text: str) -> list[str]:
    """The text's tokens; white space and line ends are none.

    >>> tokens("x = f(1.5)  # Größe")
    ['x', '=', 'f', '(', '1', '.', '5', ')', '#', 'Größe']
    """
    return TOKEN.findall(text)


@functools.lru_cache(maxsize=CACHED_TOKENS)
def token_hash(token: str) -> int:
    """64 bits that depend on the token alone, the same in every process."""
    raw = token.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def token_hashes(found: Sequence[str]) -> Hashes:
    """The hashes of all tokens."""
    return np.fromiter(map(token_hash, found), dtype=np.uint64, count=len(found))


def shingles(hashes: Hashes, n: int) -> Hashes:
    """The hash of every n tokens in a row, by place; of all tokens where there are fewer than n.

    >>> len(shingles(token_hashes(tokens("a b c d e f")), 5))
    2
    """
    size = min(n, len(hashes))
    if size == 0:
        return hashes
    rolled = np.zeros(len(hashes) - size + 1, dtype=np.uint64)
    for place in range(size):
        rolled = rolled * _MULTIPLIER + hashes[place : place + len(rolled)]
    return mixed(rolled)


def mixed(values: Hashes) -> Hashes:
    """Every bit of a value depends on all of its bits (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_functions(count: int) -> Hashes:
    """Odd multipliers and offsets of `count` multiply-shift functions; shape (2, count).

    Dietzfelbinger et al. 1997: (a x + b mod 2^64) >> 32 is 2-universal for random odd a.
    """
    seeds = np.arange(1, 2 * count + 1, dtype=np.uint64) * _MULTIPLIER
    made = mixed(seeds).reshape(2, count)
    made[0] |= np.uint64(1)
    return made


def signature(found: Hashes, functions: Hashes) -> Signature:
    """The least value of each function over the shingles.

    Raises:
        ValueError: there are no shingles.
    """
    if not len(found):
        raise ValueError("a text without tokens has no signature")
    least = np.full(functions.shape[1], np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(found), SHINGLES_AT_ONCE):
        values = found[start : start + SHINGLES_AT_ONCE, None] * functions[0] + functions[1]
        np.minimum(least, (values >> np.uint64(32)).min(axis=0).astype(np.uint32), out=least)
    return least


def similarity(first: Signature, second: Signature) -> float:
    """The estimated Jaccard similarity of two texts' shingles."""
    return float(np.mean(first == second))


def band_keys(signatures: Signature, num_bands: int) -> Hashes:
    """One key for each band of rows of each signature; shape (texts, bands).

    Two texts of similarity s share a band of r rows with probability s^r, and some band of b with
    1 - (1 - s^r)^b (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4).
    """
    texts, places = signatures.shape
    rows = signatures.reshape(texts, num_bands, places // num_bands).astype(np.uint64)
    keys = np.zeros((texts, num_bands), dtype=np.uint64)
    for row in range(rows.shape[2]):
        keys = mixed(keys * _MULTIPLIER + rows[:, :, row])
    return keys
