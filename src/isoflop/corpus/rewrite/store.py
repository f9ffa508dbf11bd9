"""Replies that were paid for, kept on disk before they are used.

One SQLite file. A batch of replies is one transaction, synchronised to the disk (WAL,
``synchronous=FULL``) before any of them is handed on: after a kill or a power cut there is
every reply that was used, and none is half there. SQLite mends a torn tail when it opens the file.
"""

import asyncio
import json
import sqlite3
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from isoflop.config import UserError
from isoflop.corpus.rewrite.messages import Reply, Request

_SCHEMA = """
create table if not exists replies (
    key blob primary key, attempt integer not null,
    prompt_tokens integer, completion_tokens integer, reply text not null
) without rowid;
create table if not exists counts (name text primary key, number integer not null) without rowid;
"""

_REMEDY = "replies in it are paid for: mend the disk, or start in another folder"


class Paid(NamedTuple):
    """Sums over stored replies."""

    replies: int
    repairs: int
    """Of the replies: those to requests that said what was wrong with one before."""
    prompt_tokens: int
    completion_tokens: int
    replies_without_usage: int
    """Replies whose tokens the server did not count; they are missing in the sums."""


class ReplyStore:
    """Replies by the key of their request, and counts of what requests came to."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file; one process at a time, which the folder's lock ensures.

        Raises:
            UserError: the file is damaged or cannot be written.
        """
        self._path = path
        self._waiting: list[tuple[Request, Reply, asyncio.Future[None]]] = []
        self._counts: Counter[str] = Counter()
        try:
            self._file = sqlite3.connect(path, isolation_level=None)
            # No shared memory, so that WAL also works on file systems of a network.
            self._file.execute("pragma locking_mode=exclusive")
            self._file.execute("pragma journal_mode=wal")
            self._file.execute("pragma synchronous=full")
            self._file.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise self._damaged(error) from None

    def get(self, key: bytes) -> Reply | None:
        """The stored reply; None: it was never asked, or its answer never reached the disk."""
        try:
            row = self._file.execute("select reply from replies where key = ?", [key]).fetchone()
        except sqlite3.Error as error:
            raise self._damaged(error) from None
        return None if row is None else Reply(**json.loads(row[0]))

    async def keep(self, request: Request, reply: Reply) -> None:
        """Return when the reply is on the disk. Replies of one moment share a transaction."""
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append((request, reply, stored))
        await stored

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count, which reaches the disk with the next reply or with `close`."""
        self._counts[name] += number

    def counts(self) -> dict[str, int]:
        """All counts of all runs in this folder, this one included."""
        rows = self._file.execute("select name, number from counts order by name").fetchall()
        total = Counter(dict(rows)) + self._counts
        return dict(sorted(total.items()))

    def paid(self) -> Paid:
        """What the stored replies come to."""
        row = self._file.execute(
            "select count(*), coalesce(sum(attempt > 1), 0), coalesce(sum(prompt_tokens), 0), "
            "coalesce(sum(completion_tokens), 0), "
            "coalesce(sum(prompt_tokens is null or completion_tokens is null), 0) from replies"
        ).fetchone()
        return Paid(*row)

    def close(self) -> None:
        """Write the counts and let go of the file."""
        try:
            self._write([])
        finally:
            self._file.close()

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            self._write([(request, reply) for request, reply, _ in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            for _, _, stored in batch:
                if not stored.done():
                    stored.set_exception(error)
            return
        for _, _, stored in batch:
            if not stored.done():
                stored.set_result(None)

    def _write(self, replies: list[tuple[Request, Reply]]) -> None:
        rows = [_columns(request, reply) for request, reply in replies]
        counts = list(self._counts.items())
        try:
            self._file.execute("begin immediate")
            self._file.executemany("insert or ignore into replies values (?, ?, ?, ?, ?)", rows)
            self._file.executemany(
                "insert into counts values (?, ?) "
                "on conflict (name) do update set number = number + excluded.number",
                counts,
            )
            self._file.execute("commit")
        except Exception as error:
            if self._file.in_transaction:
                self._file.execute("rollback")
            if isinstance(error, sqlite3.Error):
                raise self._damaged(error) from None
            raise
        self._counts.clear()

    def _damaged(self, error: sqlite3.Error) -> UserError:
        return UserError(f"{self._path}: {error}; {_REMEDY}")


def _columns(request: Request, reply: Reply) -> tuple[object, ...]:
    tokens = (reply.prompt_tokens, reply.completion_tokens)
    return (request.key(), request.attempt, *tokens, json.dumps(asdict(reply)))
