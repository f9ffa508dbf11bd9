"""Messages between a worker and its caller: a length, then JSON.

caller -> worker   a program with its limits; the answer to a question
worker -> caller   hello; the outcome; or a question about a program that has run for long:
                   {"real_seconds": ..., "cpu_limit": ..., "wall_limit": ...}, answered by
                   {"seconds": until the next question, or 0 to end it, "cpu_seconds": used}
"""

import json
import socket
import struct
from typing import Any

LENGTH = struct.Struct("!Q")
"""Bytes of the message that follows."""


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message; None when the other side has hung up."""
    head = _receive_bytes(connection, LENGTH.size)
    if head is None:
        return None
    body = _receive_bytes(connection, LENGTH.unpack(head)[0])
    return None if body is None else json.loads(body)


def _receive_bytes(connection: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(min(count - len(parts), 2**20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """One message: its length, then JSON."""
    body = json.dumps(message).encode()
    connection.sendall(LENGTH.pack(len(body)) + body)
