"""A service whose `protocol` is not what its endpoints speak: the log line's detail says what to look at."""
from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

import pytest

from e2e.certs import Authority
from edgeproxy.config import model
from edgeproxy.errors import Phase
from fakes import Asker
from net.rig import Endpoint, Run, both_loops
from upstream.h2place import H2World, engine, frame, goaway
from upstream.tlsplace import server_context, tls_accepted

__all__ = ["engine"]

NAME = "site.test"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SETTINGS = frame(4, 0, 0, b"\0\3\0\0\0\x64")
SORRY = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
ALERT = b"\x15\x03\x03\x00\x02\x02\x46"
"""protocol_version, as many a TLS server says it to what is no ClientHello."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def world(protocol: str, ca: str | None = None) -> H2World:
    parts: dict[str, Any] = {"protocol": protocol}
    if protocol in ("https", "h2"):
        parts["tls"] = model.ServiceTls(ca=ca, server_name=NAME)
    return H2World(Endpoint(), service=parts, retry=model.Retry(1, ()))


@both_loops
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize(("protocol", "answer", "detail"), [
    ("http", SETTINGS + goaway(0, 1), "the endpoint answered with an HTTP/2 frame; is its protocol h2c?"),
    ("http", frame(4, 0, 0), "the endpoint answered with an HTTP/2 frame; is its protocol h2c?"),
    ("http", ALERT, "the endpoint answered with TLS; is its protocol https?"),
    ("h2c", SORRY, "the endpoint answered with HTTP/1; is its protocol http?"),
    ("h2c", ALERT, "the endpoint answered with TLS; is its protocol h2?"),
])
def test_in_the_clear(run: Run, protocol: str, answer: bytes, detail: str, pieces: int) -> None:
    """`pieces`: of which only the first is there when the proxy reads."""
    async def main() -> None:
        async with world(protocol) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            place = w.places[0]
            assert isinstance(place, Endpoint)
            peer = await place.accept()
            size = max(9, -(-len(answer) // pieces))
            await peer.send(answer[:size])
            await w.ends()
            assert (exchange.outcome.cause, exchange.cause) == ("response_broken", detail)
            assert asker.reply is not None and detail.encode() in dict(asker.reply.fields)[b"Proxy-Status"]

    run(main)


@both_loops
@pytest.mark.parametrize(("protocol", "suggested"), [("https", "http"), ("h2", "h2c")])
@pytest.mark.parametrize("answer", [SORRY, SETTINGS + goaway(0, 1), b"<html>no</html>"])
def test_no_tls_where_it_was_asked_for(run: Run, authority: Authority, protocol: str, suggested: str, answer: bytes
                                       ) -> None:
    async def main() -> None:
        async with world(protocol, str(authority.pem)) as w:
            exchange = Asker(w).ask(GET)
            place = w.places[0]
            assert isinstance(place, Endpoint)
            await (await place.accept()).send(answer)
            await w.ends()
            assert exchange.outcome == ("tls_failed", Phase.CONNECT)
            assert exchange.cause == f"the endpoint did not answer with TLS; is its protocol {suggested}?"

    run(main)


@both_loops
@pytest.mark.parametrize(("protocol", "detail"), [
    ("h2", "the endpoint does not agree to HTTP/2 (ALPN); is its protocol https?"),
    ("https", "the endpoint answered with an HTTP/2 frame; is its protocol h2?"),
])
def test_another_version_within_tls(run: Run, authority: Authority, protocol: str, detail: str) -> None:
    """By endpoints without ALPN."""
    pair = authority.server(NAME)

    async def main() -> None:
        async with world(protocol, str(authority.pem)) as w:
            exchange = Asker(w).ask(GET)
            context = server_context(str(pair.cert), str(pair.key))
            if protocol == "https":
                await (await tls_accepted(w.places[0], context)).send(SETTINGS)
            else:
                with suppress(ssl.SSLError):  # the proxy has left
                    await tls_accepted(w.places[0], context)
            await w.ends()
            assert exchange.cause == detail

    run(main)


@both_loops
@pytest.mark.parametrize(("protocol", "suggested"), [("h2", "https"), ("https", "h2")])
def test_a_server_that_refuses_the_version_by_an_alert(run: Run, authority: Authority, protocol: str, suggested: str
                                                       ) -> None:
    async def main() -> None:
        async with world(protocol, str(authority.pem)) as w:
            exchange = Asker(w).ask(GET)
            place = w.places[0]
            assert isinstance(place, Endpoint)
            await (await place.accept()).send(b"\x15\x03\x03\x00\x02\x02\x78")  # no_application_protocol
            await w.ends()
            assert exchange.outcome == ("tls_alert", Phase.CONNECT)
            assert exchange.cause == ("the endpoint refused the TLS handshake: no application protocol; is its protocol "
                                      f"{suggested}?")

    run(main)


@both_loops
def test_a_protocol_that_is_right_is_not_doubted(run: Run) -> None:
    """Its answer is broken for another reason, which is told."""
    async def main() -> None:
        for protocol, answer, words in (("http", b"HTTP/1.1 2x0\r\n\r\n", "status"), ("h2c", frame(5, 4, 1), "HTTP/2")):
            async with world(protocol) as w:
                exchange = Asker(w).ask(GET)
                place = w.places[0]
                assert isinstance(place, Endpoint)
                await (await place.accept()).send(answer)
                await w.ends()
                assert words in exchange.cause and "?" not in exchange.cause, exchange.cause

    run(main)


def test_openssl_calls_it_so() -> None:
    """The word on which the advice depends."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=NAME)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    incoming.write(SORRY)
    with pytest.raises(ssl.SSLError) as caught:
        tls.do_handshake()
    assert caught.value.reason == "WRONG_VERSION_NUMBER"
