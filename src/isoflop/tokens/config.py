"""Which tokenizer, and how its vocabulary is padded."""

from dataclasses import dataclass

from isoflop.config import UserError

BYTES = 256
"""A byte-level vocabulary holds every byte, so that any text has tokens."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """A byte-level BPE to be trained on the corpus, or a tokenizer.json of the user's."""

    vocabulary_size: int = 512
    """Tokens of the trained BPE, the end-of-text token included. Unused with `path`."""
    path: str | None = None
    """A tokenizer.json to use as it is."""
    end_of_text: str = "<|endoftext|>"
    """Token that ends every document; must be in the vocabulary of `path`."""
    pad_to_multiple: int = 128
    """The model's vocabulary is the tokenizer's, rounded up to this. Megatron-LM's default."""
    training_bytes: int = 4_000_000
    """Text from which the BPE is learned, split over the sources by their shares. Chosen."""

    def __post_init__(self) -> None:
        if self.path is None and self.vocabulary_size < BYTES + 1:
            raise UserError(
                f"vocabulary_size={self.vocabulary_size} must be at least {BYTES + 1}: "
                "every byte and the end of text"
            )
        if not self.end_of_text:
            raise UserError("end_of_text='' must be a string of at least one character")
        if self.pad_to_multiple < 1 or self.training_bytes < 1:
            raise UserError("pad_to_multiple and training_bytes must be at least 1")
