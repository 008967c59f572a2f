"""OpenSSL's part of one connection, and what is asked of it where it answers by an exception that is none.

Python's `ssl.SSLObject` is passed by: it only hands each call on, and the interpreter has to run that and to make one
object more.
Not compiled, on purpose: for an exception that passes through compiled code a code object and a frame are made there,
which the interpreter has already.
"""
from __future__ import annotations

import ssl
from typing import Protocol, cast


class Engine(Protocol):
    """As C has it; the methods do what those of `ssl.SSLObject` do."""

    @property
    def server_side(self) -> bool: ...

    @property
    def session(self) -> ssl.SSLSession | None: ...

    @property
    def session_reused(self) -> bool: ...

    def do_handshake(self) -> None: ...

    def read(self, size: int, /) -> bytes: ...

    def write(self, data: bytes, /) -> int: ...

    def shutdown(self) -> object: ...

    def version(self) -> str | None: ...

    def selected_alpn_protocol(self) -> str | None: ...

    def getpeercert(self, binary: bool, /) -> bytes | None: ...


def server_engine(context: ssl.SSLContext, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> Engine:
    return cast(Engine, context._wrap_bio(incoming, outgoing, True))  # type: ignore[attr-defined]


def client_engine(context: ssl.SSLContext, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_name: str | None,
                  session: ssl.SSLSession | None) -> Engine:
    """Raises ValueError for a name that is none, or a session of another context."""
    tls = context.wrap_bio(incoming, outgoing, False, server_name, session)
    return cast(Engine, tls._sslobj)  # type: ignore[attr-defined]


def step(tls: Engine) -> bool:
    """Go on with a handshake with what has come; whether it is done. Raises `ssl.SSLError`, OSError."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def say_bye(tls: Engine) -> None:
    """close_notify. That the peer has not said it yet is no error here, and neither is that it never will."""
    try:
        tls.shutdown()
    except (ssl.SSLError, OSError):
        pass
