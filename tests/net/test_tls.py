"""The TLS transport against OpenSSL itself, over real sockets: handshakes, data under all splits, ends, refusals."""
from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from e2e.certs import Authority
from edgeproxy.codec.clienthello import UNRECOGNIZED_NAME, ClientHello
from edgeproxy.net.poller import Poller
from edgeproxy.net.tls import Handshake, TlsTransport
from edgeproxy.net.transport import Receiver
from net.test_transport import Recorder, connected

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
NAME = "site.test"


class Waiting(Handshake):
    """A handshake that gives its transport to a recorder; what happened is in `events`."""

    def __init__(self, recorder: Recorder, context: ssl.SSLContext | int) -> None:
        self.recorder = recorder
        self.context = context
        self.asked: ClientHello | None = None

    def hello(self, hello: ClientHello) -> ssl.SSLContext | int:
        self.asked = hello
        return self.context

    def secured(self, transport: TlsTransport) -> Receiver:
        self.recorder.note("secured")
        return self.recorder

    def refused(self, error: Exception) -> None:
        self.recorder.note(f"refused {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.recorder.connection_lost(exc)


class Peer:
    """A client of OpenSSL's on the far socket; what it sends goes out in pieces of `piece` bytes."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, piece: int = 1 << 20, name: str = NAME,
                 session: ssl.SSLSession | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.sock = sock
        sock.setblocking(False)
        self.piece = piece
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, False, name, session)

    async def flush(self) -> None:
        data = self.outgoing.read()
        for at in range(0, len(data), self.piece):
            await self.loop.sock_sendall(self.sock, data[at:at + self.piece])

    async def pull(self) -> None:
        async with asyncio.timeout(5):
            data = await self.loop.sock_recv(self.sock, 65536)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    async def shake(self, first: bytes = b"") -> None:
        """`first`: what goes out together with the end of the handshake."""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.flush()
                await self.pull()
        if first:
            self.tls.write(first)
        await self.flush()

    async def send(self, data: bytes) -> None:
        self.tls.write(data)
        await self.flush()

    async def receive(self, size: int) -> bytes:
        """`size` bytes, or fewer at close_notify."""
        got = b""
        while len(got) < size:
            try:
                piece = self.tls.read(65536)
            except ssl.SSLWantReadError:
                await self.flush()
                await self.pull()
                continue
            except ssl.SSLZeroReturnError:
                break
            if not piece:
                break
            got += piece
        return got

    async def bye(self) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        await self.flush()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> ssl.SSLContext:
    pair = authority.server(NAME)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest.fixture(scope="module")
def client(authority: Authority) -> ssl.SSLContext:
    return client_context(authority)


def client_context(authority: Authority, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.pem))
    context.maximum_version = newest
    return context


Scenario = Callable[[TlsTransport, Waiting, Recorder, socket.socket], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture(params=sorted(LOOPS))
def play(request: pytest.FixtureRequest, server: ssl.SSLContext) -> Play:
    def run(scenario: Scenario, keep_open: bool = False, context: ssl.SSLContext | int = server) -> None:
        async def main() -> None:
            with connected() as (near, far):
                recorder = Recorder(keep_open)
                loop = asyncio.get_running_loop()
                poller = Poller(loop)
                waiting = Waiting(recorder, context)
                transport = TlsTransport(loop, poller, near, waiting)
                await scenario(transport, waiting, recorder, far)
                transport.abort()
                await recorder.until(lambda: any(e.startswith("lost") for e in recorder.events))
                poller.close()

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main())

    return run


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_handshake_and_data_both_ways_however_the_bytes_are_cut(play: Play, authority: Authority, piece: int,
                                                                  newest: ssl.TLSVersion) -> None:
    context = client_context(authority, newest)
    context.set_alpn_protocols(["http/1.1"])

    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        peer = Peer(far, context, piece)
        await peer.shake()
        await peer.send(b"ping")
        await recorder.until(lambda: recorder.data == b"ping")
        assert waiting.asked is not None and waiting.asked.sni == transport.sni == NAME
        assert waiting.asked.alpn == ("http/1.1",) and transport.alpn == "http/1.1"
        assert transport.version == newest.name.replace("_", ".")
        transport.write(b"po")
        transport.write(b"ng")
        assert await peer.receive(4) == b"pong"
        assert transport.taken > 4

    play(scenario)


def test_megabytes_cross_with_pauses_on_both_sides_and_nothing_is_lost(play: Play, client: ssl.SSLContext) -> None:
    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        peer = Peer(far, client)
        await peer.shake()
        await recorder.until(lambda: "secured" in recorder.events)
        data = bytes(range(256)) * 8192
        transport.pause_reading()
        sending = asyncio.ensure_future(peer.send(data))
        await asyncio.sleep(0)
        assert not recorder.data
        transport.resume_reading()
        await sending
        await recorder.until(lambda: len(recorder.data) == len(data))
        assert recorder.data == data
        sent = 0
        while "pause" not in recorder.events:
            transport.write(data[:50_000])
            sent += 50_000
        assert await peer.receive(sent) == data[:50_000] * (sent // 50_000)
        await recorder.until(lambda: "resume" in recorder.events)

    play(scenario)


def test_a_ticket_comes_with_the_answer_to_what_was_asked_at_once(play: Play, client: ssl.SSLContext) -> None:
    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        peer = Peer(far, client)
        await peer.shake(b"a question")
        await recorder.until(lambda: recorder.data == b"a question")
        with pytest.raises(BlockingIOError):
            far.recv(1, socket.MSG_PEEK)
        transport.write(b"an answer")
        assert await peer.receive(9) == b"an answer"
        assert peer.tls.session is not None and peer.tls.session.has_ticket

    play(scenario)


def test_a_ticket_comes_by_itself_to_who_asks_nothing(play: Play, client: ssl.SSLContext) -> None:
    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        peer = Peer(far, client)
        await peer.shake()
        await peer.pull()
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.read(1)
        assert peer.tls.session is not None and peer.tls.session.has_ticket

    play(scenario)


def test_close_notify_is_an_end_of_one_direction_only(play: Play, client: ssl.SSLContext) -> None:
    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        peer = Peer(far, client)
        await peer.shake()
        await peer.send(b"the last")
        await peer.bye()
        await recorder.until(lambda: "eof" in recorder.events)
        assert recorder.data == b"the last"
        transport.write(b"an answer")
        transport.close()
        assert await peer.receive(100) == b"an answer"

    play(scenario, keep_open=True)


def test_after_our_own_end_we_still_read(play: Play, client: ssl.SSLContext) -> None:
    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        peer = Peer(far, client)
        await peer.shake()
        await recorder.until(lambda: "secured" in recorder.events)
        transport.write(b"all I have")
        transport.write_eof()
        assert await peer.receive(100) == b"all I have"
        await peer.send(b"but I go on")
        await recorder.until(lambda: recorder.data == b"but I go on")
        await peer.bye()
        await recorder.until(lambda: "eof" in recorder.events)

    play(scenario)


def test_a_fin_without_close_notify_is_a_loss_and_no_end(play: Play, client: ssl.SSLContext) -> None:
    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        peer = Peer(far, client)
        await peer.shake()
        await peer.send(b"half of it")
        far.shutdown(socket.SHUT_WR)
        await recorder.until(lambda: "lost Truncated" in recorder.events)
        assert recorder.data == b"half of it" and "eof" not in recorder.events

    play(scenario)


def test_a_name_that_is_refused_gets_its_alert(play: Play, client: ssl.SSLContext) -> None:
    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            await Peer(far, client).shake()
        await recorder.until(lambda: recorder.events == ["lost"])

    play(scenario, context=UNRECOGNIZED_NAME)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\0"])
def test_what_is_no_hello_is_refused_at_once(play: Play, data: bytes) -> None:
    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        far.sendall(data)
        await recorder.until(lambda: "lost" in recorder.events)
        assert recorder.events[0].startswith("refused ")
        assert far.recv(100) == b"\x15\x03\x03\0\2\2\x32"

    play(scenario)


def test_a_client_that_leaves_within_the_handshake(play: Play, client: ssl.SSLContext) -> None:
    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        peer = Peer(far, client)
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        await peer.flush()
        far.shutdown(socket.SHUT_WR)
        await recorder.until(lambda: "lost" in recorder.events)
        assert recorder.events[0].startswith("refused the connection was closed")

    play(scenario)


def test_a_client_without_the_versions_of_the_server_is_refused(play: Play, authority: Authority,
                                                                server: ssl.SSLContext) -> None:
    pair = authority.server(NAME)
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    strict.load_cert_chain(pair.cert, pair.key)
    strict.minimum_version = ssl.TLSVersion.TLSv1_3

    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await Peer(far, client_context(authority, ssl.TLSVersion.TLSv1_2)).shake()
        await recorder.until(lambda: "lost" in recorder.events)
        assert "UNSUPPORTED_PROTOCOL" in recorder.events[0]

    play(scenario, context=strict)


def test_garbage_instead_of_records_ends_the_connection(play: Play, client: ssl.SSLContext) -> None:
    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        peer = Peer(far, client)
        await peer.shake()
        await peer.send(b"good")
        await recorder.until(lambda: recorder.data == b"good")
        far.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        await recorder.until(lambda: any(e.startswith("lost SSL") for e in recorder.events))
        assert recorder.data == b"good"

    play(scenario)


def test_two_of_ours_talk_resume_and_know_each_other_quiet(play: Play, authority: Authority, server: ssl.SSLContext,
                                                           client: ssl.SSLContext) -> None:
    sessions: list[ssl.SSLSession | None] = [None]

    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        far.setblocking(False)
        other = Recorder()
        theirs = TlsTransport(transport._loop, transport._poller, far, Waiting(other, client))
        theirs.shake(client, NAME, sessions[-1])
        await other.until(lambda: "secured" in other.events)
        theirs.write(b"request")
        await recorder.until(lambda: recorder.data == b"request")
        transport.write(b"response")
        await other.until(lambda: other.data == b"response")
        assert theirs.peek_alive() and transport.peek_alive()
        assert theirs._tls is not None and theirs._tls.session_reused is (sessions[-1] is not None)
        assert ssl.DER_cert_to_PEM_cert(theirs.peer_certificate or b"") in authority.server(NAME).cert.read_text()
        sessions.append(theirs.session)
        transport.write(b"not asked for")
        while theirs.peek_alive() and other.data == b"response":  # either the peek finds it, or the poller was first
            await asyncio.sleep(0)
        transport.close()
        theirs.abort()
        await other.until(lambda: "lost" in other.events)

    play(scenario)
    play(scenario)


def test_an_untrusted_server_is_refused_with_the_reason(play: Play) -> None:
    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        far.setblocking(False)
        other = Recorder()
        context = ssl.create_default_context()
        theirs = TlsTransport(transport._loop, transport._poller, far, Waiting(other, context))
        theirs.shake(context, NAME, None)
        await other.until(lambda: "lost" in other.events)
        assert "CERTIFICATE_VERIFY_FAILED" in other.events[0]

    play(scenario)


