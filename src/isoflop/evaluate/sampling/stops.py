"""Where a growing sample ends: the end of text, a stop text, or its length."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from isoflop.evaluate.sampling.samples import Finish
from isoflop.tokens.tokenizer import Tokenizer


def up_to_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before its first stop text, and whether there is one.

    >>> up_to_stop("18 eggs. Question: how", ("Question:", "eggs."))
    ('18 ', True)
    """
    places = [place for place in (text.find(one) for one in stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


class Stops:
    """Looks for stop texts in tokens, also where a text begins and ends inside tokens."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]):
        self._tokenizer = tokenizer
        self._stop = stop
        # A token holds at least one byte, so that a stop text that ends in the newest token
        # begins at most so many tokens before.
        self._reach = max((len(one.encode()) for one in stop), default=0)
        self._may_end = _tokens_with_last_bytes(tokenizer, stop)

    def may_end(self, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For each token whether a stop text can end in it."""
        if self._may_end is None:
            return np.full(tokens.shape, bool(self._stop))
        # A model may say tokens of its padding, which no tokenizer knows.
        return self._may_end[np.minimum(tokens, len(self._may_end) - 1)]

    def in_newest(self, tokens: Sequence[int]) -> bool:
        """Whether a stop text ends in the last token."""
        if not tokens or not self.may_end(np.array(tokens[-1:]))[0]:
            return False
        tail = self._tokenizer.decode(list(tokens[-self._reach :]))
        return any(one in tail for one in self._stop)

    def text(self, tokens: Sequence[int]) -> tuple[str, bool]:
        """The text of a finished sample, and whether a stop text ended it."""
        return up_to_stop(self._tokenizer.decode(list(tokens)), self._stop)


def _tokens_with_last_bytes(
    tokenizer: Tokenizer, stop: tuple[str, ...]
) -> NDArray[np.bool_] | None:
    """For each token whether a stop text can end in it; None: any, as far as can be told.

    Decoding the end of a sample for every token takes as long as a small model's step.
    """
    # U+FFFD is what bytes that are no UTF-8 are decoded to: no token holds its bytes.
    if not stop or not tokenizer.byte_level or "\ufffd" in "".join(stop):
        return None
    lasts = {one.encode()[-1] for one in stop}
    # One more than there are, which holds no bytes.
    known = range(tokenizer.vocabulary_size + 1)
    return np.array([bool(lasts.intersection(tokenizer.token_bytes(token))) for token in known])


def finish_of(*, stopped: bool, ended: bool) -> Finish:
    """Why a sample ended: a stop text comes before the end of text, that before the length."""
    if stopped:
        return "stop"
    return "end_of_text" if ended else "length"
