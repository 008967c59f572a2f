"""Exchanges with endpoints that speak TLS, and those that are told whose connection it is (PROXY protocol)."""
from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from e2e.certs import Authority, Pair
from edgeproxy.codec.proxyproto import parse_proxy
from edgeproxy.config import model
from edgeproxy.config.certificates import read_certificate
from edgeproxy.config.problem import ConfigError
from edgeproxy.errors import OK, Phase
from edgeproxy.snapshot import compile_rules
from edgeproxy.upstream.access import Access
from edgeproxy.upstream.tls import build_tls
from fakes import OK_EMPTY, Asker, World, accepted, ok, socket_pair
from net.rig import Endpoint, Run, both_loops, until
from upstream.h2place import H2World, engine
from upstream.tlsplace import TlsTalk, h2_tls_accepted, server_context, tls_accepted

__all__ = ["engine"]

NAME = "site.test"
GET = b"GET /p HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def world(*places: Any, ca: Path | None = None, protocol: str = "https", retry: tuple[Any, ...] = (),
          service: dict[str, Any] | None = None, **tls: Any) -> H2World:
    parts: dict[str, Any] = {"protocol": protocol,
                             "tls": model.ServiceTls(ca=str(ca) if ca else None, **({"server_name": NAME} | tls))}
    return H2World(*places, service=parts | (service or {}), retry=model.Retry(3, retry))


def server(pair: Pair, *alpn: str, client_ca: Path | None = None) -> ssl.SSLContext:
    return server_context(str(pair.cert), str(pair.key), *alpn, client_ca=str(client_ca) if client_ca else "")


# ---- https

@both_loops
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_request_over_tls_however_the_bytes_are_cut(run: Run, authority: Authority, piece: int,
                                                      newest: ssl.TLSVersion) -> None:
    context = server(authority.server(NAME), "h2", "http/1.1")
    context.maximum_version = newest

    async def main() -> None:
        async with world(Endpoint(), ca=authority.pem) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            talk = await tls_accepted(w.places[0], context, piece)
            assert (await talk.serve(ok(b"hello"))).start == "GET /p HTTP/1.1"
            assert await w.ends() is exchange
            assert (asker.body, exchange.outcome, exchange.reused) == (b"hello", OK, False)
            assert exchange.connect_s > 0 and talk.tls.selected_alpn_protocol() == "http/1.1"
            for number in range(2, 4):
                again = Asker(w).ask(POST)
                await talk.serve()
                await w.ends(number)
                assert again.reused and again.outcome == OK

    run(main)


@both_loops
def test_sni_and_sessions(run: Run, authority: Authority) -> None:
    asked: list[str | None] = []
    context = server(authority.server(NAME, "127.0.0.1"), "http/1.1")
    context.sni_callback = lambda tls, name, _: asked.append(name)

    async def main() -> None:
        for name in (NAME, None):
            async with world(Endpoint(), ca=authority.pem, server_name=name,
                             service={"pool": model.PoolLimits(0)}) as w:
                resumed = []
                for number in range(3):
                    Asker(w).ask(GET)
                    talk = await tls_accepted(w.places[0], context)
                    resumed.append(talk.tls.session_reused)
                    await talk.serve()
                    await w.ends(number + 1)
                assert resumed == [False, True, True]

    run(main)
    assert set(asked) == {NAME, None}, "an address is no name to ask for"


@both_loops
@pytest.mark.parametrize(("pair", "cause"), [("other", "hostname mismatch"), ("expired", "certificate has expired"),
                                             ("stranger", "unable to get local issuer certificate"),
                                             ("address", "ip address mismatch")])
@pytest.mark.parametrize("protocol", ["https", "h2"])
def test_a_certificate_that_will_not_do(run: Run, authority: Authority, tmp_path: Path, pair: str, cause: str,
                                        protocol: str) -> None:
    shown = {"other": lambda: authority.server("other.test"), "expired": lambda: authority.expired(NAME),
             "stranger": lambda: Authority(tmp_path / "x", "stranger").server(NAME),
             "address": lambda: authority.server("192.0.2.1")}[pair]()
    context = server(shown, "h2" if protocol == "h2" else "http/1.1")

    async def main() -> None:
        more = {"server_name": None} if pair == "address" else {}
        async with world(Endpoint(), ca=authority.pem, protocol=protocol, **more) as w:
            asker = Asker(w)
            exchange = asker.ask(POST)
            with pytest.raises((ssl.SSLError, AssertionError)):  # in TLS 1.3 the server may believe it is done
                await (await tls_accepted(w.places[0], context)).head()
            await w.ends()
            assert exchange.outcome == ("tls_certificate", Phase.CONNECT) and exchange.status == 502
            assert exchange.cause == f"the endpoint's certificate was refused: {cause}"
            assert asker.reply is not None and b"127.0.0.1" not in asker.reply.body
            told = dict(asker.reply.fields)[b"Proxy-Status"]
            assert told.startswith(b"edgeproxy; error=tls_certificate_error") and cause.encode() in told

    run(main)


@both_loops
def test_not_verified_if_so_wished(run: Run, authority: Authority) -> None:
    context = server(authority.expired("other.test"))

    async def main() -> None:
        async with world(Endpoint(), verify=False, server_name=None) as w:
            exchange = Asker(w).ask(GET)
            await (await tls_accepted(w.places[0], context)).serve()
            await w.ends()
            assert exchange.outcome == OK

    run(main)


@both_loops
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shown", [True, False])
def test_a_client_certificate(run: Run, authority: Authority, tmp_path: Path, shown: bool,
                              newest: ssl.TLSVersion) -> None:
    clients = Authority(tmp_path, "clients")
    pair = clients.client("proxy")
    context = server(authority.server(NAME), client_ca=clients.pem)
    context.maximum_version = newest
    named = model.CertificatePair(str(pair.cert), str(pair.key))

    async def main() -> None:
        place, other = Endpoint(), Endpoint()
        w = world(place, other, ca=authority.pem, retry=("connect",))
        if shown:
            config = model.Service("back", (place.address,), protocol="https",
                                   tls=model.ServiceTls(ca=str(authority.pem), server_name=NAME, client_cert=named))
            read = read_certificate(named.cert, named.key, None)
            w.service.apply(config, build_tls(config, {(named.cert, named.key): read}))
        async with w:
            exchange = Asker(w).ask(POST)
            if shown:
                talk = await tls_accepted(place, context)
                assert talk.tls.getpeercert() != {}
                await talk.serve()
                await w.ends()
                assert exchange.outcome == OK
                return
            first = place if exchange.endpoint == w.members[0].address else other
            with pytest.raises(ssl.SSLError):
                await tls_accepted(first, context)
            good = server(authority.server(NAME))
            await (await tls_accepted(other if first is place else place, good)).serve()
            await w.ends()
            assert exchange.outcome == OK, "it was refused before it was looked at: a POST may go elsewhere"
            assert [reason for _, reason in exchange.attempts] == ["tls_alert"]

    run(main)


@both_loops
@pytest.mark.parametrize(("how", "outcome", "words"), [
    ("plain", "tls_failed", ""), ("close", "tls_failed", "closed the connection within the TLS handshake"),
    ("reset", "tls_failed", "closed the connection within the TLS handshake"),
    ("silent", "connect_timeout", "did not end in time"), ("version", "tls_alert", "protocol version"),
])
@pytest.mark.parametrize("protocol", ["https", "h2"])
def test_a_handshake_that_fails(run: Run, authority: Authority, how: str, outcome: str, words: str, protocol: str
                                ) -> None:
    async def main() -> None:
        place = Endpoint()
        timeouts = model.ServiceTimeouts(connect=0.1 if how == "silent" else 3.0)
        async with world(place, ca=authority.pem, protocol=protocol, service={"timeouts": timeouts}) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            peer = await place.accept()
            if how == "plain":
                await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            elif how == "close":
                peer.close()
            elif how == "reset":
                peer.reset()
            elif how == "version":
                await peer.send(b"\x15\x03\x03\x00\x02\x02\x46")  # alert: protocol_version
            await w.ends()
            assert exchange.outcome == (outcome, Phase.CONNECT) and words in exchange.cause, exchange.cause
            assert asker.told == ["reply 504" if how == "silent" else "reply 502", "finished"]

    run(main)


@both_loops
def test_another_endpoint_is_tried_whatever_the_method(run: Run, authority: Authority) -> None:
    async def main() -> None:
        places = Endpoint(), Endpoint()
        async with world(*places, ca=authority.pem, retry=("connect",)) as w:
            exchange = Asker(w).ask(POST)
            bad, good = (0, 1) if exchange.endpoint == w.members[0].address else (1, 0)
            with pytest.raises((ssl.SSLError, AssertionError)):
                await (await tls_accepted(places[bad], server(authority.server("other.test")))).head()
            request = await (await tls_accepted(places[good], server(authority.server(NAME)))).serve()
            assert request.body == b"abc"
            await w.ends()
            assert exchange.outcome == OK and exchange.attempts == ((w.members[bad].address, "tls_certificate"),)

    run(main)


@both_loops
@pytest.mark.parametrize("polite", [True, False])
def test_a_body_until_close_needs_close_notify(run: Run, authority: Authority, polite: bool) -> None:
    async def main() -> None:
        async with world(Endpoint(), ca=authority.pem) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            talk = await tls_accepted(w.places[0], server(authority.server(NAME)))
            await talk.serve(b"HTTP/1.1 200 OK\r\n\r\nabc")
            if polite:
                await talk.bye()
            else:
                talk.close()
            await w.ends()
            assert asker.told[-1] == ("finished" if polite else "cut")
            assert exchange.outcome == (OK if polite else ("response_cut", Phase.BODY))

    run(main)


@both_loops
def test_a_client_that_leaves_within_the_handshake(run: Run, authority: Authority) -> None:
    async def main() -> None:
        for protocol in ("https", "h2"):
            async with world(Endpoint(), ca=authority.pem, protocol=protocol) as w:
                exchange = Asker(w).ask(GET)
                place = w.places[0]
                assert isinstance(place, Endpoint)
                peer = await place.accept()
                await until(lambda peer=peer: peer.sock.recv(1, socket.MSG_PEEK))
                exchange.client_gone()
                assert exchange.outcome == ("client_gone", Phase.CONNECT)
                try:
                    while await peer.loop.sock_recv(peer.sock, 65536):
                        pass
                except ConnectionResetError:
                    pass

    run(main)


# ---- h2

@both_loops
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_http2_over_tls(run: Run, authority: Authority, piece: int) -> None:
    async def main() -> None:
        async with world(Endpoint(), ca=authority.pem, protocol="h2") as w:
            askers = [Asker(w) for _ in range(10)]
            for asker in askers:
                asker.ask(POST)
            talk = await h2_tls_accepted(w.places[0], server(authority.server(NAME), "h2", "http/1.1"), piece)
            for number in range(10):
                asked = await talk.serve(number, b"%d" % number)
                assert asked[":scheme"] == "https" and asked.body == b"abc"
            await w.ends(10)
            assert sorted(a.body for a in askers) == [b"%d" % n for n in range(10)] and len(w.connections()) == 1

    run(main)


@both_loops
@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
def test_no_http2_agreed(run: Run, authority: Authority, alpn: tuple[str, ...]) -> None:
    async def main() -> None:
        async with world(Endpoint(), ca=authority.pem, protocol="h2") as w:
            exchange = Asker(w).ask(GET)
            talk = None
            try:
                talk = await tls_accepted(w.places[0], server(authority.server(NAME), *alpn))
                await talk.ended()
            except ssl.SSLError:
                pass
            await w.ends()
            assert exchange.outcome.cause in ("tls_failed", "tls_alert") and exchange.outcome.phase is Phase.CONNECT
            assert "HTTP/2" in exchange.cause or "application protocol" in exchange.cause, exchange.cause

    run(main)


# ---- the configuration

@both_loops
def test_other_settings_empty_the_pool_and_the_same_ones_keep_it(run: Run, authority: Authority) -> None:
    async def main() -> None:
        place = Endpoint()
        async with world(place, ca=authority.pem) as w:
            context = server(authority.server(NAME))
            Asker(w).ask(GET)
            talk = await tls_accepted(place, context)
            await talk.serve()
            await w.ends()
            config = w.service.config
            same = build_tls(config, {}, w.service.access.tls)
            assert same is w.service.access.tls
            w.service.apply(config, same)
            again = Asker(w).ask(GET)
            await talk.serve()
            await w.ends(2)
            assert again.reused
            Asker(w).ask(GET)
            await talk.request()
            loose = model.Service("back", (place.address,), protocol="https", tls=model.ServiceTls(verify=False))
            w.service.apply(loose, build_tls(loose, {}, same))
            await talk.send(OK_EMPTY)
            await w.ends(3)
            assert w.members[0].pool.idle == [] and await talk.ended() == b"", "it was verified by other rules"
            exchange = Asker(w).ask(GET)
            await (await tls_accepted(place, context)).serve()
            await w.ends(4)
            assert exchange.outcome == OK

    run(main)


def test_a_changed_file_is_a_changed_setting(authority: Authority, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem.read_bytes())
    config = model.Service("back", protocol="https", tls=model.ServiceTls(ca=str(ca)))
    first = build_tls(config, {})
    assert first is not None and build_tls(config, {}, first) is first
    ca.write_bytes(Authority(tmp_path / "o", "other").pem.read_bytes())
    assert build_tls(config, {}, first) is not first


def test_a_fault_is_told_when_the_configuration_is_built(tmp_path: Path) -> None:
    bad = tmp_path / "ca.pem"
    bad.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    for ca in (bad, tmp_path / "none.pem"):
        service = model.Service("back", protocol="h2", tls=model.ServiceTls(ca=str(ca)))
        with pytest.raises(ConfigError, match="service back"):
            compile_rules(model.Config({}, (), {"back": service}))


def test_what_is_to_be_encrypted_is_never_sent_in_the_clear() -> None:
    with pytest.raises(ValueError, match="in the clear"):
        Access(model.Service("back", protocol="https"))


# ---- PROXY protocol towards endpoints

class Announced(Asker):
    """A client with a connection, so that there is something to tell."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.near, self.far = socket_pair()
        self.peer.sock = self.near

    def close(self) -> None:
        self.near.close()
        self.far.close()


@both_loops
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("secure", [False, True])
def test_each_connection_begins_with_its_clients_address(run: Run, authority: Authority, version: str, secure: bool
                                                         ) -> None:
    async def main() -> None:
        place = Endpoint()
        context = server(authority.server(NAME))
        async with world(place, ca=authority.pem, protocol="https" if secure else "http",
                         service={"send_proxy_protocol": version}) as w:
            for number in range(2):
                asker = Announced(w)
                exchange = asker.ask(GET)
                talk = await accepted(place)
                header = None
                while header is None:
                    await talk.more()
                    header = parse_proxy(bytes(talk.buffer))
                talk.take(header.size)
                assert (header.source, header.destination) == (asker.near.getpeername(), asker.near.getsockname())
                assert header.version == int(version[1])
                if secure:
                    inner = TlsTalk(talk.sock)
                    place.accepted[-1] = inner
                    await inner.shake(context, first=bytes(talk.buffer))
                    talk = inner
                await talk.serve()
                await w.ends(number + 1)
                assert exchange.outcome == OK and not exchange.reused and w.members[0].pool.idle == []
                await talk.ended()
                asker.close()

    run(main)
