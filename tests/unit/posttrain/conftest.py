"""A real tokenizer, a real model small enough for brute force, and problems that a byte answers."""

import json
from pathlib import Path

import pytest
import torch

from isoflop.evaluate.tasks.load import load_task
from isoflop.model.checkpoint import save_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer
from isoflop.posttrain.config import GrpoConfig, ProblemSource
from isoflop.posttrain.problems import ProblemSet
from isoflop.posttrain.rewards import answer_reward
from isoflop.records import EvaluationItem, write_rows
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import Tokenizer, train_tokenizer

DIGITS = "0123456789"


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """A byte-level BPE without merges: one token a byte."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    config = TokenizerConfig(vocabulary_size=257)
    train_tokenizer(config, ["ask 12"] * 20, path)
    return Tokenizer.load(path, config)


@pytest.fixture(scope="session")
def shape(tokenizer) -> ModelConfig:
    return ModelConfig(
        # As many as the tokenizer has: an answer with a token of padding is not read.
        vocabulary_size=257,
        num_layers=2,
        d_model=16,
        num_heads=2,
        d_expert=32,
        num_experts=4,
        top_k=2,
        sequence_length=24,
        init_std=0.2,
    )


@pytest.fixture(scope="session")
def checkpoint(shape, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(Transformer(shape, seed=3), folder)
    return folder


@pytest.fixture
def model(shape) -> Transformer:
    return Transformer(shape, seed=3)


@pytest.fixture(scope="session")
def problem_file(tmp_path_factory) -> Path:
    """Twelve problems whose answer is one digit."""
    path = tmp_path_factory.mktemp("problems") / "items.jsonl"
    write_rows(
        path,
        [
            EvaluationItem(
                id=str(number),
                task="digits",
                split="seen",
                prompt=f"{number:02d}=",
                answer=DIGITS[number % 3],
                final_answer=DIGITS[number % 3],
            )
            for number in range(12)
        ],
    )
    return path


def byte_rewards(answers):
    """Between 0 and 1 for any text, different for most: every group has a signal."""
    from isoflop.posttrain.rewards import Reward

    return [Reward(value=sum(text.encode()) % 7 / 6, gradable=bool(text)) for _, text in answers]


@pytest.fixture
def problems(problem_file) -> ProblemSet:
    loaded = load_task("probes", data=problem_file)
    return ProblemSet(name="digits", problems=loaded.problems, rewards=byte_rewards)


@pytest.fixture
def exact(problems, problem_file) -> ProblemSet:
    """The same with the probes' own reward."""
    task = load_task("probes", data=problem_file).task
    return ProblemSet(name="digits", problems=problems.problems, rewards=answer_reward(task, None))


def config(problem_file: Path, **changes) -> GrpoConfig:
    fields = {
        "train": ProblemSource(task="probes", data=str(problem_file), prompt="{question}"),
        "reward": "answer",
        "num_steps": 3,
        "prompts_per_step": 4,
        "samples_per_prompt": 3,
        "mini_batch_prompts": 2,
        "micro_batch_answers": 4,
        "max_response_tokens": 5,
        "learning_rate": 1e-3,
        "validation_steps": 2,
        "batch_sequences": 6,
    }
    return GrpoConfig(**(fields | changes))


@pytest.fixture
def make_config(problem_file):
    return lambda **changes: config(problem_file, **changes)


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
