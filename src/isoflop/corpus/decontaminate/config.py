"""When a text counts as holding a benchmark item."""

from dataclasses import dataclass, field

from isoflop.config import UserError
from isoflop.corpus.filters.config import Limits


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """Four ways to find an item's question or answer in a text, the surest first.

    All compare tokens of the text in one spelling (`characters.py`), so that white space, line ends
    and the encodings of pages do not matter. The share that is compared
    is of the item's n-grams, found in a stretch of the text at most twice as long as the item:
    containment, since the Jaccard similarity of a short item and a long file is low whatever they
    share (SwallowCode's check compares those).

    Thresholds that say so were tuned by hand, in three runs, on planted items and on the hits in the
    raw corpus; docs/results/corpus has their recall and precision on items and texts that no
    tuning saw.
    """

    ngram_tokens: int = 8
    """Of "ngram". Chosen; GPT-3 took 13 words (arXiv:2005.14165, appendix C), which a changed
    character in three lines of code defeats."""
    min_containment: float = 0.6
    """Of "ngram": share of the item's n-grams. Tuned."""
    renamed_ngram_tokens: int = 10
    """Of "renamed": n-grams of code in which a name is known by where it was used before."""
    min_renamed_containment: float = 0.8
    """Tuned."""
    min_renamed_tokens: int = 16
    """Shorter programs are not looked for "renamed". Tuned."""
    window_shingle_tokens: int = 3
    """Of "minhash": short, so that a text with every tenth word changed still shares most."""
    min_similarity: float = 0.35
    """Of "minhash": Jaccard similarity of the item and a window of the text of its length or up to
    twice that. Tuned."""
    min_window_tokens: int = 48
    """Shorter questions and answers are not looked for as "minhash". Tuned."""
    min_tokens: int = 24
    """Shorter questions and answers are found only "exact": parts of them are in every corpus.
    Tuned."""
    min_exact_tokens: int = 12
    """Shorter still are looked for together only, or not at all: "return a + b" is in every corpus.
    Tuned."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in ("ngram_tokens", "renamed_ngram_tokens", "window_shingle_tokens"):
            if getattr(self, name) < 2:
                raise UserError(f"{name}={getattr(self, name)} must be at least 2")
        for name, n in (
            ("min_renamed_tokens", self.renamed_ngram_tokens),
            ("min_window_tokens", self.window_shingle_tokens),
        ):
            if getattr(self, name) < n:
                raise UserError(f"{name}={getattr(self, name)} must be at least its n-grams' {n}")
        if not self.ngram_tokens <= self.min_exact_tokens <= self.min_tokens:
            raise UserError(
                f"min_exact_tokens={self.min_exact_tokens} must be between "
                f"ngram_tokens={self.ngram_tokens} and min_tokens={self.min_tokens}"
            )
        for name in ("min_containment", "min_renamed_containment", "min_similarity"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} must be above 0 and at most 1")
