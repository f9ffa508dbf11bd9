"""A real server over a real socket: every fault has its name, and patience ends in a reply."""

import asyncio
import socket
import sys
import time

import pytest

from fakes_endpoint import FAULTS, FakeEndpoint, serving, sgcr_reply
from isoflop.config import UserError
from isoflop.corpus.rewrite.endpoint import SETTING_IS_WRONG, Endpoint, read_api_key
from isoflop.corpus.rewrite.messages import Message, NoReply, Request, Sampling
from isoflop.corpus.rewrite.reasons import Reason
from isoflop.corpus.rewrite.retry import DEAD_AFTER, Patience

QUICK = Patience(tries=4, first_wait_seconds=0.001, most_wait_seconds=0.002, request_seconds=0.5)
NAMES = {
    "reset": Reason.CONNECTION_LOST,
    "half body": Reason.INCOMPLETE_BODY,
    "malformed JSON": Reason.MALFORMED_JSON,
    "other schema": Reason.OTHER_SCHEMA,
    "empty choices": Reason.EMPTY_CHOICES,
    "500": Reason.SERVER_ERROR,
    "503": Reason.SERVER_ERROR,
    "429": Reason.RATE_LIMITED,
    "silence": Reason.TIME_OUT,
}


def request(text="hello", **sampling):
    messages = (Message(role="system", content="s"), Message(role="user", content=text))
    return Request(
        model="m", prompt_digest="p", messages=messages, sampling=Sampling(**sampling), attempt=1
    )


def ask(urls, *requests, patience=QUICK, counts=None, **options):
    """Replies and failures of requests that are sent together."""
    counted = [] if counts is None else counts

    async def main():
        endpoint = Endpoint(tuple(urls), patience=patience, count=counted.append, **options)
        try:
            return await asyncio.gather(*map(endpoint.ask, requests), return_exceptions=True)
        finally:
            await endpoint.close()

    return asyncio.run(main())


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_reply_and_what_was_sent():
    with serving(
        FakeEndpoint(canned=lambda messages: (messages[-1]["content"].upper(), "stop"))
    ) as server:
        (reply,) = ask([server.url], request(temperature=0.3, seed=7), api_key="secret")
    assert (reply.text, reply.finish, reply.completion_tokens) == ("HELLO", "stop", 5)
    (body,) = server.bodies
    assert body["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "hello"},
    ]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["seed"]) == (
        0.3,
        0.7,
        8192,
        7,
    )
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_no_seed_and_no_key_are_sent_where_none_are_given():
    with serving(FakeEndpoint()) as server:
        ask([server.url], request())
    assert "seed" not in server.bodies[0]
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_name_and_is_given_up_after_all_tries(fault):
    counts = []
    patience = (
        QUICK
        if fault != "silence"
        else Patience(tries=2, first_wait_seconds=0.001, request_seconds=0.5)
    )
    with serving(
        FakeEndpoint(fault_share=1.0, faults=(fault,), silence_seconds=1.5, retry_after="0.001")
    ) as server:
        (failure,) = ask([server.url], request(), patience=patience, counts=counts)
    assert isinstance(failure, NoReply)
    assert failure.reason is NAMES[fault]
    assert counts == [NAMES[fault].value] * patience.tries
    assert sum(server.requests.values()) == patience.tries


def test_faults_at_random_are_overcome_and_all_counted():
    counts = []
    faults = tuple(fault for fault in FAULTS if fault != "silence")
    requests = [request(f"text {number}") for number in range(60)]
    patience = Patience(tries=30, first_wait_seconds=0.001, most_wait_seconds=0.01)
    with serving(FakeEndpoint(fault_share=0.4, faults=faults, retry_after="0.001")) as server:
        replies = ask([server.url], *requests, patience=patience, counts=counts)
    assert all(reply.finish is not None for reply in replies)
    assert counts.count("answered") == 60 == sum(server.answered.values())
    planted = sum(server.planted.values())
    assert planted > 15
    assert len(counts) == 60 + planted


def test_retry_after_is_honoured():
    async def main(url):
        endpoint = Endpoint((url,), patience=QUICK, count=lambda name: None)
        began = asyncio.get_running_loop().time()
        with pytest.raises(NoReply):
            await endpoint.ask(request())
        await endpoint.close()
        return asyncio.get_running_loop().time() - began

    with serving(FakeEndpoint(fault_share=1.0, faults=("429",), retry_after="0.2")) as server:
        assert asyncio.run(main(server.url)) >= 0.6


def test_no_server_at_all():
    counts = []
    (failure,) = ask([f"http://127.0.0.1:{free_port()}/v1"], request(), counts=counts,
                     patience=Patience(tries=2, first_wait_seconds=0.001))  # fmt: skip
    assert failure.reason is Reason.CONNECTION_REFUSED
    assert counts == [Reason.CONNECTION_REFUSED.value] * 2


def test_a_dead_server_is_left_out_and_the_living_one_does_the_work():
    counts = []
    with serving(FakeEndpoint()) as server:
        urls = [f"http://127.0.0.1:{free_port()}/v1", server.url]
        replies = ask(urls, *[request(f"text {n}") for n in range(40)], counts=counts)
    assert all(reply.text is not None for reply in replies)
    assert sum(server.answered.values()) == 40


def test_a_refused_text_is_sent_once():
    counts = []
    with serving(FakeEndpoint(status=400)) as server:
        (failure,) = ask([server.url], request(), counts=counts)
    assert failure.reason is Reason.REFUSED
    assert "as planted" in failure.detail
    assert counts == [Reason.REFUSED.value]
    assert sum(server.requests.values()) == 1


def test_a_reply_is_one_under_any_status_of_success():
    canned = sgcr_reply([{"content": "x = 1"}])
    with serving(FakeEndpoint(canned=lambda messages: canned, success=201)) as server:
        (reply,) = ask([server.url], request())
    assert (reply.text, reply.finish) == canned


def test_an_empty_key_is_none(monkeypatch):
    monkeypatch.setenv("KEY", "")
    assert read_api_key("KEY") is None
    monkeypatch.setenv("KEY", "sk-a.b_c/d+e=")
    assert read_api_key("KEY") == "sk-a.b_c/d+e="


@pytest.mark.parametrize("status", [*SETTING_IS_WRONG, 301])
def test_a_wrong_setting_ends_everything_in_one_line(status):
    with serving(FakeEndpoint(status=status)) as server:
        (error,) = ask([server.url], request())
    assert isinstance(error, UserError)
    assert str(status) in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://[::1"])
def test_an_endpoint_that_is_no_url_is_refused(url):
    with pytest.raises(UserError, match="endpoint"):
        Endpoint((url,), patience=QUICK, count=lambda name: None)


def test_without_httpx_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(UserError, match=r"pip install 'isoflop\[corpus\]'"):
        Endpoint(("http://h/v1",), patience=QUICK, count=lambda name: None)


@pytest.mark.parametrize("status", [503, 429])
@pytest.mark.parametrize("at_once", [1, 8])
def test_a_server_that_refuses_everything_at_once_does_not_use_up_the_tries(status, at_once):
    async def main(urls):
        endpoint = Endpoint(urls, patience=QUICK, count=lambda name: None)
        turn = asyncio.Semaphore(at_once)

        async def one(number):
            async with turn:
                return await endpoint.ask(request(f"text {number}"))

        try:
            return await asyncio.gather(*map(one, range(40)), return_exceptions=True)
        finally:
            await endpoint.close()

    with serving(FakeEndpoint(status=status)) as sick, serving(FakeEndpoint()) as well:
        well.delay_seconds = 0.02
        replies = asyncio.run(main((sick.url, well.url)))
    assert [reply for reply in replies if isinstance(reply, Exception)] == []
    assert sum(well.answered.values()) == 40
    assert sum(sick.requests.values()) <= DEAD_AFTER + at_once + 5  # Rests double.


def test_a_server_that_asks_for_rest_holds_up_no_other():
    patient = FakeEndpoint(fault_share=1.0, faults=("429",), retry_after="30")
    with serving(patient) as busy, serving(FakeEndpoint()) as free:
        began = time.monotonic()
        replies = ask([busy.url, free.url], *[request(f"text {n}") for n in range(8)])
    assert sum(free.answered.values()) == len(replies) == 8
    assert time.monotonic() - began < 10
