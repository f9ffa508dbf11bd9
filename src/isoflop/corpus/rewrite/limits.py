"""How long an input may be: in tokens where a tokenizer is given, else by a bound in bytes."""

from collections.abc import Callable
from pathlib import Path

from isoflop.config import UserError

CONTEXT_TOKENS = 102_688
"""Prompt and reply together. arXiv:2505.02881's setting for code; its math stage used 131,072."""

TEMPLATE_TOKENS = 64
"""That a chat template adds to a message, or more. Chosen: those of Llama 3 and SmolLM2 add 5 to 30."""

CountTokens = Callable[[str], int]
"""The number of tokens of a text, or more."""


def count_bytes(text: str) -> int:
    """UTF-8 bytes: byte-level tokenizers make at most one token of each, so this is never too few."""
    return len(text.encode("utf-8", "surrogatepass"))


def tokenizer_counter(path: Path) -> CountTokens:
    """Counts by a tokenizer.json.

    Raises:
        UserError: the file is missing or no tokenizer.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise UserError(f"{path}: no such file; give the model's tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except BaseException as error:
        # The library raises bare Exception and nothing narrower; anything else is not ours.
        if type(error) is not Exception:
            raise
        raise UserError(f"{path}: not a tokenizer.json: {error}") from None

    def count(text: str) -> int:
        # A surrogate has no UTF-8; three bytes stand for it, as in `count_bytes`.
        safe = text.encode("utf-8", "replace").decode("utf-8")
        return len(tokenizer.encode(safe, add_special_tokens=False).ids)

    return count
