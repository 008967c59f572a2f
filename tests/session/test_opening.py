"""Openings: what is taken, what is only looked at, and every way not to get in."""
from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_network
from time import monotonic

import pytest

from codec.hellos import hello, message, real, records, server_name
from edgeproxy.codec.clienthello import ClientHello
from edgeproxy.codec.proxyproto import LOCAL_V1, LOCAL_V2, ProxyHeader, encode_v1, encode_v2
from edgeproxy.config import model
from edgeproxy.errors import Kind, Outcome, Phase, ProxyError
from edgeproxy.net.poller import Poller
from edgeproxy.session.acceptor import Acceptor, ConnectionLimit
from edgeproxy.session.opening import Entrance, Opening, announcement
from edgeproxy.session.record import ConnectionRecord
from net.rig import Peer, Run, both_loops, leaves_nothing_open, soon, until

HELLO = hello(server_name(b"a.example"))
CLIENT, SERVER = ("192.0.2.7", 51000), ("198.51.100.1", 443)
LOOPBACK = model.ProxyProtocol((ip_network("127.0.0.0/8"),))
OTHERS = model.ProxyProtocol((ip_network("10.0.0.0/8"), ip_network("::1/128")))


class Admitted:
    def __init__(self, sock: socket.socket, client: str, header: ProxyHeader | None, found: ClientHello | None) -> None:
        self.sock = sock
        self.client = client
        self.header = header
        self.sni = None if found is None else found.sni


class Door:
    """A listening socket with openings behind it; `answer` is what admits."""

    def __init__(self, protocol: str = "tls", proxy: model.ProxyProtocol | None = None, time: float = 10.0,
                 answer: Callable[[Admitted], ProxyError | None] = lambda _: None) -> None:
        loop = asyncio.get_running_loop()
        self.poller = Poller(loop)
        self.limit = ConnectionLimit(100)
        self.records: list[ConnectionRecord] = []
        self.admitted: list[Admitted] = []
        self.clients: list[Peer] = []
        self.answer = answer
        self.entrance = Entrance(loop, self.poller, self.config(protocol, proxy, time), self.records.append,
                                 self.limit.release)
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.sock.setblocking(False)
        self.acceptor = Acceptor(loop, self.sock, self._connected, self.limit, print)
        self.acceptor.start()

    @staticmethod
    def config(protocol: str = "tls", proxy: model.ProxyProtocol | None = None, time: float = 10.0) -> model.Listener:
        return model.Listener("door", (), protocol, proxy_protocol=proxy,  # type: ignore[arg-type]
                              timeouts=model.ListenerTimeouts(handshake=time))

    def _connected(self, sock: socket.socket, peer: str) -> None:
        Opening(self.entrance, sock, peer, self._admit).begin()

    def _admit(self, sock: socket.socket, client: str, header: ProxyHeader | None, found: ClientHello | None,
               began: float) -> ProxyError | None:
        assert 0.0 <= monotonic() - began < 60.0, "what comes next goes on with the same time"
        refusal = self.answer(Admitted(sock, client, header, found))
        if refusal is None:
            self.admitted.append(Admitted(sock, client, header, found))
        return refusal

    async def client(self, first: bytes = b"") -> Peer:
        sock = socket.create_connection(self.sock.getsockname())
        peer = Peer(sock)
        self.clients.append(peer)
        if first:
            await peer.send(first)
        return peer

    async def inside(self) -> Admitted:
        await until(lambda: self.admitted)
        return self.admitted[0]

    async def refused(self) -> tuple[Outcome, str]:
        """How the one connection ended; its place is free again."""
        await until(lambda: self.records)
        assert self.limit.taken == 0 and not self.entrance.openings
        record = self.records[0]
        assert (record.listener, record.service, record.endpoint) == ("door", "", "")
        assert record.started <= record.ended
        return record.outcome, record.cause

    async def __aenter__(self) -> Door:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.acceptor.close()
        for opening in list(self.entrance.openings):
            opening.cut()
        for one in self.admitted:
            one.sock.close()
            self.limit.release()
        for client in self.clients:
            client.close()
        assert self.limit.taken == 0 and len(self.records) <= len(self.clients)
        self.poller.close()


def at_door(run: Run, scenario, **options) -> None:
    async def main() -> None:
        async with Door(**options) as door:
            await scenario(door)

    leaves_nothing_open(run, main)


def waits(door: Door) -> bool:
    return len(door.entrance.openings) == 1


async def bytewise(door: Door, data: bytes) -> Peer:
    """Each byte is looked at before the next one is sent."""
    client = await door.client()
    await until(lambda: waits(door))
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(len(data)):
        assert not door.admitted and not door.records
        await client.send(data[at:at + 1])
        for _ in range(3):
            await asyncio.sleep(0)
    return client


@both_loops
class TestHello:
    @pytest.mark.parametrize("data", [HELLO, real("a.example"), records(message(server_name(b"A.example.")), 1, 60)])
    def test_it_is_looked_at_and_stays(self, run: Run, data: bytes) -> None:
        async def scenario(door: Door) -> None:
            await door.client(data)
            inside = await door.inside()
            assert (inside.client, inside.header, inside.sni) == ("127.0.0.1", None, "a.example")
            assert inside.sock.recv(65536) == data

        at_door(run, scenario)

    def test_byte_by_byte(self, run: Run) -> None:
        async def scenario(door: Door) -> None:
            await bytewise(door, HELLO)
            inside = await door.inside()
            assert inside.sni == "a.example" and inside.sock.recv(65536) == HELLO

        at_door(run, scenario)

    def test_more_than_a_small_buffer(self, run: Run) -> None:
        data = hello(server_name(b"a.example"), b"\0\x15" + (16000).to_bytes(2, "big") + bytes(16000))

        async def scenario(door: Door) -> None:
            client = await door.client(data[:9000])
            await until(lambda: waits(door))
            await client.send(data[9000:])
            assert (await door.inside()).sock.recv(65536) == data

        at_door(run, scenario)

    def test_who_says_all_and_closes_is_let_in(self, run: Run) -> None:
        async def scenario(door: Door) -> None:
            client = await door.client(HELLO)
            client.finish()
            await door.inside()

        at_door(run, scenario)

    def test_the_next_owner_watches_the_socket_anew(self, run: Run) -> None:
        told: list[int] = []

        async def scenario(door: Door) -> None:
            client = await door.client()
            await until(lambda: waits(door))
            await client.send(HELLO)
            inside = await door.inside()
            door.poller.watch(inside.sock.fileno(), told.append)
            await until(lambda: told)
            door.poller.forget(inside.sock.fileno())

        at_door(run, scenario)

    @pytest.mark.parametrize(("data", "answer"), [
        (b"GET / HTTP/1.1\r\n\r\n", b""), (b"\0" * 20, b""), (encode_v1(CLIENT, SERVER) + HELLO, b""),
        (b"\x16\x03\x01\x00\x00", b"\x15\x03\x03\0\x02\x02\x32"),
        (HELLO[:-1] + b"\0", b"\x15\x03\x03\0\x02\x02\x32")])
    def test_garbage(self, run: Run, data: bytes, answer: bytes) -> None:
        async def scenario(door: Door) -> None:
            client = await door.client()
            await until(lambda: waits(door))
            await client.send(data)
            outcome, why = await door.refused()
            assert outcome == Outcome("bad_client_hello", Phase.HANDSHAKE) and why
            if answer:
                assert await client.ended() == answer

        at_door(run, scenario)

    def test_garbage_that_was_there_before_it_was_accepted(self, run: Run) -> None:
        async def scenario(door: Door) -> None:
            await door.client(b"x")
            assert (await door.refused())[0].cause == "bad_client_hello"

        at_door(run, scenario)

    @pytest.mark.parametrize("data", [b"", HELLO[:1], HELLO[:-1]])
    def test_silence(self, run: Run, data: bytes) -> None:
        async def scenario(door: Door) -> None:
            client = await door.client(data)
            outcome, why = await door.refused()
            assert (outcome, why) == (Outcome("handshake_timeout", Phase.HANDSHAKE), "no whole ClientHello in time")
            with pytest.raises(ConnectionResetError) if data else _nothing():
                assert await client.ended() == b""

        at_door(run, scenario, time=0.02)

    @pytest.mark.parametrize("data", [b"", HELLO[:1], HELLO[:-1]])
    @pytest.mark.parametrize("way", [Peer.finish, Peer.close, Peer.reset])
    def test_clients_that_leave(self, run: Run, data: bytes, way: Callable[[Peer], None]) -> None:
        async def scenario(door: Door) -> None:
            client = await door.client()
            await until(lambda: waits(door))
            if data:
                await client.send(data)
            way(client)
            assert (await door.refused())[0] == Outcome("client_gone", Phase.HANDSHAKE)

        at_door(run, scenario)

    def test_a_name_that_nobody_serves(self, run: Run) -> None:
        async def scenario(door: Door) -> None:
            client = await door.client(HELLO)
            assert await client.ended() == b"\x15\x03\x03\0\x02\x02\x70"  # an alert and FIN, no RST
            assert await door.refused() == (Outcome("no_route", Phase.HANDSHAKE), "unknown here")
            assert door.records[0].sni == "a.example"

        at_door(run, scenario, answer=lambda _: ProxyError(Kind.NO_ROUTE, "unknown here"))

    def test_a_fault_while_it_is_let_in(self, run: Run, caplog: pytest.LogCaptureFixture) -> None:
        def fails(_: Admitted) -> None:
            raise OSError("no descriptor left")

        async def scenario(door: Door) -> None:
            await door.client(HELLO)
            assert (await door.refused())[0] == Outcome("internal", Phase.HANDSHAKE)
            assert "no descriptor left" in caplog.text

        at_door(run, scenario, answer=fails)

    def test_the_end_of_the_program(self, run: Run) -> None:
        async def scenario(door: Door) -> None:
            client = await door.client()
            await until(lambda: waits(door))
            for opening in list(door.entrance.openings):
                opening.cut()
            assert (await door.refused())[0] == Outcome("draining", Phase.HANDSHAKE)
            assert await client.ended() == b""

        at_door(run, scenario)


@both_loops
class TestHeader:
    @pytest.mark.parametrize("header", [encode_v1(CLIENT, SERVER), encode_v2(CLIENT, SERVER), encode_v2(CLIENT, SERVER, b"h2")])
    @pytest.mark.parametrize("protocol", ["tcp", "http", "tls"])
    def test_exactly_its_bytes_are_taken(self, run: Run, header: bytes, protocol: str) -> None:
        async def scenario(door: Door) -> None:
            await door.client(header + HELLO)
            inside = await door.inside()
            assert inside.header is not None
            assert (inside.client, inside.header.source, inside.header.destination) == (CLIENT[0], CLIENT, SERVER)
            assert inside.sni == ("a.example" if protocol == "tls" else None)
            assert inside.sock.recv(65536) == HELLO

        at_door(run, scenario, protocol=protocol, proxy=LOOPBACK)

    @pytest.mark.parametrize("header", [encode_v1(CLIENT, SERVER), encode_v2(CLIENT, SERVER)])
    def test_byte_by_byte(self, run: Run, header: bytes) -> None:
        async def scenario(door: Door) -> None:
            client = await bytewise(door, header)
            await soon(asyncio.sleep(0))
            assert not door.admitted
            await client.send(HELLO)
            inside = await door.inside()
            assert inside.client == CLIENT[0] and inside.sock.recv(65536) == HELLO

        at_door(run, scenario, proxy=LOOPBACK)

    def test_it_is_enough_where_no_hello_is_due(self, run: Run) -> None:
        async def scenario(door: Door) -> None:
            await bytewise(door, encode_v2(CLIENT, SERVER))
            inside = await door.inside()
            with pytest.raises(BlockingIOError):
                inside.sock.recv(1)

        at_door(run, scenario, protocol="tcp", proxy=LOOPBACK)

    @pytest.mark.parametrize("header", [LOCAL_V1, LOCAL_V2])
    def test_a_proxy_that_speaks_for_itself(self, run: Run, header: bytes) -> None:
        async def scenario(door: Door) -> None:
            await door.client(header + b"x")
            inside = await door.inside()
            assert inside.client == "127.0.0.1" and inside.sock.recv(10) == b"x"

        at_door(run, scenario, protocol="tcp", proxy=LOOPBACK)

    @pytest.mark.parametrize("data", [HELLO, b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.2.3.4\r\n", b"\r\n\r\n\0\r\nQUIT\n\x11"])
    def test_a_listed_peer_must_send_one(self, run: Run, data: bytes) -> None:
        async def scenario(door: Door) -> None:
            await door.client(data)
            outcome, why = await door.refused()
            assert outcome == Outcome("bad_proxy_header", Phase.HANDSHAKE) and why
            assert door.records[0].client == "127.0.0.1"

        at_door(run, scenario, protocol="http", proxy=LOOPBACK)

    def test_anybody_else_is_a_client_like_all(self, run: Run) -> None:
        async def scenario(door: Door) -> None:
            assert not door.entrance.expects_header("127.0.0.1")
            await door.client(encode_v1(CLIENT, SERVER))
            inside = await door.inside()
            assert inside.client == "127.0.0.1" and inside.sock.recv(200) == encode_v1(CLIENT, SERVER)

        at_door(run, scenario, protocol="tcp", proxy=OTHERS)

    def test_silence_and_leaving(self, run: Run) -> None:
        async def scenario(door: Door) -> None:
            await door.client(b"PROXY ")
            assert await door.refused() == (Outcome("handshake_timeout", Phase.HANDSHAKE), "no whole PROXY header in time")
            door.records.clear()
            (await door.client(b"PROXY ")).finish()
            assert (await door.refused())[0].cause == "client_gone"

        at_door(run, scenario, protocol="http", proxy=LOOPBACK, time=0.05)

    def test_the_time_is_for_both_together(self, run: Run) -> None:
        async def scenario(door: Door) -> None:
            await door.client(encode_v1(CLIENT, SERVER))
            outcome, why = await door.refused()
            assert (outcome.cause, why) == ("handshake_timeout", "no whole ClientHello in time")
            record = door.records[0]
            assert record.client == CLIENT[0] and 0.03 <= record.ended - record.started < 5.0

        at_door(run, scenario, proxy=LOOPBACK, time=0.03)

    def test_a_reload_changes_who_is_listed(self, run: Run) -> None:
        async def scenario(door: Door) -> None:
            for proxy, listed in ((LOOPBACK, True), (OTHERS, False), (None, False)):
                door.entrance.apply(door.config("tcp", proxy))
                assert door.entrance.expects_header("127.0.0.1") is listed
            door.entrance.apply(door.config("tcp", OTHERS))
            assert door.entrance.expects_header("::1") and door.entrance.expects_header("10.1.2.3")
            assert not door.entrance.expects_header("unix:")

        at_door(run, scenario)


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


# ---- what endpoints are told

def test_an_announcement_names_the_original_client() -> None:
    a, b = socket.socketpair()
    found = ClientHello(0x0304)
    found.sni, found.alpn = "a.example", ("h2",)
    header = ProxyHeader(1, 10, CLIENT, SERVER)
    with a, b:
        assert announcement("v1", a, header, found) == encode_v1(CLIENT, SERVER)
        assert announcement("v2", a, header, found) == encode_v2(CLIENT, SERVER, b"h2", "a.example")
        found.alpn = ("h2", "http/1.1")  # which of them it will be the endpoint decides
        assert announcement("v2", a, header, found) == encode_v2(CLIENT, SERVER, b"", "a.example")
        assert announcement("v2", a, None, None) == encode_v2(("unix:", 0), ("unix:", 0))
        assert announcement("v1", a, ProxyHeader(2, 16), None) == LOCAL_V1


def test_an_announcement_of_a_direct_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        sock, address = server.accept()
        with sock:
            assert announcement("v1", sock, None, None) == encode_v1(address, server.getsockname())
            assert announcement("v2", sock, ProxyHeader(2, 16), None) == encode_v2(address, server.getsockname())
    with socket.socket() as never:
        assert announcement("v1", never, None, None) == LOCAL_V1
    assert client.fileno() == -1
