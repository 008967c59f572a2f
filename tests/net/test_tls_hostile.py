"""Peers that misuse TLS once it is spoken: floods, damage; and that nothing is left of those who went."""
from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import struct
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from e2e.certs import Authority
from edgeproxy.net.poller import Poller
from edgeproxy.net.tls import TlsTransport
from net.test_tls import NAME, Peer, Waiting, client_context
from net.test_transport import Recorder, connected

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
Scenario = Callable[[TlsTransport, Waiting, Recorder, socket.socket], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(params=sorted(LOOPS))
def play(request: pytest.FixtureRequest, authority: Authority) -> Play:
    pair = authority.server(NAME)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            with connected() as (near, far):
                near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # so that the kernel holds little
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                poller = Poller(asyncio.get_running_loop())
                waiting = Waiting(recorder := Recorder(False), context)
                transport = TlsTransport(asyncio.get_running_loop(), poller, near, waiting)
                await scenario(transport, waiting, recorder, far)
                transport.abort()
                await asyncio.sleep(0)
                poller.close()

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(main(), 30))
    return run


async def turn(until: Callable[[], object]) -> None:
    while not until():
        await asyncio.sleep(0)


class Updates:
    """KeyUpdate messages that ask for one back (RFC 8446 §4.6.3), made from a connection's key log: one after the other
    as the first records that a client sends."""

    def __init__(self, keylog: str) -> None:
        told = {line.split()[0]: line.split()[2] for line in keylog.splitlines() if not line.startswith("#")}
        self._secret = bytes.fromhex(told["CLIENT_TRAFFIC_SECRET_0"])
        self._digest = hashes.SHA384() if len(self._secret) == 48 else hashes.SHA256()

    def _derived(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        wanted = struct.pack(">HB", size, len(label)) + label + b"\0"
        return HKDFExpand(self._digest, size, wanted).derive(self._secret)

    def next(self) -> bytes:
        head = b"\x17\x03\x03\0\x16"
        key = AESGCM(self._derived(b"key", 32 if len(self._secret) == 48 else 16))
        record = head + key.encrypt(self._derived(b"iv", 12), b"\x18\0\0\1\1\x16", head)
        self._secret = self._derived(b"traffic upd", len(self._secret))
        return record


def test_answers_that_nobody_takes_are_bounded(play: Play, authority: Authority, tmp_path: Path) -> None:
    keylog = tmp_path / "keys"
    context = client_context(authority)
    context.keylog_filename = str(keylog)

    async def scenario(transport: TlsTransport, _: Waiting, recorder: Recorder, far: socket.socket) -> None:
        await Peer(far, context).shake()
        updates = Updates(keylog.read_text())
        most, loop = 0, asyncio.get_running_loop()
        for _ in range(200):
            try:
                await loop.sock_sendall(far, b"".join(updates.next() for _ in range(100)))
            except OSError:
                break
            await asyncio.sleep(0)
            most = max(most, transport.get_write_buffer_size())
        assert 0 < most < 256 * 1024
        await turn(transport.is_closing)

    play(scenario)


def test_key_updates_of_a_peer_that_reads_are_answered(play: Play, authority: Authority, tmp_path: Path) -> None:
    keylog = tmp_path / "keys"
    context = client_context(authority)
    context.keylog_filename = str(keylog)

    async def scenario(transport: TlsTransport, _: Waiting, recorder: Recorder, far: socket.socket) -> None:
        peer = Peer(far, context)
        await peer.shake()
        await recorder.until(lambda: "secured" in recorder.events)
        updates = Updates(keylog.read_text())
        for number in range(50):
            await asyncio.get_running_loop().sock_sendall(far, b"".join(updates.next() for _ in range(100)))
            transport.write(b"%02d" % number)
            assert await peer.receive(2) == b"%02d" % number
        assert not transport.is_closing()

    play(scenario)


def test_a_damaged_record_is_told_by_an_alert(play: Play, authority: Authority) -> None:
    async def scenario(transport: TlsTransport, _: Waiting, recorder: Recorder, far: socket.socket) -> None:
        peer = Peer(far, client_context(authority))
        await peer.shake()
        await asyncio.get_running_loop().sock_sendall(far, b"\x17\x03\x03\0\x20" + bytes(32))
        with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
            assert await peer.receive(1) == b"an alert"
        await turn(transport.is_closing)

    play(scenario)


@pytest.mark.parametrize("sent", [0, 100, 10_000])
@pytest.mark.parametrize("end", ["abort", "fin"])
def test_nothing_is_left_of_an_unfinished_handshake(play: Play, authority: Authority, sent: int, end: str) -> None:
    """An unfinished handshake costs its client 300 bytes and holds 40 KiB: that must not wait for the garbage
    collector."""
    left: list[weakref.ref[Waiting]] = []

    async def scenario(transport: TlsTransport, waiting: Waiting, recorder: Recorder, far: socket.socket) -> None:
        peer = Peer(far, client_context(authority))
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        far.send(peer.outgoing.read()[:sent])
        if sent == 10_000:
            await turn(lambda: waiting.asked)
        if end == "abort":
            transport.abort()
        else:
            far.shutdown(socket.SHUT_WR)
        await turn(lambda: any(str(event).startswith("lost") for event in recorder.events))
        waiting.transport = transport  # type: ignore[attr-defined]  # as the openings of listeners do
        left.append(weakref.ref(waiting))

    gc.collect()
    gc.disable()
    try:
        play(scenario)
        assert left[0]() is None
    finally:
        gc.enable()
