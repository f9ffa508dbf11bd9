"""`isoflop corpus rewrite`: what a user types, made into configs and back into words."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from isoflop.config import UserError
from isoflop.corpus.intake import CorpusInput, input_digest, open_input
from isoflop.corpus.rewrite import options
from isoflop.corpus.rewrite.accounts import Prices, RewriteCounts
from isoflop.corpus.rewrite.code_rules import TIDY_CODE, CodeRewriter, CodeRules
from isoflop.corpus.rewrite.endpoint import ANSWERED, Endpoint, read_api_key
from isoflop.corpus.rewrite.limits import CONTEXT_TOKENS, count_bytes, tokenizer_counter
from isoflop.corpus.rewrite.lint_again import LintAgain, lint_tools
from isoflop.corpus.rewrite.math_rules import TIDY_MATH, MathRewriter, MathRules
from isoflop.corpus.rewrite.messages import Backend, Sampling
from isoflop.corpus.rewrite.model import ModelConfig, ModelRewriter
from isoflop.corpus.rewrite.reasons import Reason
from isoflop.corpus.rewrite.retry import Patience
from isoflop.corpus.rewrite.run import RewriteConfig, Rewriter, RewriteSummary, rewrite
from isoflop.corpus.rewrite.stages import STAGES, find_stage
from isoflop.corpus.rewrite.store import ReplyStore
from isoflop.corpus.rewrite.vllm_engine import VllmEngine
from isoflop.corpus.rows import TextRow
from isoflop.records import row_to_line

RULES_OF = {
    TIDY_CODE: TIDY_CODE,
    TIDY_MATH: TIDY_MATH,
    **dict.fromkeys(("sgcr", "scor", "merged", "refactor"), TIDY_CODE),
    **dict.fromkeys(("math_v1", "math_v2"), TIDY_MATH),
}
"""The rules that stand in for a stage where there is no model."""

CODE_SUFFIXES = {"cpp": (".cpp", ".cc", ".hpp", ".h"), "rust": (".rs",), "python": (".py",)}
TEXT_SUFFIXES = (".txt", ".md")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Who answers, and how it is asked; nothing here changes the output."""

    urls: tuple[str, ...]
    in_process: bool
    rules: bool
    key_variable: str
    concurrency: int
    tokenizer: Path | None
    patience: Patience


def rewrite_command(
    source: options.Source,
    stage: options.StageName,
    out: options.Out,
    endpoint: options.Endpoints = None,
    vllm: options.InProcess = False,
    rules: options.Rules = False,
    model: options.Model = "",
    temperature: options.Temperature = 0.2,
    top_p: options.TopP = 0.7,
    max_new_tokens: options.NewTokens = None,
    seed: options.Seed = None,
    context_tokens: options.Context = CONTEXT_TOKENS,
    tokenizer: options.TokenizerFile = None,
    instructions_as: options.Role = "system",
    target_language: options.Language = "Japanese",
    repairs: options.Repairs = 0,
    concurrency: options.Concurrency = 64,
    limit: options.Limit = None,
    rows_per_shard: options.ShardRows = 1000,
    text_field: options.TextField = "text",
    suffix: options.Suffixes = None,
    price_prompt: options.PromptPrice = None,
    price_completion: options.CompletionPrice = None,
    tries: options.Tries = 10,
    request_seconds: options.Seconds = 600.0,
    api_key_variable: options.KeyVariable = "OPENAI_API_KEY",
    lint: options.Lint = False,
    as_json: options.AsJson = False,
) -> None:
    """Rewrite every text by a model or by rules; run again to go on after a kill."""
    patience = Patience(tries=tries, request_seconds=request_seconds)
    engine = Engine(
        urls=tuple(endpoint or ()), in_process=vllm, rules=rules, key_variable=api_key_variable,
        concurrency=concurrency, tokenizer=tokenizer, patience=patience,
    )  # fmt: skip
    asked: dict[str, Any] = {
        "model": model, "target_language": target_language, "max_repairs": repairs,
        "instructions_as": instructions_as, "context_tokens": context_tokens,
    }  # fmt: skip
    drawn = {"temperature": temperature, "top_p": top_p, "seed": seed}
    texts = CorpusInput(path=source, text_field=text_field, suffixes=_suffixes(stage, suffix))
    how = how_of(stage, engine, asked, drawn, max_new_tokens)
    config = RewriteConfig(
        how=how, input_digest=input_digest(texts), limit=limit, rows_per_shard=rows_per_shard,
        lint=lint_tools(stage_of(how)) if lint else None,
    )  # fmt: skip
    prices = _prices(price_prompt, price_completion)
    summary = asyncio.run(rewrite_with(open_input(texts), out, config, engine, prices))
    typer.echo(row_to_line(summary) if as_json else summary_to_text(summary, out))
    raise typer.Exit(code=1 if summary.counts.unanswered else 0)


def how_of(
    stage: str,
    engine: Engine,
    asked: dict[str, Any],
    drawn: dict[str, Any],
    max_new_tokens: int | None,
) -> ModelConfig | CodeRules | MathRules:
    """What the output depends on: a model with its sampling, or rules.

    Raises:
        UserError: not exactly one of endpoint, vLLM and rules, or a value is refused.
    """
    by_rules = engine.rules or stage in (TIDY_CODE, TIDY_MATH)
    if sum((bool(engine.urls), engine.in_process, by_rules)) != 1:
        raise UserError(
            f"stage {stage}: name who rewrites, one of --endpoint URL with --model, --vllm with "
            "--model, and --rules"
        )
    if by_rules:
        if stage not in RULES_OF:
            raise UserError(f"stage {stage}: rules exist for {', '.join(RULES_OF)}")
        return CodeRules.installed() if RULES_OF[stage] == TIDY_CODE else MathRules()
    longest = max_new_tokens or find_stage(stage).max_new_tokens
    if asked["instructions_as"] not in ("system", "user"):
        raise UserError(f"instructions_as={asked['instructions_as']!r} must be system or user")
    return ModelConfig(
        stage=find_stage(stage).name, sampling=Sampling(**drawn, max_new_tokens=longest), **asked
    )


def stage_of(how: ModelConfig | CodeRules | MathRules) -> str:
    """The name of the stage that is carried out."""
    if isinstance(how, ModelConfig):
        return how.stage
    return TIDY_CODE if isinstance(how, CodeRules) else TIDY_MATH


async def rewrite_with(
    rows: Iterator[TextRow],
    out: Path,
    config: RewriteConfig,
    engine: Engine,
    prices: Prices | None,
) -> RewriteSummary:
    """`rewrite` with the engine that the command line names, closed at the end."""
    backends: list[Backend] = []
    annotate = None if config.lint is None else LintAgain()

    def make(store: ReplyStore) -> Rewriter:
        how = config.how
        if isinstance(how, CodeRules):
            return CodeRewriter(how, annotate=annotate)
        if isinstance(how, MathRules):
            return MathRewriter(how)
        backend = _backend(how, engine, store)
        backends.append(backend)
        count = count_bytes if engine.tokenizer is None else tokenizer_counter(engine.tokenizer)
        return ModelRewriter(
            how,
            find_stage(how.stage),
            backend,
            store,
            patience=engine.patience,
            concurrency=engine.concurrency,
            count_tokens=count,
            annotate=annotate,
        )

    try:
        return await rewrite(rows, out, config, make, prices=prices, progress=_show_progress)
    finally:
        for backend in backends:
            await backend.close()
        if annotate is not None:
            annotate.close()


def summary_to_text(summary: RewriteSummary, out: Path) -> str:
    """The figures of a rewriting in lines for a person."""
    counts = summary.counts
    lines = [f"{out}", f"read {counts.read}, kept {counts.kept}, rejected {counts.rejected}"]
    lines += [f"  {number:8} {reason}" for reason, number in _most_first(counts.reasons)]
    if counts.unanswered:
        lines.append(f"{counts.unanswered} without a reply: run the same command again to ask them")
    if counts.notes:
        lines.append("of the kept:")
        lines += [f"  {number:8} {note}" for note, number in _most_first(counts.notes)]
    if counts.removed_lines:
        lines.append("lines removed:")
        lines += [f"  {number:8} {rule}" for rule, number in _most_first(counts.removed_lines)]
    tried = counts.compiled + counts.not_compiled
    if tried:
        share = counts.not_compiled / tried
        lines.append(f"do not compile: {counts.not_compiled} of {tried} new texts ({share:.2%})")
    if counts.kept:
        before, after = counts.characters_before, counts.characters_after
        lines.append(f"characters a kept text: {before / counts.kept:.0f} before, "
                     f"{after / counts.kept:.0f} after")  # fmt: skip
    if summary.replies:
        lines.append(
            f"replies {summary.replies} ({summary.repairs} repairs), prompt tokens "
            f"{summary.prompt_tokens}, completion tokens {summary.completion_tokens}"
        )
    if summary.replies_without_usage:
        lines.append(f"replies whose tokens nobody counted: {summary.replies_without_usage}")
    if summary.cost is not None:
        lines.append(f"cost {summary.cost:.4f}")
    return "\n".join(lines)


def _backend(how: ModelConfig, engine: Engine, store: ReplyStore) -> Backend:
    if engine.in_process:
        return VllmEngine(how.model, context_tokens=how.context_tokens)
    return Endpoint(
        engine.urls,
        patience=engine.patience,
        count=_told_once(store),
        api_key=read_api_key(engine.key_variable),
        most_connections=engine.concurrency,
    )


def _told_once(store: ReplyStore) -> Callable[[str], None]:
    """Counts what requests come to; the first failure of each kind is also told, as waits may be long."""
    told: set[str] = set()

    def count(name: str) -> None:
        store.count(name)
        if name != ANSWERED and name not in told:
            told.add(name)
            # The endpoint will not answer such a request, so it is sent once.
            then = (
                "not asked again" if name == Reason.REFUSED else "asking again while patience lasts"
            )
            typer.echo(f"first {name}; {then}", err=True)

    return count


def _prices(prompt: float | None, completion: float | None) -> Prices | None:
    if prompt is None and completion is None:
        return None
    return Prices(prompt=prompt or 0.0, completion=completion or 0.0)


def _suffixes(stage: str, given: Sequence[str] | None) -> tuple[str, ...]:
    """Files of a folder that are read: those asked for, or all that the stage can read."""
    if given:
        return tuple(given)
    language = "python" if stage == TIDY_CODE else None
    if stage in STAGES:
        language = STAGES[stage].language
    return TEXT_SUFFIXES if language is None else CODE_SUFFIXES[language]


def _show_progress(counts: RewriteCounts) -> None:
    typer.echo(f"{counts.read} read, {counts.kept} kept, {counts.rejected} rejected", err=True)


def _most_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
