"""A stored reply is there after any kill, and one that is not wholly stored is not there at all."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from isoflop.config import UserError
from isoflop.corpus.rewrite.messages import Message, Reply, Request, Sampling
from isoflop.corpus.rewrite.store import ReplyStore

REQUEST = Request(
    model="m",
    prompt_digest="p",
    messages=(Message(role="user", content="x"),),
    sampling=Sampling(),
    attempt=1,
)
REPLY = Reply(text="é\ud800\0", finish="stop", prompt_tokens=3, completion_tokens=None)


def keep(store, request, reply=REPLY):
    asyncio.run(store.keep(request, reply))


def test_a_reply_comes_back_as_it_was(tmp_path):
    store = ReplyStore(tmp_path / "r")
    assert store.get(REQUEST.key()) is None
    keep(store, REQUEST)
    store.close()
    again = ReplyStore(tmp_path / "r")
    assert again.get(REQUEST.key()) == REPLY
    again.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "n"},
        {"prompt_digest": "q"},
        {"attempt": 2},
        {"messages": (Message(role="system", content="x"),)},
        {"messages": (Message(role="user", content="y"),)},
        {"sampling": Sampling(temperature=0.3)},
        {"sampling": Sampling(top_p=0.8)},
        {"sampling": Sampling(max_new_tokens=9)},
        {"sampling": Sampling(seed=0)},
    ],
    ids=str,
)
def test_all_that_a_reply_depends_on_is_in_its_key(changes):
    assert replace(REQUEST, **changes).key() != REQUEST.key()


def test_texts_that_join_alike_have_other_keys():
    one = replace(
        REQUEST, messages=(Message(role="a", content="bc"), Message(role="d", content="e"))
    )
    other = replace(
        REQUEST, messages=(Message(role="a", content="b"), Message(role="cd", content="e"))
    )
    assert one.key() != other.key()


def test_sums_are_over_what_was_counted(tmp_path):
    store = ReplyStore(tmp_path / "r")
    keep(store, REQUEST, replace(REPLY, completion_tokens=5))
    keep(store, replace(REQUEST, attempt=2))
    paid = store.paid()
    assert paid == (2, 1, 6, 5, 1)
    store.close()


def test_counts_of_many_runs_add_up(tmp_path):
    for number in (1, 2):
        store = ReplyStore(tmp_path / "r")
        store.count("time-out", number)
        if number == 1:
            keep(store, REQUEST)
        store.close()
    store = ReplyStore(tmp_path / "r")
    assert store.counts() == {"time-out": 3}
    store.close()


def test_replies_of_one_moment_are_one_transaction(tmp_path):
    store = ReplyStore(tmp_path / "r")
    commits = []
    store._file.set_trace_callback(lambda line: commits.append(line) if line == "commit" else None)

    async def keep_many():
        many = [replace(REQUEST, attempt=number) for number in range(1, 51)]
        await asyncio.gather(*(store.keep(request, REPLY) for request in many))

    asyncio.run(keep_many())
    assert store.paid().replies == 50
    assert len(commits) < 5
    store.close()


def test_a_damaged_file_is_told_in_one_line(tmp_path):
    (tmp_path / "r").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="paid for"):
        ReplyStore(tmp_path / "r")


def test_a_full_disk_is_an_error_and_not_a_reply(tmp_path):
    store = ReplyStore(tmp_path / "r")
    store._file.execute("pragma max_page_count=1")
    with pytest.raises(UserError, match="full"):
        keep(store, REQUEST, replace(REPLY, text="x" * 100_000))
    assert store.get(REQUEST.key()) is None
    store._file.close()


def test_whatever_cannot_be_stored_is_heard_by_all_who_wait_and_leaves_the_file_usable(tmp_path):
    store = ReplyStore(tmp_path / "r")
    requests = [replace(REQUEST, attempt=number) for number in (1, 2)]

    async def keep_both():
        replies = (REPLY, replace(REPLY, prompt_tokens=10**30))
        waiting = [store.keep(*pair) for pair in zip(requests, replies, strict=True)]
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), timeout=10)

    assert [type(outcome) for outcome in asyncio.run(keep_both())] == [OverflowError] * 2
    keep(store, requests[0])
    assert (store.get(requests[0].key()), store.get(requests[1].key())) == (REPLY, None)
    store.close()


WRITER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import REPLY, REQUEST
from isoflop.corpus.rewrite.store import ReplyStore

async def main():
    store = ReplyStore(Path(sys.argv[1]))
    for attempt in range(1, 100_000):
        await store.keep(replace(REQUEST, attempt=attempt), REPLY)
        print(attempt, flush=True)

asyncio.run(main())
"""


def test_what_was_handed_on_is_there_after_a_kill(tmp_path):
    path = tmp_path / "r"
    for round_number in range(3):
        command = [sys.executable, "-c", WRITER, str(path), os.path.dirname(__file__)]  # noqa: PTH120
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 * (round_number + 1))
            process.send_signal(signal.SIGKILL)
            told = [line for line in process.stdout.read().split("\n") if line]
        # The last line may be torn by the kill itself.
        last = max([1, *map(int, told[:-1])])
        store = ReplyStore(path)
        assert all(
            store.get(replace(REQUEST, attempt=n).key()) == REPLY for n in range(1, last + 1)
        )
        store.close()


def test_a_torn_tail_is_mended(tmp_path):
    path = tmp_path / "r"
    store = ReplyStore(path)
    keep(store, REQUEST)
    keep(store, replace(REQUEST, attempt=2))
    wal = path.with_name("r-wal").read_bytes()
    main = path.read_bytes()
    store.close()
    found = set()
    for cut in [*range(0, len(wal), 512), len(wal)]:
        torn = tmp_path / f"torn-{cut}"
        torn.write_bytes(main)
        torn.with_name(torn.name + "-wal").write_bytes(wal[:cut])
        again = ReplyStore(torn)
        replies = [again.get(replace(REQUEST, attempt=n).key()) for n in (1, 2)]
        assert set(replies) <= {None, REPLY}
        found.add(sum(reply is not None for reply in replies))
        again.close()
    assert found == {0, 1, 2}
