"""Waits grow, honour the server and repeat with their seed; dead servers rest and are tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.config import UserError
from isoflop.corpus.rewrite.completion import read_failure, read_reply, retry_after_seconds
from isoflop.corpus.rewrite.messages import NoReply
from isoflop.corpus.rewrite.reasons import Reason
from isoflop.corpus.rewrite.retry import (
    DEAD_AFTER,
    FIRST_REST_SECONDS,
    MOST_REST_SECONDS,
    Balance,
    Patience,
    wait_seconds,
)


@given(st.integers(1, 200), st.integers(0, 10))
def test_a_wait_lies_between_half_and_all_of_its_doubled_length(tried, seed):
    patience = Patience(first_wait_seconds=1.0, most_wait_seconds=60.0)
    longest = min(60.0, 2.0 ** (tried - 1))
    assert longest / 2 <= wait_seconds(patience, tried, seed) <= longest


def test_waits_of_two_requests_differ_and_are_repeated_by_their_seed():
    patience = Patience()
    waits = [wait_seconds(patience, 5, 0, f"request {n}") for n in range(20)]
    assert len(set(waits)) == 20
    assert waits == [wait_seconds(patience, 5, 0, f"request {n}") for n in range(20)]


def test_the_least_busy_server_is_asked():
    balance = Balance(urls=("a", "b"))
    assert [balance.choose(0.0)[0] for _ in range(4)] == ["a", "b", "a", "b"]
    balance.ended("b", 0.0, "answered")
    assert balance.choose(0.0)[0] == "b"


def test_a_dead_server_rests_longer_each_time_and_is_tried_again():
    balance = Balance(urls=("a", "b"))
    balance.choose(0.0)
    balance.ended("a", 0.0, "unreachable")
    assert {balance.choose(0.0)[0] for _ in range(5)} == {"b"}
    assert balance.choose(FIRST_REST_SECONDS)[0] == "a"
    balance.ended("a", 10.0, "unreachable")
    assert "a" not in {balance.choose(10.0 + 1.5 * FIRST_REST_SECONDS)[0] for _ in range(3)}
    assert balance.choose(10.0 + 2 * FIRST_REST_SECONDS)[0] == "a"
    balance.ended("a", 20.0, "answered")
    balance.choose(20.0)
    balance.ended("a", 20.0, "unreachable")
    assert balance.choose(20.0 + FIRST_REST_SECONDS)[0] == "a"


def test_single_broken_connections_do_not_make_a_server_dead():
    balance = Balance(urls=("a", "b"))
    for _ in range(DEAD_AFTER - 1):
        balance.choose(0.0)
        balance.ended("a", 0.0, "failed")
    assert balance.choose(0.0)[0] == "a"
    balance.ended("a", 0.0, "failed")
    assert balance.choose(0.0) == ("b", 0.0)


def test_where_all_are_dead_the_first_to_wake_is_waited_for():
    balance = Balance(urls=("a", "b"))
    for url, now in (("a", 0.0), ("b", 0.4)):
        balance.choose(now)
        balance.ended(url, now, "unreachable")
    url, rest = balance.choose(0.5)
    assert (url, rest) == ("a", FIRST_REST_SECONDS - 0.5)
    for day in range(1, 101):
        balance.ended("a", day * 86_400.0, "unreachable")
        balance.ended("b", day * 86_400.0, "unreachable")
    assert balance.choose(100 * 86_400.0)[1] == MOST_REST_SECONDS


def test_what_was_under_way_when_a_server_died_does_not_lengthen_its_rest():
    balance = Balance(urls=("a",))
    for _ in range(64):
        balance.choose(0.0)
    for _ in range(64):
        balance.ended("a", 0.0, "failed")
    assert balance.choose(0.0) == ("a", FIRST_REST_SECONDS)


def test_a_server_taken_for_dead_is_tried_by_one_request_at_a_time():
    balance = Balance(urls=("a", "b"))
    balance.choose(0.0)
    balance.ended("a", 0.0, "unreachable")
    later = FIRST_REST_SECONDS
    assert [balance.choose(later)[0] for _ in range(4)] == ["a", "b", "b", "b"]
    balance.ended("a", later, "answered")
    assert balance.choose(later)[0] == "a"


def test_a_request_goes_first_to_the_servers_that_have_not_failed_it():
    balance = Balance(urls=("a", "b", "c"))
    assert balance.choose(0.0, {"a": 1})[0] == "b"
    assert balance.choose(0.0, {"a": 1})[0] == "c"
    assert balance.choose(0.0, {"a": 1, "b": 1, "c": 1})[0] == "a"
    balance.ended("b", 0.0, "failed", rest_seconds=9.0)
    assert balance.choose(1.0, {"a": 3, "c": 3})[0] != "b"


def test_a_server_s_wish_for_rest_is_kept_whatever_it_answered():
    for how in ("answered", "failed", "unreachable"):
        balance = Balance(urls=("a",))
        balance.choose(0.0)
        balance.ended("a", 0.0, how, rest_seconds=20.0)
        assert balance.choose(5.0) == ("a", 15.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"tries": 0},
        {"first_wait_seconds": -1.0},
        {"request_seconds": 0.0},
        {"given_up_in_succession": 0},
    ],
)
def test_nonsense_is_refused(changes):
    with pytest.raises(UserError):
        Patience(**changes)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-4", 0.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:05 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after_seconds(value, 10.0) == seconds


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.MALFORMED_JSON),
        (b'{"choices": [', Reason.MALFORMED_JSON),
        (b"\xff\xfe", Reason.MALFORMED_JSON),
        (b"[" * 100_000, Reason.MALFORMED_JSON),
        (b"[]", Reason.OTHER_SCHEMA),
        (b"null", Reason.OTHER_SCHEMA),
        (b'{"error": "x"}', Reason.OTHER_SCHEMA),
        (b'{"choices": {}}', Reason.OTHER_SCHEMA),
        (b'{"choices": [3]}', Reason.OTHER_SCHEMA),
        (b'{"choices": [{"text": "x"}]}', Reason.OTHER_SCHEMA),
        (b'{"choices": [{"message": {}}]}', Reason.OTHER_SCHEMA),
        (b'{"choices": [{"message": {"content": 3}}]}', Reason.OTHER_SCHEMA),
        (b'{"choices": [{"message": {"content": "x"}, "finish_reason": 3}]}', Reason.OTHER_SCHEMA),
        (b'{"choices": []}', Reason.EMPTY_CHOICES),
    ],
)
def test_a_body_that_is_no_completion_has_its_reason(body, reason):
    with pytest.raises(NoReply) as caught:
        read_reply(body)
    assert caught.value.reason is reason


def test_half_a_surrogate_pair_can_be_written_to_a_file():
    body = rb'{"choices": [{"message": {"content": "a \ud83d b \ud83d\ude42"}, "finish_reason": "stop"}]}'
    assert read_reply(body).text == "a \N{REPLACEMENT CHARACTER} b \N{SLIGHTLY SMILING FACE}"


def test_tokens_that_nobody_counted_are_none_and_not_zero():
    head = b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]'
    for tail in (
        b"}",
        b', "usage": null}',
        b', "usage": {"prompt_tokens": "3", "completion_tokens": true}}',
        b', "usage": {"prompt_tokens": -1, "completion_tokens": 3.0}}',
        b', "usage": {"prompt_tokens": 4611686018427387904, "completion_tokens": 1'
        + b"0" * 400
        + b"}}",
    ):
        reply = read_reply(head + tail)
        assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("x", None, None)
    reply = read_reply(head + b', "usage": {"prompt_tokens": 3, "completion_tokens": 0}}')
    assert (reply.prompt_tokens, reply.completion_tokens) == (3, 0)


def test_statuses_are_told_apart():
    server, text = Reason.SERVER_ERROR, Reason.REFUSED
    named = {429: Reason.RATE_LIMITED, 500: server, 503: server, 408: server, 400: text, 422: text}
    for status, reason in named.items():
        failure = read_failure(status, {"retry-after": "2"}, b"why\n", 0.0)
        assert failure.reason is reason
        assert "why" in failure.detail
        assert failure.wait_seconds == (None if reason is Reason.REFUSED else 2.0)
