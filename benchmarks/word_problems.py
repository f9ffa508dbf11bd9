"""An experiment: one small model that has read GSM8K's training problems, with room for few-shot prompts.

    ISOFLOP_DATA=DIR isoflop run benchmarks/word_problems.py --workers 1

DIR holds gsm8k_train.jsonl.gz (columns question and answer). The model knows little; it is what
other benchmarks here measure programs on, whose prompts need 2,048 tokens.
"""

import gzip
import json
import os
from pathlib import Path

from isoflop.corpus import ArithmeticProbe, Corpus, StdlibSource, TextSource
from isoflop.experiments import small_family
from isoflop.tokens.config import TokenizerConfig
from isoflop.train.config import TrainConfig

TEXTS = Path("runs") / "word-problems-text" / "gsm8k.jsonl"


def write_texts() -> None:
    """GSM8K's training rows in the form in which they are asked."""
    source = Path(os.environ["ISOFLOP_DATA"]) / "gsm8k_train.jsonl.gz"
    TEXTS.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(source, "rt", encoding="utf-8") as rows, TEXTS.open("w") as out:
        for line in rows:
            row = json.loads(line)
            text = f"Question: {row['question']}\nAnswer: {row['answer']}"
            out.write(json.dumps({"text": text}) + "\n")


def experiment():
    """One cell, one seed."""
    if not TEXTS.exists():
        write_texts()
    return small_family(
        name="word-problems",
        summary="one model with room for few-shot prompts",
        corpus=Corpus(
            sources=(
                TextSource(name="gsm8k", path=str(TEXTS), share=0.6, max_epochs=None),
                StdlibSource(share=0.3, max_bytes=4_000_000),
                ArithmeticProbe(share=0.1),
            )
        ),
        tokenizer=TokenizerConfig(vocabulary_size=2048),
        train=TrainConfig(
            train_tokens=4_194_304,
            batch_sequences=4,
            sequence_length=2048,
            peak_learning_rate=4e-3,
            warmup_steps=50,
            num_checkpoints=1,
        ),
        num_experts=(8,),
        d_model=64,
        num_layers=4,
    )
