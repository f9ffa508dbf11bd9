"""A real OpenAI-compatible HTTP server with canned replies and faults that can be planted.

Nothing stands in for the client: bytes go over a socket. What is replied depends on the request alone, and
which faults come depends on a seed and on how often this request was sent before.
"""

import hashlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = (
    "reset",
    "half body",
    "malformed JSON",
    "other schema",
    "empty choices",
    "500",
    "503",
    "429",
    "silence",
)

Canned = Callable[[list[dict[str, str]]], tuple[str, str | None]]
"""From the messages to the content and the finish reason."""


def sgcr_reply(messages: list[dict[str, str]]) -> tuple[str, str | None]:
    """A reply to any stage that wants code: mostly good, sometimes broken in a way that the text decides."""
    code = messages[-1]["content"]
    kind = int.from_bytes(hashlib.sha256(code.encode()).digest()[:4], "big") % 20
    improved = f'"""An example."""\n\n{code.rstrip()}\n'
    block = f"```python\n{improved}```"
    head = "### Suggestions:\n- Say more.\n\n### Improved Code:\n"
    special: dict[int, tuple[str, str | None]] = {
        0: (f"### Evaluation: 7/10\n\n{head}```python\n{improved[:40]}", "length"),
        1: ("", "content_filter"),
        2: (f"### Evaluation: 8\n\n{head}{block}", "tool_calls"),
        3: ("", "stop"),
        4: ("### Evaluation: 3\n\nI see nothing to change.", "stop"),
        5: (f"### Evaluation: 9\n\n{head}```python\ndef broken(:\n```", "stop"),
        6: (f"### Evaluation: twelve\n\n{head}{block}", "stop"),
        7: (f"<think>Let me see.</think>\n**Score:** **8**/10\n\n{head}{block}", "stop"),
        8: (f"### Evaluation: 11/10\n\n{head}{block}", "stop"),
        9: ("I'm sorry, but I can't help with that.", "stop"),
        10: (f"### Evaluation: 6\n\n{head}```python\n### Part 1\n{improved}```\nDone.", "stop"),
    }
    return special.get(kind, (f"### Evaluation: 7\n\n{head}{block}", "stop"))


@dataclass
class FakeEndpoint:
    """The server's state; `url` is what a client is given."""

    canned: Canned = sgcr_reply
    name_of: Callable[[bytes], str] = lambda raw: hashlib.sha256(raw).hexdigest()
    """Names a request by its body."""
    fault_share: float = 0.0
    faults: tuple[str, ...] = FAULTS
    seed: int = 0
    delay_seconds: float = 0.0
    silence_seconds: float = 5.0
    retry_after: str = "0.02"
    status: int | None = None
    """Answer every request with this status."""
    success: int = 200
    """Status of a reply."""
    url: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    """How often each request came."""
    answered: Counter[str] = field(default_factory=Counter)
    """How often each request was answered in full."""
    planted: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    most_at_once: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    keep_bodies: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_of(self, name: str) -> str | None:
        """The fault that this sending of the request meets."""
        draw = random.Random(f"{self.seed} {name} {self.requests[name]}")
        if draw.random() >= self.fault_share:
            return None
        return draw.choice(self.faults)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        state: FakeEndpoint = self.server.state  # type: ignore[attr-defined]
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        name = state.name_of(raw)
        with state.lock:
            state.requests[name] += 1
            state.at_once += 1
            state.most_at_once = max(state.most_at_once, state.at_once)
            if state.keep_bodies:
                state.bodies.append(json.loads(raw))
                state.headers.append(dict(self.headers))
            fault = state.fault_of(name)
            if fault is not None:
                state.planted[fault] += 1
        try:
            time.sleep(state.delay_seconds)
            self._answer(state, json.loads(raw), name, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with state.lock:
                state.at_once -= 1

    def _answer(self, state: FakeEndpoint, body: Any, name: str, fault: str | None) -> None:
        if state.status is not None:
            return self._send(state.status, b'{"error": {"message": "as planted"}}')
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return self.connection.close()
        if fault in ("500", "503", "429"):
            extra = {"Retry-After": state.retry_after} if fault != "500" else {}
            return self._send(int(fault), b"planted", extra)
        if fault == "silence":
            time.sleep(state.silence_seconds)
            self.close_connection = True
            return None
        content, finish = state.canned(body["messages"])
        reply = {
            "id": "x",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [
                {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content}}
            ],
            "usage": {"prompt_tokens": len(str(body["messages"])), "completion_tokens": len(content)},
        }  # fmt: skip
        if fault == "empty choices":
            return self._send(200, json.dumps({**reply, "choices": []}).encode())
        if fault == "other schema":
            return self._send(200, b'{"result": "hello"}')
        text = json.dumps(reply).encode()
        if fault == "malformed JSON":
            return self._send(200, text[: len(text) // 2])
        if fault == "half body":
            self._head(200, len(text), {})
            self.wfile.write(text[: len(text) // 2])
            self.close_connection = True
            return None
        with state.lock:
            state.answered[name] += 1
        return self._send(state.success, text)

    def _send(self, status: int, body: bytes, extra: dict[str, str] | None = None) -> None:
        self._head(status, len(body), extra or {})
        self.wfile.write(body)

    def _head(self, status: int, length: int, extra: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        for name, value in extra.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A client that was killed is what these tests are about."""


@contextmanager
def serving(state: FakeEndpoint) -> Iterator[FakeEndpoint]:
    """The server on a free port of this machine, until the block ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.state = state  # type: ignore[attr-defined]
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
