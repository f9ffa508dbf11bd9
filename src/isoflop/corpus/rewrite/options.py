"""The options of `isoflop corpus rewrite`, one a line."""

from pathlib import Path
from typing import Annotated

import typer

from isoflop.corpus.rewrite.code_rules import TIDY_CODE
from isoflop.corpus.rewrite.math_rules import TIDY_MATH
from isoflop.corpus.rewrite.stages import STAGES

Option = typer.Option

Source = Annotated[str, typer.Argument(metavar="INPUT", help="As for `isoflop corpus filter`.")]
StageName = Annotated[str, Option(help=f"{', '.join((TIDY_CODE, TIDY_MATH, *STAGES))}.")]
Out = Annotated[Path, Option(help="Folder; a killed run goes on there.")]
Endpoints = Annotated[
    list[str] | None,
    Option("--endpoint", metavar="URL", help="E.g. http://host:8000/v1. Repeatable."),
]
InProcess = Annotated[bool, Option("--vllm", help="The model in this process.")]
Rules = Annotated[bool, Option("--rules", help="No model: the rules for such a stage.")]
Model = Annotated[str, Option(help="As the endpoint names it; for --vllm a folder.")]
Temperature = Annotated[float, Option(help="Of sampling.")]
TopP = Annotated[float, Option("--top-p", help="Of sampling.")]
NewTokens = Annotated[
    int | None, Option("--max-new-tokens", min=1, help="Of a reply. Default: the stage's.")
]
Seed = Annotated[int | None, Option(help="Sent with each request. Default: none.")]
Context = Annotated[int, Option("--context-tokens", min=1, help="Prompt, text and reply must fit.")]
TokenizerFile = Annotated[
    Path | None, Option("--tokenizer", metavar="FILE", help="Default: bytes bound the tokens.")
]
Role = Annotated[str, Option("--instructions-as", help="Role of the prompt: system or user.")]
Language = Annotated[str, Option("--target-language", help="Of translations.")]
Repairs = Annotated[int, Option(min=0, help="Requests more that say what was wrong.")]
Concurrency = Annotated[int, Option(min=1, help="Requests at one time.")]
Limit = Annotated[int | None, Option(min=1, help="Only the first so many rows.")]
ShardRows = Annotated[int, Option("--rows-per-shard", min=1, help="Input rows of an output file.")]
TextField = Annotated[str, Option("--text-field", help="Column of the text.")]
Suffixes = Annotated[list[str] | None, Option("--suffix", help="Of files in a folder. Repeatable.")]
PromptPrice = Annotated[float | None, Option("--price-prompt", help="Of a million prompt tokens.")]
CompletionPrice = Annotated[
    float | None, Option("--price-completion", help="Of a million completion tokens.")
]
Tries = Annotated[int, Option(min=1, help="Requests for one reply.")]
Seconds = Annotated[float, Option("--request-seconds", help="Longest wait for one reply.")]
KeyVariable = Annotated[str, Option("--api-key-variable", help="Environment variable of the key.")]
Lint = Annotated[bool, Option("--lint", help="Measure new Python as `filter` does.")]
AsJson = Annotated[bool, Option("--json", help="Machine-readable output.")]
