"""A text's tokens with their places, as it is written and with the names of a program left out.

"Plain" tokens are words and single characters. In "renamed" tokens, comments, strings of several
lines and what layout may change (round brackets, commas, semicolons, the kind of quotes) are left
out, and a name that the program could have chosen otherwise is known only by how many tokens ago it
was used before, so that renaming every variable changes nothing (Baker 1993, "A theory of
parameterized pattern matching").
"""

import builtins
import keyword
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isoflop.corpus.decontaminate.characters import Respelled, respelled
from isoflop.corpus.minhash import TOKEN, Hashes, mixed, token_hashes

_CODE = re.compile(
    r"""(?P<skip>\#[^\n]*|[(),;\\]|\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''(?:[^\\]|\\.)*?''')"""
    r"""|(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"""|(?P<name>[^\W\d]\w*)|(?P<other>\d[\w.]*|[^\w\s])""",
    re.DOTALL,
)

_FIXED = frozenset((*keyword.kwlist, *keyword.softkwlist, *dir(builtins)))
"""Names that a program does not choose. A name behind a dot is not chosen either."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_NAME = np.uint64(0xD6E8FEB86659FD93)
"""Mark of a name's place; any constant would do."""


@dataclass(frozen=True)
class PlacedTokens:
    """Tokens of a text: the hash of each, and where it begins and ends in the text as it was given."""

    hashes: Hashes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int64] | None = None
    """Of "renamed": tokens since the name's last use, 0 for its first use; -1 for what is no name."""

    def __len__(self) -> int:
        return len(self.hashes)


def plain_tokens(text: str) -> PlacedTokens:
    """Words and single characters, lower case: a heading may be written otherwise."""
    plain = respelled(text)
    found = list(TOKEN.finditer(text if plain is None else plain.text))
    starts, ends = _places(found, plain)
    hashes = token_hashes([match[0].lower() for match in found])
    return PlacedTokens(hashes=hashes, starts=starts, ends=ends)


def renamed_tokens(text: str) -> PlacedTokens:
    """Tokens of a program with its own choice of names left out."""
    plain = respelled(text)
    found = _CODE.finditer(text if plain is None else plain.text)
    kept = [match for match in found if match.lastgroup != "skip"]
    distances = np.full(len(kept), -1, dtype=np.int64)
    last: dict[str, int] = {}
    before = ""
    for place, match in enumerate(kept):
        word = match[0]
        if match.lastgroup == "name" and word not in _FIXED and before != ".":
            distances[place] = place - last[word] if word in last else 0
            last[word] = place
        before = word
    starts, ends = _places(kept, plain)
    hashes = token_hashes([_unquoted(match) for match in kept])
    return PlacedTokens(hashes=hashes, starts=starts, ends=ends, distances=distances)


def _places(
    found: list[re.Match[str]], plain: Respelled | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where tokens begin and end in the text that was given; `plain`: where they were found."""
    starts = np.array([match.start() for match in found], dtype=np.int64)
    ends = np.array([match.end() for match in found], dtype=np.int64)
    return (starts, ends) if plain is None else (plain.starts[starts], plain.ends[ends - 1])


def _unquoted(match: re.Match[str]) -> str:
    """A string by its content: single and double quotes are one."""
    return "'" + match[0][1:-1] if match.lastgroup == "string" else match[0]


def ngrams(found: PlacedTokens, n: int) -> Hashes:
    """The hash of every n tokens in a row, by the place of the first; none where there are fewer.

    Of renamed tokens, a name's last use counts only if it is among the n.
    """
    count = len(found) - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    rolled = np.zeros(count, dtype=np.uint64)
    for place in range(n):
        hashes = found.hashes[place : place + count]
        if found.distances is not None:
            distances = found.distances[place : place + count]
            inside = np.where(distances > place, 0, distances).astype(np.uint64)
            hashes = np.where(distances >= 0, mixed(inside + _NAME), hashes)
        rolled = rolled * _MULTIPLIER + hashes
    return mixed(rolled)
