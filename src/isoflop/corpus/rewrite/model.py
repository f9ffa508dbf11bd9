"""Rewriting by a model: a row becomes a request, its stored reply a new row.

row -> length check -> request -> stored reply, or ask and store -> parse -> checks -> new row
                          ^                                          |
                          +----- one request more that says why -----+   (`max_repairs`)
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from isoflop.config import UserError
from isoflop.corpus.rewrite.accounts import Result
from isoflop.corpus.rewrite.limits import (
    CONTEXT_TOKENS,
    TEMPLATE_TOKENS,
    CountTokens,
    count_bytes,
)
from isoflop.corpus.rewrite.messages import Backend, Message, NoReply, Reply, Request, Sampling
from isoflop.corpus.rewrite.new_rows import Annotate, rejected, rewritten, with_syntax
from isoflop.corpus.rewrite.python_source import has_statements, syntax_error
from isoflop.corpus.rewrite.reasons import Note, Reason
from isoflop.corpus.rewrite.replies import Parsed, Unusable, noted, quoted
from isoflop.corpus.rewrite.retry import Patience
from isoflop.corpus.rewrite.stages import Stage, prompt_digest, prompt_text
from isoflop.corpus.rewrite.store import ReplyStore
from isoflop.corpus.rows import Rewriting, TextRow

ROWS_AHEAD = 8
"""Rows under way for each request at one time: so far may others run ahead of the slowest. Chosen."""

NOT_MENDED = (Reason.TRUNCATED, Reason.FILTERED, Reason.DECLINED, Reason.EMPTY_REPLY)
"""Failures that saying what was wrong does not mend."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What is asked of which model."""

    stage: str
    model: str
    sampling: Sampling
    target_language: str = "Japanese"
    """Of translations; arXiv:2505.02881 translated to Japanese."""
    instructions_as: Literal["system", "user"] = "system"
    """The role that says the prompt; "user" for models whose template has no system role: the
    prompt then stands before the text in one message."""
    context_tokens: int = CONTEXT_TOKENS
    """Prompt, text and reply together must fit."""
    max_repairs: int = 0
    """Requests more that say what was wrong with a reply."""
    question_field: str = "question"
    """Column of the question, for stages that ask pairs."""
    solution_field: str = "answer"
    """Column of its solution."""

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("model must be named: the name under which the endpoint serves it")
        if self.max_repairs < 0:
            raise UserError(f"max_repairs={self.max_repairs} must be 0 or more")
        if self.context_tokens <= self.sampling.max_new_tokens:
            raise UserError(
                f"context_tokens={self.context_tokens} must be above "
                f"max_new_tokens={self.sampling.max_new_tokens}: the text must fit too"
            )


class ModelRewriter:
    """Rewrites rows by asking a model; any number at a time, results in the order of the rows."""

    def __init__(
        self,
        config: ModelConfig,
        stage: Stage,
        backend: Backend,
        store: ReplyStore,
        *,
        patience: Patience,
        concurrency: int = 64,
        count_tokens: CountTokens = count_bytes,
        annotate: Annotate | None = None,
    ) -> None:
        """`annotate` measures each new text, one at a time, in a thread of its own."""
        self._config, self._stage, self._backend, self._store = config, stage, backend, store
        self._prompt = prompt_text(stage, config.target_language)
        self._digest = prompt_digest(self._prompt)
        self._concurrency = concurrency
        self._asking = asyncio.Semaphore(concurrency)
        self._patience = patience
        self._most_tokens = config.context_tokens - config.sampling.max_new_tokens
        self._given_up = 0
        self._has_answered = store.paid().replies > 0
        self._count_tokens = count_tokens
        self._annotate = annotate
        self._under_way: dict[bytes, asyncio.Task[Reply]] = {}
        self._thread = ThreadPoolExecutor(1)

    async def results(self, rows: Iterator[TextRow]) -> AsyncIterator[Result]:
        """One result a row, in order. Memory: `ROWS_AHEAD` rows for each concurrent request.

        Raises:
            UserError: the endpoint is down, or a setting is wrong.
        """
        tasks: deque[asyncio.Task[Result]] = deque()
        try:
            for row in rows:
                tasks.append(asyncio.create_task(self._rewrite(row)))
                if len(tasks) >= ROWS_AHEAD * self._concurrency:
                    yield await tasks.popleft()
            while tasks:
                yield await tasks.popleft()
        finally:
            pending = [*tasks, *self._under_way.values()]
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            self._thread.shutdown()

    async def _rewrite(self, row: TextRow) -> Result:
        if row.rejected_by is not None:
            return Result(row=row)
        asked = self._asked(row)
        if isinstance(asked, Unusable):
            return Result(row=rejected(row, self._stage.name, asked.reason, asked.detail))
        parts, replies = list[Parsed](), list[Reply]()
        for text in asked:
            try:
                parsed = await self._parsed(row, text, replies)
            except NoReply as problem:
                bad = rejected(row, self._stage.name, problem.reason, problem.detail)
                return Result(row=bad, unanswered=problem.reason is not Reason.REFUSED)
            if isinstance(parsed, Unusable):
                return Result(row=self._rejected(row, parsed, replies))
            parts.append(parsed)
        return Result(row=await self._new_row(row, parts, replies))

    def _asked(self, row: TextRow) -> list[str] | Unusable:
        """The texts to send, one request each, or why none is sent."""
        texts = [row.text]
        if self._stage.asks == "pair":
            names = (self._config.question_field, self._config.solution_field)
            pair = [row.metadata.get(name) for name in names]
            texts = [text for text in pair if isinstance(text, str) and text.strip()]
            if len(texts) < 2:
                detail = f"the row needs the columns {' and '.join(map(repr, names))}"
                return Unusable(reason=Reason.NO_PAIR, detail=detail)
        tokens = max(self._tokens(self._messages(text)) for text in texts)
        if tokens > self._most_tokens:
            unit = "bytes" if self._count_tokens is count_bytes else "tokens"
            detail = f"{tokens} {unit} with the prompt, of at most {self._most_tokens} tokens"
            return Unusable(reason=Reason.INPUT_TOO_LONG, detail=detail)
        return texts

    def _tokens(self, messages: tuple[Message, ...]) -> int:
        """Of a conversation, or more."""
        return sum(self._count_tokens(m.content) + TEMPLATE_TOKENS for m in messages)

    async def _parsed(self, row: TextRow, text: str, replies: list[Reply]) -> Parsed | Unusable:
        """What one request came to, repairs included; `replies` grows by the replies to it."""
        messages = self._messages(text)
        for attempt in range(1, self._config.max_repairs + 2):
            request = Request(
                model=self._config.model,
                prompt_digest=self._digest,
                messages=messages,
                sampling=self._config.sampling,
                attempt=attempt,
            )
            reply = await self._reply(request)
            replies.append(reply)
            parsed = self._read(row, reply)
            if isinstance(parsed, Parsed) or parsed.reason in NOT_MENDED:
                break
            messages = (*messages, *_complaint(reply, parsed))
            if self._tokens(messages) > self._most_tokens:
                break
        return parsed

    async def _reply(self, request: Request) -> Reply:
        """The stored reply, or a new one that is stored before anyone sees it.

        Two equal texts are one request: the second waits for the first one's reply.
        """
        key = request.key()
        stored = self._store.get(key)
        if stored is not None:
            return stored
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._ask_and_store(request))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await task

    async def _ask_and_store(self, request: Request) -> Reply:
        async with self._asking:
            try:
                reply = await self._backend.ask(request)
            except NoReply as problem:
                self._give_up(problem)
                raise
        self._given_up, self._has_answered = 0, True
        await self._store.keep(request, reply)
        return reply

    def _give_up(self, problem: NoReply) -> None:
        """Raise where not this text is at fault, but the endpoint or a setting."""
        if problem.reason is Reason.REFUSED and self._has_answered:
            # It takes other requests, so it is this text that it does not take.
            return
        self._given_up += 1
        if self._given_up >= self._patience.given_up_in_succession:
            raise UserError(
                f"{self._given_up} texts in succession came to nothing, the last with: {problem}; "
                "see to the endpoint and run the same command again"
            )

    def _messages(self, text: str) -> tuple[Message, ...]:
        if self._config.instructions_as == "user":
            return (Message(role="user", content=f"{self._prompt}\n\n{text}"),)
        return (
            Message(role="system", content=self._prompt),
            Message(role="user", content=text),
        )

    def _read(self, row: TextRow, reply: Reply) -> Parsed | Unusable:
        """The reply parsed and checked."""
        stage, problem = self._stage, reply.problem()
        if problem is not None:
            return Unusable(reason=problem, detail=f"finish reason {reply.finish!r}")
        parsed = stage.parse(reply.text, complete=reply.complete)
        if isinstance(parsed, Unusable):
            return parsed
        bad = None if stage.check is None else stage.check(row, parsed)
        if parsed.text is not None and bad is None:
            bad = _flaw(stage, parsed.text)
        return parsed if bad is None else replace(bad, score=parsed.score)

    def _rejected(self, row: TextRow, bad: Unusable, replies: list[Reply]) -> TextRow:
        """The row of a text that was made and has a flaw, or the parent where none was made."""
        if bad.text is not None:
            how = self._how(replies, Parsed(text=bad.text), ())
            row = self._with_syntax(rewritten(row, bad.text, self._stage.name, how))
        if bad.score is not None:
            row = replace(row, llm_score=bad.score)
        return rejected(row, self._stage.name, bad.reason, bad.detail)

    def _with_syntax(self, row: TextRow) -> TextRow:
        return with_syntax(row) if self._stage.language == "python" else row

    async def _new_row(self, row: TextRow, parts: list[Parsed], replies: list[Reply]) -> TextRow:
        stage, first = self._stage, parts[0]
        if stage.makes == "score":
            return replace(row, llm_score=first.score)
        text = _text(stage, row, parts)
        notes = tuple(note for part in parts for note in part.notes)
        unchanged = Note.UNCHANGED if text.strip() == row.text.strip() else None
        how = self._how(replies, first, notes + noted(unchanged))
        new = replace(rewritten(row, text, stage.name, how), llm_score=first.score)
        new = self._with_syntax(new)
        if self._annotate is None:
            return new
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._annotate, new)

    def _how(self, replies: list[Reply], parsed: Parsed, notes: tuple[str, ...]) -> Rewriting:
        sampling = self._config.sampling
        return Rewriting(
            rewriter=self._config.model,
            prompt_digest=self._digest,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
            seed=sampling.seed,
            prompt_tokens=_sum(reply.prompt_tokens for reply in replies),
            completion_tokens=_sum(reply.completion_tokens for reply in replies),
            tries=len(replies),
            suggestions=parsed.suggestions,
            question=parsed.question,
            notes=notes,
        )


def _flaw(stage: Stage, text: str) -> Unusable | None:
    """What is wrong with a new text itself."""
    characters = len(text.strip())
    if characters < stage.min_characters:
        detail = f"{characters} characters of at least {stage.min_characters}"
        return Unusable(reason=Reason.TOO_SHORT, detail=detail, text=text)
    error = syntax_error(text) if stage.language == "python" else None
    if error is not None:
        return Unusable(reason=Reason.DOES_NOT_COMPILE, detail=error, text=text)
    if stage.language == "python" and not has_statements(text):
        # "# Your code goes here" compiles.
        return Unusable(reason=Reason.NO_STATEMENTS, detail=quoted(text), text=text)
    return None


def _text(stage: Stage, row: TextRow, parts: list[Parsed]) -> str:
    """The new text: of a pair, both turns."""
    if stage.asks == "pair":
        question, answer = ((part.text or "").strip() for part in parts)
        return f"[Question]\n{question}\n\n[Answer]\n{answer}\n"
    if stage.makes == "pair":
        return f"{parts[0].question}\n\n{row.text}"
    return parts[0].text or ""


def _sum(counts: Iterable[int | None]) -> int | None:
    """The sum; None where one is not known."""
    total = 0
    for number in counts:
        if number is None:
            return None
        total += number
    return total


def _complaint(reply: Reply, bad: Unusable) -> tuple[Message, ...]:
    """The turns that ask for a better reply."""
    words = (
        f"Your answer cannot be used: {bad.reason.value} ({bad.detail}). "
        "Answer again, in exactly the form that was asked for."
    )
    return (Message(role="assistant", content=reply.text), Message(role="user", content=words))
