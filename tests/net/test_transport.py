"""The socket transport over real socket pairs: order, back-pressure, half-close, reset, faults."""
from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import uvloop

from edgeproxy.net.poller import Poller
from edgeproxy.net.transport import HIGH_WATER, Receiver, SocketTransport

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Recorder(Receiver):
    """Keeps what the transport tells; `news` is set at each event."""

    def __init__(self, keep_open: bool = False) -> None:
        self.events: list[str] = []
        self.data = b""
        self.keep_open = keep_open
        self.news = asyncio.Event()
        self.fault: Exception | None = None

    def note(self, event: str) -> None:
        self.events.append(event)
        self.news.set()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.news.set()
        if self.fault is not None:
            raise self.fault

    def eof_received(self) -> bool:
        self.note("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.note(f"lost {type(exc).__name__}" if exc else "lost")

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self.news.clear()
                await self.news.wait()


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.setblocking(False)
    far.settimeout(5)
    with near, far:
        yield near, far


Scenario = Callable[[SocketTransport, Recorder, socket.socket], Awaitable[None]]


@pytest.fixture(params=sorted(LOOPS))
def play(request: pytest.FixtureRequest) -> Callable[..., None]:
    def run(scenario: Scenario, keep_open: bool = False) -> None:
        async def main() -> None:
            with connected() as (near, far):
                recorder = Recorder(keep_open)
                loop = asyncio.get_running_loop()
                poller = Poller(loop)
                transport = SocketTransport(loop, poller, near, recorder)
                await scenario(transport, recorder, far)
                transport.abort()
                await recorder.until(lambda: any(e.startswith("lost") for e in recorder.events))
                poller.close()

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main())

    return run


async def receive(far: socket.socket, size: int) -> bytes:
    """`size` bytes, or fewer at EOF."""
    loop = asyncio.get_running_loop()
    far.setblocking(False)
    data = b""
    while len(data) < size:
        piece = await asyncio.wait_for(loop.sock_recv(far, 65536), 5)
        if not piece:
            break
        data += piece
    return data


def test_bytes_arrive_in_order_both_ways(play: Callable[..., None]) -> None:
    async def scenario(transport: SocketTransport, recorder: Recorder, far: socket.socket) -> None:
        far.sendall(b"ping")
        await recorder.until(lambda: recorder.data == b"ping")
        transport.write(b"po")
        transport.write(b"ng")
        assert await receive(far, 4) == b"pong"

    play(scenario)


def test_a_reader_that_stops_pauses_the_writer_and_nothing_is_lost(play: Callable[..., None]) -> None:
    async def scenario(transport: SocketTransport, recorder: Recorder, far: socket.socket) -> None:
        piece = bytes(range(256)) * 256
        sent = 0
        while "pause" not in recorder.events:
            transport.write(piece)
            sent += len(piece)
        assert HIGH_WATER < transport.get_write_buffer_size() <= HIGH_WATER + len(piece)
        data = await receive(far, sent)
        assert data == piece * (sent // len(piece))
        await recorder.until(lambda: "resume" in recorder.events)
        assert transport.get_write_buffer_size() == 0 and transport.taken == sent

    play(scenario)


def test_close_sends_what_is_queued_and_abort_does_not(play: Callable[..., None]) -> None:
    async def scenario(transport: SocketTransport, recorder: Recorder, far: socket.socket) -> None:
        piece = b"x" * 65536
        sent = 0
        while "pause" not in recorder.events:
            transport.write(piece)
            sent += len(piece)
        transport.close()
        transport.write(b"too late")
        assert len(await receive(far, sent + 100)) == sent
        await recorder.until(lambda: recorder.events[-1] == "lost")

    play(scenario)


def test_half_close_leaves_the_other_direction_open(play: Callable[..., None]) -> None:
    async def scenario(transport: SocketTransport, recorder: Recorder, far: socket.socket) -> None:
        far.shutdown(socket.SHUT_WR)
        await recorder.until(lambda: recorder.events == ["eof"])
        transport.write(b"still here")
        transport.write_eof()
        assert await receive(far, 100) == b"still here"
        assert recorder.events == ["eof"]

    play(scenario, keep_open=True)


def test_write_eof_waits_for_the_queue(play: Callable[..., None]) -> None:
    async def scenario(transport: SocketTransport, recorder: Recorder, far: socket.socket) -> None:
        piece = b"y" * 65536
        sent = 0
        while "pause" not in recorder.events:
            transport.write(piece)
            sent += len(piece)
        transport.write_eof()
        assert len(await receive(far, sent + 1)) == sent
        far.setblocking(True)
        far.sendall(b"answer")
        await recorder.until(lambda: recorder.data == b"answer")

    play(scenario, keep_open=True)


def test_reset_is_seen_as_a_reset(play: Callable[..., None]) -> None:
    async def scenario(transport: SocketTransport, recorder: Recorder, far: socket.socket) -> None:
        transport.reset()
        await recorder.until(lambda: recorder.events == ["lost"])
        with pytest.raises(ConnectionResetError):
            await receive(far, 1)

    play(scenario)


def test_a_peers_reset_is_told_once_with_its_error(play: Callable[..., None]) -> None:
    async def scenario(transport: SocketTransport, recorder: Recorder, far: socket.socket) -> None:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        await recorder.until(lambda: bool(recorder.events))
        transport.write(b"nobody listens")
        transport.close()
        assert recorder.events == ["lost ConnectionResetError"]

    play(scenario)


def test_paused_reading_leaves_bytes_in_the_kernel(play: Callable[..., None]) -> None:
    async def scenario(transport: SocketTransport, recorder: Recorder, far: socket.socket) -> None:
        transport.pause_reading()
        far.sendall(b"later")
        assert transport.peek_alive() is False or recorder.data == b""
        assert not transport.is_reading()
        transport.resume_reading()
        await recorder.until(lambda: recorder.data == b"later")

    play(scenario)


def test_a_fault_of_the_protocol_ends_this_connection_and_is_logged(
        play: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(transport: SocketTransport, recorder: Recorder, far: socket.socket) -> None:
        recorder.fault = ZeroDivisionError("on purpose")
        far.sendall(b"boom")
        await recorder.until(lambda: recorder.events == ["lost ZeroDivisionError"])

    with caplog.at_level(logging.ERROR):
        play(scenario)
    assert len(caplog.records) == 1 and "please report" in caplog.text


def test_peek_alive_sees_eof_and_bytes(play: Callable[..., None]) -> None:
    async def scenario(transport: SocketTransport, recorder: Recorder, far: socket.socket) -> None:
        assert transport.peek_alive()
        transport.pause_reading()
        far.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(5):
            while transport.peek_alive():  # the FIN is on its way through the loopback
                await asyncio.sleep(0)

    play(scenario, keep_open=True)
