"""Probes of endpoints that speak TLS: what is refused and in which words, and whose sessions are resumed."""
from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from e2e.certs import Authority
from edgeproxy.config import model
from fakes import accepted, ok
from net.rig import Endpoint, Run, both_loops, open_descriptors, until
from upstream.probeplace import Asking
from upstream.tlsplace import h2_tls_accepted, server_context, tls_accepted

NAME = "site.test"
KINDS: list[dict[str, Any]] = [{"tcp": True}, {}]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def secure(authority: Authority, protocol: str = "https", name: str | None = NAME, **parts: Any) -> Asking:
    return Asking(Endpoint(), protocol=protocol, tls=model.ServiceTls(ca=str(authority.pem), server_name=name), **parts)


def shown(authority: Authority, *alpn: str, pair: Any = None) -> ssl.SSLContext:
    pair = pair or authority.server(NAME)
    return server_context(str(pair.cert), str(pair.key), *alpn)


@both_loops
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_handshake_is_enough_for_tcp(run: Run, authority: Authority, newest: ssl.TLSVersion) -> None:
    context = shown(authority)
    context.maximum_version = newest

    async def main() -> None:
        async with secure(authority, tcp=True) as a:
            a.ask()
            talk = await tls_accepted(a.places[0], context)
            assert await a.result() == ""
            assert await talk.ended() == b""

    run(main)


@both_loops
def test_https_and_the_second_time_the_session_is_resumed(run: Run, authority: Authority) -> None:
    context = shown(authority, "http/1.1")

    async def main() -> None:
        async with secure(authority) as a:
            for number in range(1, 4):
                a.ask()
                talk = await tls_accepted(a.places[0], context)
                request = await talk.serve(ok(b""))
                assert await a.result(number) == ""
                assert talk.tls.session_reused == (number > 1) and request["host"] == a.places[0].address.address
                await talk.ended()
            assert a.tls is not None and a.tls.session_for(a.identity()) is None, "requests would resume a probe's session"
            a.questions.forget(a.identity())
            a.ask()
            talk = await tls_accepted(a.places[0], context)
            await talk.serve(ok(b""))
            assert await a.result(4) == "" and not talk.tls.session_reused
            await talk.ended()

    run(main)


@both_loops
def test_h2(run: Run, authority: Authority) -> None:
    context = shown(authority, "h2")

    async def main() -> None:
        async with secure(authority, "h2") as a:
            a.ask()
            talk = await h2_tls_accepted(a.places[0], context)
            request = await talk.request()
            assert request[":scheme"] == "https"
            await talk.head(request.stream, 200, True)
            assert await a.result() == ""
            await talk.ended()

    run(main)


@both_loops
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("which", "why"), [
    ("other", "certificate was refused: hostname mismatch"), ("expired", "certificate was refused: certificate has expired"),
    ("stranger", "certificate was refused: unable to get local issuer certificate")])
def test_a_certificate_that_will_not_do(run: Run, authority: Authority, tmp_path: Path, which: str, why: str,
                                        kind: dict[str, Any]) -> None:
    pair = {"other": lambda: authority.server("other.test"), "expired": lambda: authority.expired(NAME),
            "stranger": lambda: Authority(tmp_path, "stranger").server(NAME)}[which]()
    context = shown(authority, pair=pair)

    async def main() -> None:
        async with secure(authority, **kind) as a:
            a.ask()
            with pytest.raises((ssl.SSLError, AssertionError)):  # in TLS 1.3 the server may believe it is done
                await (await tls_accepted(a.places[0], context)).head()
            assert await a.result() == why

    run(main)


@both_loops
@pytest.mark.parametrize("kind", KINDS)
def test_who_speaks_no_tls_or_says_nothing(run: Run, authority: Authority, kind: dict[str, Any]) -> None:
    async def main() -> None:
        async with secure(authority, timeout=0.2, **kind) as a:
            a.ask()
            talk = await accepted(a.places[0])
            await talk.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert await a.result() == "the endpoint did not answer with TLS; is its protocol http?"
            a.ask()
            (await accepted(a.places[0])).close()
            assert await a.result(2) == "the endpoint closed the connection within the TLS handshake"
            a.ask()
            await accepted(a.places[0])
            assert await a.result(3) == "no connection with TLS within 0.2 s"

    run(main)


@both_loops
@pytest.mark.parametrize("kind", KINDS)
def test_cancelled_at_every_stage_it_leaves_nothing(run: Run, authority: Authority, kind: dict[str, Any]) -> None:
    context = shown(authority)

    async def main() -> None:
        async with secure(authority, **kind) as a:
            await asyncio.sleep(0)
            before = open_descriptors()
            probe = a.ask()
            talk: Any = await accepted(a.places[0])
            await talk.receive(5)  # within the handshake
            probe.cancel()
            await talk.ended()
            talk.close()
            await until(lambda: open_descriptors() == before)
            if not kind:
                probe = a.ask()
                talk = await tls_accepted(a.places[0], context)
                await talk.head()
                probe.cancel()
                await talk.ended()
                talk.close()
                await until(lambda: open_descriptors() == before)
            assert a.results == []

    run(main)
