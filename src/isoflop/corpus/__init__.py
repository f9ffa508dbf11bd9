"""Texts to train on: sources, their train-validation split, and probes with ground truth.

>>> from isoflop.corpus import Corpus, PhoneBookProbe, TextSource
"""

from isoflop.corpus.config import (
    ArithmeticProbe,
    Corpus,
    PhoneBookProbe,
    ShortestPathProbe,
    Source,
    StdlibSource,
    TextSource,
)

__all__ = [
    "ArithmeticProbe",
    "Corpus",
    "PhoneBookProbe",
    "ShortestPathProbe",
    "Source",
    "StdlibSource",
    "TextSource",
]
