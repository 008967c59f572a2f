"""What a tls listener relays, and what endpoints are told of the client before its first byte."""
from __future__ import annotations

import socket
from ipaddress import ip_network

import pytest

from codec.hellos import alpn, hello, real, server_name
from edgeproxy.codec.clienthello import ClientHello
from edgeproxy.codec.proxyproto import ProxyHeader, encode_v1, encode_v2
from edgeproxy.config import model
from edgeproxy.errors import OK, ProxyError
from edgeproxy.session.opening import Entrance, Opening
from edgeproxy.session.tcp import TcpSession
from net.rig import Endpoint, Peer, Refusing, Relay, Run, both_loops, leaves_nothing_open

pytestmark = both_loops

HELLO = hello(server_name(b"a.example"), alpn(b"h2"))
CLIENT, SERVER = ("192.0.2.7", 51000), ("198.51.100.1", 443)


class Passthrough(Relay):
    """The relay behind openings, as a tls listener has them; `proxied`: its clients come through a proxy."""

    def __init__(self, *endpoints: Endpoint | Refusing, service: model.Service | None = None, proxied: bool = False) -> None:
        super().__init__(*endpoints, service=service)
        trusted = model.ProxyProtocol((ip_network("0.0.0.0/0"),)) if proxied else None
        self.entrance = Entrance(self.loop, self.poller, model.Listener("front", (), "tls", proxy_protocol=trusted),
                                 lambda _: None, self.limit.release)

    def _connected(self, sock: socket.socket, peer: str) -> None:
        Opening(self.entrance, sock, peer, self._admit).begin()

    def _admit(self, sock: socket.socket, client: str, header: ProxyHeader | None, found: ClientHello | None,
               began: float) -> ProxyError | None:
        self.sessions.append(TcpSession(self.loop, sock, client, self.listener, self.service, self._ended, header, found))
        return None


def sends(version: str) -> model.Service:
    return model.Service("back", eject=model.Eject(failures=0), send_proxy_protocol=version)  # type: ignore[arg-type]


def relayed(run: Run, scenario, *endpoints, **options) -> None:
    async def main() -> None:
        async with Passthrough(*(make() for make in endpoints or (Endpoint,)), **options) as relay:
            await scenario(relay)

    leaves_nothing_open(run, main)


def own(client: Peer) -> tuple[tuple[str, int], tuple[str, int]]:
    return client.sock.getsockname(), client.sock.getpeername()


@pytest.mark.parametrize("data", [HELLO, real("a.example"), HELLO + b"early data" * 5000])
def test_the_hello_and_all_behind_it_arrive_untouched(run: Run, data: bytes) -> None:
    async def scenario(relay: Relay) -> None:
        client = await relay.client(data, finish=True)
        endpoint = await relay.endpoints[0].accept()
        assert await endpoint.ended() == data
        await endpoint.send(b"late")  # the other way is still open
        endpoint.close()
        assert await client.ended() == b"late"
        record = await relay.record()
        assert (record.sni, record.bytes_in, record.bytes_out, record.outcome) == ("a.example", len(data), 4, OK)

    relayed(run, scenario)


def test_no_endpoint_is_dialled_before_the_hello_is_whole(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client = await relay.client(HELLO[:-1])
        other = await relay.client(HELLO)
        endpoint = await relay.endpoints[0].accept()
        assert await endpoint.receive(len(HELLO)) == HELLO
        assert len(relay.sessions) == 1
        await client.send(HELLO[-1:])
        assert await (await relay.endpoints[0].accept()).receive(len(HELLO)) == HELLO
        other.close()

    relayed(run, scenario)


@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_endpoint_is_told_first_whose_connection_it_is(run: Run, version: str, proxied: bool) -> None:
    async def scenario(relay: Relay) -> None:
        client = await relay.client((encode_v2(CLIENT, SERVER) if proxied else b"") + HELLO)
        endpoint = await relay.endpoints[-1].accept()
        pair = (CLIENT, SERVER) if proxied else own(client)
        expected = (encode_v1(*pair) if version == "v1" else encode_v2(*pair, b"h2", "a.example")) + HELLO
        assert await endpoint.receive(len(expected)) == expected
        await endpoint.send(b"!")
        assert await client.receive(1) == b"!"
        client.close()
        endpoint.close()
        record = await relay.record()
        assert record.bytes_in == len(HELLO)  # of the client's, without what the proxy has said
        assert record.client == pair[0][0]
        assert len(record.attempts) == 2

    relayed(run, scenario, Refusing, Refusing, Endpoint, service=sends(version), proxied=proxied)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_it_is_told_though_the_client_says_nothing(run: Run, version: str) -> None:
    """On a tcp listener: many protocols begin with the server."""
    async def main() -> None:
        async with Relay(Endpoint(), service=sends(version)) as relay:
            client, endpoint = await relay.pair()
            expected = (encode_v1 if version == "v1" else encode_v2)(*own(client))
            assert await endpoint.receive(len(expected)) == expected
            await endpoint.send(b"220 ready\r\n")
            assert await client.receive(11) == b"220 ready\r\n"
            client.close()
            endpoint.close()
            assert (await relay.record()).bytes_in == 0

    leaves_nothing_open(run, main)


def test_a_client_that_has_gone_by_then(run: Run) -> None:
    async def main() -> None:
        async with Relay(Endpoint(), service=sends("v1")) as relay:
            client = await relay.client()
            client.reset()
            assert (await relay.record()).outcome.cause == "client_gone"

    leaves_nothing_open(run, main)
