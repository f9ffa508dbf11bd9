"""A real tokenizer with merges, one without, and a real model small enough for brute force."""

import json

import pytest
import torch

from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import Tokenizer, train_tokenizer

TEXTS = ["the sheep sheared the shore", "thence she showed 12 and 1234", "ééé été là"] * 20
"""Repetition makes long merges, so that tokens span joins."""


def make_tokenizer(path, size: int) -> Tokenizer:
    config = TokenizerConfig(vocabulary_size=size)
    train_tokenizer(config, TEXTS, path)
    return Tokenizer.load(path, config)


@pytest.fixture(scope="session")
def merging(tmp_path_factory) -> Tokenizer:
    """A byte-level BPE with merges."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "merging.json", 300)


def changed_tokenizer(tokenizer: Tokenizer, path, change) -> Tokenizer:
    """The same vocabulary and merges in a file that `change` has been at."""
    content = json.loads(tokenizer.path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return Tokenizer.load(path, TokenizerConfig(path=str(path)))


@pytest.fixture(scope="session")
def prefixing(merging, tmp_path_factory) -> Tokenizer:
    """Puts a space in front of every text, as GPT-2's does where it is told to."""

    def add_space(content):
        # Digits apart would each get a space.
        byte_level = content["pre_tokenizer"]["pretokenizers"][1]
        content["pre_tokenizer"] = byte_level | {"add_prefix_space": True}

    return changed_tokenizer(merging, tmp_path_factory.mktemp("t") / "prefix.json", add_space)


@pytest.fixture(scope="session")
def without_bytes(merging, tmp_path_factory) -> Tokenizer:
    """Its tokens have places in the text, but no bytes, as SentencePiece's."""

    def forget(content):
        content["decoder"] = None

    return changed_tokenizer(merging, tmp_path_factory.mktemp("t") / "words.json", forget)


@pytest.fixture(scope="session")
def plain_bytes(tmp_path_factory) -> Tokenizer:
    """A byte-level BPE without merges: one token a byte."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "bytes.json", 257)


@pytest.fixture(scope="session")
def model() -> Transformer:
    """Weights large enough that probabilities differ between tokens and contexts."""
    config = ModelConfig(
        vocabulary_size=320,
        num_layers=2,
        d_model=16,
        num_heads=2,
        d_expert=32,
        num_experts=4,
        top_k=2,
        sequence_length=48,
        init_std=0.2,
    )
    with torch.random.fork_rng():
        return Transformer(config, seed=4).eval()
