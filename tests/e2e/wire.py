"""One TCP connection in a test's hand, as a client or as an endpoint, and HTTP/1 read strictly from it.

Everything has a deadline (a `TimeoutError` fails the test). A message that ends too early is `Cut`; how a connection
ended is told apart: `FIN` or `RESET`.
"""
from __future__ import annotations

import re
import select
import socket
import struct
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from e2e.waiting import PATIENCE

CRLF = b"\r\n"


class End(Enum):
    FIN = "fin"
    RESET = "reset"


class Cut(Exception):
    """The connection ended within a message; `args` are (how, what had come of it)."""

    @property
    def end(self) -> End:
        end = self.args[0]
        assert isinstance(end, End)
        return end


@dataclass
class Message:
    """A request or a response; names of fields as they came."""

    start: str
    fields: list[tuple[str, str]]
    raw: bytes
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    chunks: int = -1
    """How many chunks the body came in; -1: it was not chunked."""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The only value of that name; None if there is none."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} is there {len(values)} times: {values}"
        return values[0] if values else None

    def names(self) -> list[str]:
        return [key for key, _ in self.fields]


class Request(Message):
    @property
    def method(self) -> str:
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]


class Response(Message):
    @property
    def status(self) -> int:
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", self.start)
        assert match, f"no status line: {self.start!r}"
        return int(match[1])

    @property
    def text(self) -> str:
        return self.body.decode()


class Wire:
    """`buffer` is what has come and was not asked for yet."""

    def __init__(self, sock: socket.socket, seconds: float = PATIENCE) -> None:
        self.sock = sock
        self.buffer = b""
        sock.settimeout(seconds)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    # ---- sending

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def get(self, target: str = "/", host: str = "test.invalid", *fields: str, method: str = "GET") -> None:
        """Send a request without a body."""
        self.send("".join(f"{line}\r\n" for line in (f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "")))

    def answer(self, body: bytes = b"", status: str = "200 OK", *fields: str) -> None:
        """Send a response with Content-Length."""
        lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "")
        self.send("".join(f"{line}\r\n" for line in lines).encode() + body)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # ---- receiving

    def more(self) -> bool:
        """Wait for bytes; False at FIN. Raises ConnectionResetError."""
        data = self.sock.recv(256 * 1024)
        self.buffer += data
        return bool(data)

    def _fill(self, what: str) -> None:
        try:
            if self.more():
                return
            end = End.FIN
        except (ConnectionResetError, BrokenPipeError):
            end = End.RESET
        raise Cut(end, what, self.buffer)

    def until(self, mark: bytes) -> bytes:
        """What comes up to `mark` and including it."""
        while (at := self.buffer.find(mark)) < 0:
            self._fill(f"waiting for {mark!r}")
        data, self.buffer = self.buffer[:at + len(mark)], self.buffer[at + len(mark):]
        return data

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._fill(f"waiting for {size} bytes")
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def ending(self) -> tuple[bytes, End]:
        """Everything up to the end, and which end it was."""
        try:
            while self.more():
                pass
            end = End.FIN
        except (ConnectionResetError, BrokenPipeError):
            end = End.RESET
        data, self.buffer = self.buffer, b""
        return data, end

    def quiet(self, seconds: float = 0.05) -> bool:
        """Whether nothing comes, neither bytes nor an end, for that time."""
        return not self.buffer and not select.select([self.sock], [], [], seconds)[0]

    # ---- messages

    def request(self, body: bool = True) -> Request:
        """The next request; without `body` only its head."""
        raw = self.until(CRLF + CRLF)
        start, fields = _head(raw)
        message = Request(start, fields, raw)
        if body:
            self._body(message, default=0)
        return message

    def response(self, head_only: bool = False) -> Response:
        """The next response, interim ones too. `head_only`: it answers a HEAD."""
        raw = self.until(CRLF + CRLF)
        start, fields = _head(raw)
        message = Response(start, fields, raw)
        if not head_only and message.status >= 200 and message.status not in (204, 304):
            self._body(message, default=None)
        return message

    def _body(self, message: Message, default: int | None) -> None:
        length, coding = message.get("content-length"), message.get("transfer-encoding")
        assert length is None or coding is None, f"both framing fields: {message.raw!r}"
        if coding is not None:
            assert coding == "chunked", coding
            self._chunked(message)
        elif length is not None:
            message.body = self.exactly(int(length))
        elif default is not None:
            message.body = self.exactly(default)
        else:
            message.body, end = self.ending()
            if end is not End.FIN:
                raise Cut(end, "body until close", message.body)

    def _chunked(self, message: Message) -> None:
        message.chunks = 0
        while True:
            line = self.until(CRLF)
            assert re.fullmatch(rb"[0-9a-fA-F]{1,16}\r\n", line), f"chunk line {line!r}"
            size = int(line, 16)
            if size == 0:
                break
            message.chunks += 1
            message.body += self.exactly(size)
            assert self.exactly(2) == CRLF
        while (line := self.until(CRLF)) != CRLF:
            name, _, value = line.decode("latin-1").rstrip("\r\n").partition(": ")
            message.trailers.append((name, value))


def _head(raw: bytes) -> tuple[str, list[tuple[str, str]]]:
    lines = raw[:-4].split(CRLF)
    for line in lines:
        assert b"\r" not in line and b"\n" not in line and b"\0" not in line, f"bare line break in {raw!r}"
    fields = []
    for line in lines[1:]:
        match = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?(.*)", line.decode("latin-1"))
        assert match, f"field line {line!r}"
        fields.append((match[1], match[2].strip(" \t")))
    return lines[0].decode("latin-1"), fields


def connect(port: int, seconds: float = PATIENCE, source: str | None = None, small: bool = False) -> Wire:
    """A client's connection; from the address `source`; `small`: with a small receive buffer, for slow readers."""
    sock = socket.socket()
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    if source is not None:
        sock.bind((source, 0))
    sock.settimeout(seconds)
    try:
        sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return Wire(sock, seconds)


def ask(port: int, target: str = "/", host: str = "test.invalid", *fields: str, method: str = "GET",
        source: str | None = None) -> Response:
    """One request on a connection of its own."""
    with connect(port, source=source) as client:
        client.get(target, host, "Connection: close", *fields, method=method)
        return client.response(head_only=method == "HEAD")


def refused(port: int) -> bool:
    """Whether nobody listens on that port."""
    with socket.socket() as sock:
        sock.settimeout(1.0)
        return sock.connect_ex(("127.0.0.1", port)) != 0



class Dial(Protocol):
    """The fixture `dial`."""

    def __call__(self, port: int, source: str | None = None, small: bool = False) -> Wire: ...
