"""Seeds of the corpus stage: stable hashes of names, never global state."""

import hashlib
import json
import random

HASH_BITS = 64
"""Width of a stable hash."""


def stable_hash(*parts: int | str) -> int:
    """A number in [0, 2^64) that depends on the parts only, the same in every process.

    >>> stable_hash(0, "split", "a") == stable_hash(0, "split", "a")
    True
    """
    text = json.dumps(parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[: HASH_BITS // 8], "big")


def generator(*parts: int | str) -> random.Random:
    """A random generator of its own for (seed, stage, name, ...)."""
    return random.Random(stable_hash(*parts))
