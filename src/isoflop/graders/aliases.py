"""Short answers that may be spelt in several ways, as TriviaQA's.

The normalisation is that of TriviaQA's published evaluation (Joshi et al. 2017, arXiv:1705.03551):
lower case, punctuation to spaces, English articles and extra spaces out.
"""

import re
import string
from collections.abc import Sequence

from isoflop.graders.verdict import Grade, graded, ungradable, unreadable

MAX_CHARACTERS = 1000
"""Of an answer; the longest alias has about 100."""

_PUNCTUATION = str.maketrans(
    dict.fromkeys(string.punctuation + "\u2018\u2019\u201c\u201d\u00b4", " ")
)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> str:
    """One spelling for answers that differ in case, punctuation, articles and spaces only.

    >>> normalise("The  Beatles!")
    'beatles'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def grade_aliases(text: str, aliases: Sequence[str]) -> Grade:
    """Whether the whole of `text` is one of the aliases after normalisation."""
    if len(text) > MAX_CHARACTERS:
        return ungradable(f"an answer of {len(text)} characters")
    answer = normalise(text)
    problem = unreadable(answer) if answer else "no answer"
    if problem is not None:
        return ungradable(problem)
    return graded(answer, correct=answer in {normalise(alias) for alias in aliases})
