"""A tunnel between two transports: both directions, half-close, reset, idle time, back-pressure."""
from __future__ import annotations

import asyncio

import pytest

from edgeproxy.errors import Outcome, Phase
from edgeproxy.net.poller import Poller
from edgeproxy.net.transport import Receiver, SocketTransport
from edgeproxy.session.relay import Tunnel
from fakes import Talk, socket_pair
from net.rig import Run, both_loops, until


class Pipe:
    """A tunnel with a peer at either end."""

    def __init__(self, idle: float = 0.0, from_client: bytes = b"", from_endpoint: bytes = b"") -> None:
        loop = asyncio.get_running_loop()
        self.poller = Poller(loop)
        client_near, client = socket_pair()
        endpoint_near, endpoint = socket_pair()
        self.client, self.endpoint = Talk(client), Talk(endpoint)
        self.ends: list[tuple[Outcome, int, int]] = []
        nobody = Receiver()
        self.transports = [SocketTransport(loop, self.poller, near, nobody) for near in (client_near, endpoint_near)]
        self.tunnel = Tunnel(loop, self.transports[0], self.transports[1], idle, lambda *end: self.ends.append(end))
        self.tunnel.start(from_client, from_endpoint)

    async def end(self) -> tuple[Outcome, int, int]:
        await until(lambda: self.ends)
        return self.ends[0]

    async def __aenter__(self) -> Pipe:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        self.client.close()
        self.endpoint.close()
        if kind is None:
            await until(lambda: all(t.is_closing() for t in self.transports))
            assert len(self.ends) == 1, "the end is told once"
        self.poller.close()


OK = Outcome("ok", Phase.DONE)


@both_loops
def test_bytes_both_ways_what_was_there_before_first(run: Run) -> None:
    async def main() -> None:
        async with Pipe(from_client=b"early ", from_endpoint=b"welcome ") as pipe:
            await pipe.client.send(b"hello")
            await pipe.endpoint.send(b"there")
            assert await pipe.endpoint.receive(11) == b"early hello"
            assert await pipe.client.receive(13) == b"welcome there"
            pipe.client.close()
            assert await pipe.endpoint.rest() == b""
            pipe.endpoint.close()
            assert await pipe.end() == (OK, 11, 13)

    run(main)


@both_loops
@pytest.mark.parametrize("first", ["client", "endpoint"])
def test_a_half_close_is_passed_on_and_the_other_direction_goes_on(run: Run, first: str) -> None:
    async def main() -> None:
        async with Pipe() as pipe:
            one, other = (pipe.client, pipe.endpoint) if first == "client" else (pipe.endpoint, pipe.client)
            await one.send(b"last words")
            one.finish()
            assert await other.rest() == b"last words"
            for _ in range(3):
                await other.send(b"still here")
                assert await one.receive(10) == b"still here"
            assert pipe.ends == []
            other.finish()
            assert await one.rest() == b""
            assert (await pipe.end())[0] == OK

    run(main)


@both_loops
@pytest.mark.parametrize(("first", "cause"), [("client", "client_gone"), ("endpoint", "response_cut")])
def test_a_reset_is_passed_on_as_a_reset(run: Run, first: str, cause: str) -> None:
    async def main() -> None:
        async with Pipe() as pipe:
            one, other = (pipe.client, pipe.endpoint) if first == "client" else (pipe.endpoint, pipe.client)
            await one.send(b"abc")
            assert await other.receive(3) == b"abc"
            one.reset()
            assert await other.reset_after() == b""
            assert (await pipe.end())[0] == (cause, Phase.TUNNEL)

    run(main)


@both_loops
@pytest.mark.parametrize("first", ["client", "endpoint"])
def test_a_reset_after_a_half_close(run: Run, first: str) -> None:
    """Who only waits for the rest may vanish too: the other side must not send into the void for ever."""
    async def main() -> None:
        async with Pipe() as pipe:
            one, other = (pipe.client, pipe.endpoint) if first == "client" else (pipe.endpoint, pipe.client)
            one.finish()
            assert await other.rest() == b""
            one.reset()
            with pytest.raises(ConnectionError):
                while True:
                    await other.send(b"anybody there?")
                    await asyncio.sleep(0)
            assert (await pipe.end())[0].phase is Phase.TUNNEL

    run(main)


@both_loops
@pytest.mark.parametrize("first", ["client", "endpoint"])
def test_a_reset_after_a_half_close_is_noticed_without_traffic(run: Run, first: str) -> None:
    """Else it keeps the other side's connection for the idle time, an hour."""
    async def main() -> None:
        async with Pipe() as pipe:
            one, other = (pipe.client, pipe.endpoint) if first == "client" else (pipe.endpoint, pipe.client)
            one.finish()
            assert await other.rest() == b""
            one.reset()
            try:
                await until(lambda: pipe.ends, 0.5)
            finally:
                pipe.tunnel.abort(OK)

    run(main)


@both_loops
def test_silence_ends_it_and_traffic_does_not(run: Run) -> None:
    async def main() -> None:
        async with Pipe(idle=0.15) as pipe:
            for _ in range(6):
                await pipe.endpoint.send(b"x")
                await pipe.client.receive(1)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(pipe.client.more(), 0.04)
            assert await pipe.client.reset_after() == b""
            assert await pipe.endpoint.reset_after() == b""
            assert await pipe.end() == (Outcome("idle_timeout", Phase.TUNNEL), 0, 6)

    run(main)


@both_loops
@pytest.mark.parametrize("reader", ["client", "endpoint"])
def test_a_slow_reader_stops_the_other_side_and_nothing_is_lost(run: Run, reader: str) -> None:
    async def main() -> None:
        async with Pipe() as pipe:
            slow, fast = (pipe.client, pipe.endpoint) if reader == "client" else (pipe.endpoint, pipe.client)
            piece = bytes(range(256)) * 4096
            sending = asyncio.create_task(fast.send(piece * 24))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(sending), 0.1)
            await slow.send(b"the other direction flows")
            assert await fast.receive(25) == b"the other direction flows"
            for _ in range(24):
                assert await slow.receive(len(piece)) == piece
            await sending
            fast.finish()
            slow.finish()
            assert (await pipe.end())[0] == OK

    run(main)


@both_loops
def test_what_is_queued_goes_out_before_the_end(run: Run) -> None:
    async def main() -> None:
        async with Pipe() as pipe:
            await pipe.endpoint.send(b"x" * 3_000_000)
            pipe.endpoint.close()
            assert len(await pipe.client.rest()) == 3_000_000
            pipe.client.close()
            assert (await pipe.end())[2] == 3_000_000

    run(main)


@both_loops
def test_abort_resets_both(run: Run) -> None:
    async def main() -> None:
        async with Pipe() as pipe:
            pipe.tunnel.abort(Outcome("draining", Phase.TUNNEL))
            pipe.tunnel.abort(Outcome("draining", Phase.TUNNEL))
            assert await pipe.client.reset_after() == b""
            assert await pipe.endpoint.reset_after() == b""
            assert await pipe.end() == (Outcome("draining", Phase.TUNNEL), 0, 0)

    run(main)
