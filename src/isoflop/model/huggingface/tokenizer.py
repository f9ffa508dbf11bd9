"""The tokenizer of a model directory: written so that AutoTokenizer gives our ids, or carried along.

A tokenizer of a study is written without its file's truncation, padding and templates, which
training switched off too: nothing is put before or after a text. A tokenizer that came with an
imported Mixtral is carried with it and given back byte for byte.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.config import UserError
from isoflop.records import read_json
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"

CARRIED_FILES = (
    TOKENIZER_FILE,
    CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
)
"""What transformers writes of a tokenizer; tokenizer.json alone holds the vocabulary that we read."""

REMEDY = "copy the tokenizer again"


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """What a model directory holds of its tokenizer."""

    files: dict[str, bytes]
    """By name."""
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    """For batches; None: none is named."""
    vocabulary_size: int
    """One past the largest token id."""
    origin: str
    """Where it came from, in words."""

    def check(self, rows: int) -> None:
        """Refuse a tokenizer with ids that the model has no row for.

        Raises:
            UserError: too many tokens.
        """
        if self.vocabulary_size > rows:
            raise UserError(
                f"{self.origin}: the tokenizer has ids up to {self.vocabulary_size - 1}, the model "
                f"has vocabulary_size={rows}; give the tokenizer that the model was trained with"
            )


def study_tokenizer(path: Path, config: TokenizerConfig, sequence_length: int) -> TokenizerFiles:
    """Files for AutoTokenizer that give the ids of `Tokenizer.load(path, config)`.

    The end-of-text token begins and ends documents, so it is bos and eos; it fills
    batches too, where the attention mask hides it.

    Raises:
        UserError: the file is missing or broken, or lacks the end-of-text token.
    """
    from tokenizers import AddedToken

    ours = Tokenizer.load(path, config)
    library = _library(path)
    library.no_truncation()
    library.no_padding()
    library.post_processor = None
    library.add_special_tokens([AddedToken(config.end_of_text, special=True, normalized=False)])
    named = {f"{name}_token": config.end_of_text for name in ("bos", "eos", "pad")}
    return TokenizerFiles(
        files={
            TOKENIZER_FILE: library.to_str(pretty=True).encode() + b"\n",
            "special_tokens_map.json": _json(named),
            CONFIG_FILE: _json(
                {
                    "tokenizer_class": "PreTrainedTokenizerFast",
                    **named,
                    "add_bos_token": False,
                    "add_eos_token": False,
                    "clean_up_tokenization_spaces": False,
                    "model_max_length": sequence_length,
                    "model_input_names": ["input_ids", "attention_mask"],
                }
            ),
        },
        bos_id=ours.end_of_text_id,
        eos_id=ours.end_of_text_id,
        pad_id=ours.end_of_text_id,
        vocabulary_size=ours.vocabulary_size,
        origin=str(path),
    )


def carried_tokenizer(folder: Path) -> TokenizerFiles | None:
    """The tokenizer files of a directory as they are; None where it has no tokenizer.json.

    Raises:
        UserError: a file is broken, or names a special token that is not in the vocabulary.
    """
    path = folder / TOKENIZER_FILE
    if not path.exists():
        return None
    library = _library(path)
    config_path = folder / CONFIG_FILE
    config = read_json(config_path, missing="", remedy=REMEDY) if config_path.exists() else {}
    if not isinstance(config, dict):
        raise UserError(f"{config_path}: must hold an object of fields; {REMEDY}")
    ids = {name: _special_id(config, name, library, config_path) for name in ("bos", "eos", "pad")}
    return TokenizerFiles(
        files={
            name: (folder / name).read_bytes() for name in CARRIED_FILES if (folder / name).exists()
        },
        bos_id=ids["bos"],
        eos_id=ids["eos"],
        pad_id=ids["pad"],
        vocabulary_size=max(library.get_vocab(with_added_tokens=True).values()) + 1,
        origin=str(path),
    )


def _special_id(config: dict[str, Any], name: str, library: Any, path: Path) -> int | None:
    """The id of a special token that tokenizer_config.json names as text or as an object."""
    token = config.get(f"{name}_token")
    text = token.get("content") if isinstance(token, dict) else token
    if text is None:
        return None
    found: int | None = library.token_to_id(text) if isinstance(text, str) else None
    if found is None:
        raise UserError(
            f"{path}: {name}_token={text!r} is not in the vocabulary of {TOKENIZER_FILE}; {REMEDY}"
        )
    return found


def _library(path: Path) -> Any:
    """The library's tokenizer of a file."""
    from tokenizers import Tokenizer as LibraryTokenizer

    try:
        return LibraryTokenizer.from_str(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; {REMEDY}") from None
    except BaseException as error:
        # The library raises bare Exception and nothing narrower; anything else is not ours.
        if type(error) is not Exception:
            raise
        raise UserError(f"{path}: not a tokenizer.json: {error}; {REMEDY}") from None


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
