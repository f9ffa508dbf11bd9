"""Text to token ids and back: a byte-level BPE trained here, or a tokenizer.json of the user's.

What is always true: no text, however hostile, yields the end-of-text token; only
the code that ends a document writes it. For the BPE trained here decode(encode(text))
== text for every text that UTF-8 can hold, since its vocabulary holds every byte.

A tokenizer whose decoder is not byte-level (SentencePiece's, WordPiece) can encode,
decode and give spans, but its tokens have no bytes of their own: `token_bytes` and
`tokens_starting_with` refuse it; ask `byte_level` first.

The tokenizers library is imported in functions, so that planning needs no import of it;
its objects are typed Any for that reason.

Sources: byte-level BPE, Radford et al. 2019 (GPT-2), section 2.2; single digits as
tokens, PaLM (arXiv:2204.02311), section 2.2.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from isoflop.config import UserError
from isoflop.records import write_text
from isoflop.tokens.config import BYTES, TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class Span:
    """One token and where its text lies; a character cut by tokens belongs to each of them."""

    token: int
    start: int
    """First character that the token holds a byte of."""
    end: int
    """One past the last such character."""
    start_byte: int | None
    """First UTF-8 byte in the text. None: the tokenizer does not keep bytes."""
    end_byte: int | None


def padded_vocabulary_size(config: TokenizerConfig) -> int:
    """Rows of the model's embedding: the vocabulary rounded up to `pad_to_multiple`.

    For a BPE to be trained this is the size asked for, known before training; a
    poor corpus may fill fewer rows.

    Raises:
        UserError: the file at `config.path` cannot be used.
    """
    size = config.vocabulary_size
    if config.path is not None:
        size = Tokenizer.load(Path(config.path), config).vocabulary_size
    return -(-size // config.pad_to_multiple) * config.pad_to_multiple


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str], path: Path) -> None:
    """Learn a byte-level BPE from `texts` and write it to `path` (a tokenizer.json), atomically.

    The same texts give the same bytes, whatever the number of threads. A corpus
    with fewer pairs than asked gives a smaller vocabulary.

    Raises:
        UserError: no text, `config` names a ready tokenizer, or the text makes the
            end-of-text string a token of its own.
    """
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as LibraryTokenizer

    if config.path is not None:
        raise UserError(
            f"path={config.path!r} names a ready tokenizer; leave path out to train one"
        )
    stream = iter(texts)
    first = next(stream, None)
    if first is None:
        raise UserError("no text to learn a tokenizer from: the corpus is empty")
    tokenizer = LibraryTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        special_tokens=[AddedToken(config.end_of_text, special=True, normalized=False)],
        initial_alphabet=sorted(_byte_letters()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain([first], stream), trainer)
    text = tokenizer.to_str(pretty=True)
    _check_end_is_special(text, config.end_of_text)
    write_text(path, text + "\n")


def _check_end_is_special(text: str, end_of_text: str) -> None:
    """The trainer would silently give a merge that spells end_of_text the special token's id."""
    merges = json.loads(text)["model"]["merges"]
    if end_of_text in _byte_letters() or any("".join(pair) == end_of_text for pair in merges):
        raise UserError(
            f"end_of_text={end_of_text!r} is an ordinary token of this corpus; choose a string "
            "of letters and signs mixed, e.g. '<|endoftext|>'"
        )


class Tokenizer:
    """A loaded tokenizer that never reads special tokens out of text."""

    def __init__(self, path: Path, tokenizer: Any, config: TokenizerConfig):
        self.path = path
        self._tokenizer = tokenizer
        self.end_of_text = config.end_of_text
        """The text of the token that ends every document."""
        self.end_of_text_id: int = tokenizer.token_to_id(config.end_of_text)
        """The token that ends every document."""
        self.vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        """Id of each token as its file writes it."""
        self._known = frozenset(self.vocabulary.values())
        self.vocabulary_size: int = max(self._known) + 1
        """One past the largest token id, added tokens included, padding not."""
        self.byte_level: bool = _has_byte_level_decoder(tokenizer)
        """Whether every token stands for bytes of its own."""
        self._bytes = _bytes_of_tokens(tokenizer, self.vocabulary_size) if self.byte_level else []
        # Sorted bytes turn "starts with" into a range; tokens without text are left out.
        self._sorted = sorted((text, token) for token, text in enumerate(self._bytes) if text)
        self._starting_with: dict[bytes, tuple[int, ...]] = {}

    @classmethod
    def load(cls, path: Path, config: TokenizerConfig) -> "Tokenizer":
        """Read a tokenizer.json.

        Truncation, padding and templates written in the file are switched off: a
        document is encoded whole and ends with one end-of-text token.

        Raises:
            UserError: the file is missing or broken, or end_of_text is not in its vocabulary.
        """
        from tokenizers import AddedToken

        tokenizer = _read(path)
        if tokenizer.token_to_id(config.end_of_text) is None:
            known = ", ".join(repr(token) for token in _special_tokens(tokenizer)) or "none"
            raise UserError(
                f"{path}: end_of_text={config.end_of_text!r} is not in the vocabulary; "
                f"set tokenizer.end_of_text to one of its special tokens: {known}"
            )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.post_processor = None
        tokenizer.add_special_tokens(
            [AddedToken(config.end_of_text, special=True, normalized=False)]
        )
        tokenizer.encode_special_tokens = True
        return cls(path, tokenizer, config)

    def encode(self, text: str) -> list[int]:
        """The text's tokens, without end of text. Empty text has none.

        Raises:
            UserError: the text holds a lone surrogate, which UTF-8 cannot write.
        """
        return [token for _, encoding in self._encodings(text) for token in encoding.ids]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in order; the library may use several threads."""
        for text in texts:
            _check_surrogates(text)
        batch = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [
            self.encode(text) if self.end_of_text_id in encoding.ids else encoding.ids
            for text, encoding in zip(texts, batch, strict=True)
        ]

    def holds(self, tokens: Sequence[int]) -> bool:
        """Whether each is a token of this tokenizer, and none an id of a padding row."""
        return self._known.issuperset(tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """The tokens' text. Special tokens and ids of padding rows have no text, see `holds`.

        Bytes that are no UTF-8 (a character cut off) become U+FFFD.
        """
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def spans(self, text: str) -> list[Span]:
        """The tokens of `encode` with their places in the text.

        For a byte-level tokenizer that changes no bytes, but for a space that it may add in
        front, the spans are exact to the byte and cover the text without gap. For others they
        are the library's own.
        """
        encodings = list(self._encodings(text))
        tokens = [token for _, encoding in encodings for token in encoding.ids]
        pieces = [self._bytes[token] for token in tokens] if self.byte_level else []
        joined, written = b"".join(pieces), text.encode()
        if joined == b" " + written and pieces[0]:
            pieces[0] = pieces[0][1:]
            joined = written
        if joined == written:
            return _byte_spans(text, tokens, pieces)
        return [
            Span(token=token, start=at + start, end=at + end, start_byte=None, end_byte=None)
            for at, encoding in encodings
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; empty for special tokens and padding rows.

        Raises:
            UserError: the tokenizer is not byte-level.
        """
        self._require_bytes()
        if token < 0:
            raise ValueError(f"token={token} must be at least 0")
        return self._bytes[token] if token < self.vocabulary_size else b""

    def tokens_starting_with(self, prefix: bytes) -> list[int]:
        """Ids, rising, of all tokens whose bytes begin with `prefix`, the prefix itself included.

        Raises:
            UserError: the tokenizer is not byte-level.
        """
        self._require_bytes()
        if prefix not in self._starting_with:
            first = bisect_left(self._sorted, (prefix, -1))
            found = []
            for text, token in self._sorted[first:]:
                if not text.startswith(prefix):
                    break
                found.append(token)
            self._starting_with[prefix] = tuple(sorted(found))
        return list(self._starting_with[prefix])

    def _require_bytes(self) -> None:
        if not self.byte_level:
            raise UserError(
                f"{self.path}: not a byte-level tokenizer, so its tokens have no bytes of their "
                "own; use a tokenizer.json with a ByteLevel decoder, or train one"
            )

    def _encodings(self, text: str) -> Iterator[tuple[int, Any]]:
        """The library's encodings with the place in `text` where each begins.

        Usually one. Where the model itself spells the end of text as its token
        (a user's Unigram or WordLevel vocabulary may), the text is encoded in
        pieces cut after the first character of each such place.
        """
        _check_surrogates(text)
        whole = self._tokenizer.encode(text, add_special_tokens=False)
        if self.end_of_text_id not in whole.ids:
            yield 0, whole
            return
        at = 0
        while at < len(text):
            found = text.find(self.end_of_text, at)
            stop = len(text) if found < 0 else found + 1
            piece = self._tokenizer.encode(text[at:stop], add_special_tokens=False)
            if self.end_of_text_id in piece.ids:
                raise UserError(
                    f"{self.path}: the text {text[at:stop][:40]!r} becomes the token "
                    f"{self.end_of_text!r}; choose an end_of_text that no text is made of"
                )
            yield at, piece
            at = stop


def _read(path: Path) -> Any:
    from tokenizers import Tokenizer as LibraryTokenizer

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such tokenizer file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a tokenizer.json: {error}") from None
    try:
        return LibraryTokenizer.from_str(text)
    except BaseException as error:
        # The library raises bare Exception and nothing narrower; anything else is not ours.
        if type(error) is not Exception:
            raise
        raise UserError(
            f"{path}: not a tokenizer.json that the tokenizers library reads: {error}; "
            "delete the file to train it anew, or save the tokenizer again"
        ) from None


def _check_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"text with a lone surrogate {text[error.start]!r} at character {error.start} cannot "
            "be written as UTF-8; remove it from the source"
        ) from None


def _special_tokens(tokenizer: Any) -> list[str]:
    added = tokenizer.get_added_tokens_decoder()
    return [added[token].content for token in sorted(added) if added[token].special]


def _has_byte_level_decoder(tokenizer: Any) -> bool:
    decoder = json.loads(tokenizer.to_str())["decoder"] or {}
    steps = decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]
    return any(step.get("type") == "ByteLevel" for step in steps)


def _byte_letters() -> dict[str, int]:
    """Which byte each letter of a byte-level vocabulary stands for, after GPT-2.

    Printable Latin-1 stands for itself; the others, in order, are U+0100 and on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, BYTES)}
    others = [byte for byte in range(BYTES) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(BYTES + place): byte for place, byte in enumerate(others)}


def _bytes_of_tokens(tokenizer: Any, vocabulary_size: int) -> list[bytes]:
    """The bytes of each id; empty for special tokens and for ids that no token has."""
    letters = _byte_letters()
    added = tokenizer.get_added_tokens_decoder()
    result = [b""] * vocabulary_size
    for text, token in tokenizer.get_vocab(with_added_tokens=True).items():
        if token in added:
            # Added tokens are written as plain text, not in byte letters.
            result[token] = b"" if added[token].special else added[token].content.encode()
        elif all(letter in letters for letter in text):
            result[token] = bytes(letters[letter] for letter in text)
        else:
            result[token] = text.encode()
    return result


def _byte_spans(text: str, tokens: list[int], pieces: list[bytes]) -> list[Span]:
    """Spans from the tokens' bytes, which together are the text's."""
    # character_of[b] is the character that byte b belongs to.
    character_of = [at for at, letter in enumerate(text) for _ in letter.encode()]
    ends = list(accumulate(len(piece) for piece in pieces))
    spans = []
    for token, piece, end in zip(tokens, pieces, ends, strict=True):
        start = end - len(piece)
        spans.append(
            Span(
                token=token,
                start=character_of[start] if piece else 0,
                end=character_of[end - 1] + 1 if piece else 0,
                start_byte=start,
                end_byte=end,
            )
        )
    return spans
