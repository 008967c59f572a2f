"""The relay of a tcp listener: both directions, every way to end, bounded memory."""
from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from pathlib import Path

import pytest

from edgeproxy.config import model
from edgeproxy.errors import OK, Outcome, Phase
from edgeproxy.session import splice, tcp
from net.rig import Endpoint, Peer, Relay, Run, both_loops, leaves_nothing_open, until

pytestmark = both_loops


def relayed(run: Run, scenario, **options) -> None:
    async def main() -> None:
        async with Relay(Endpoint(), **options) as relay:
            await scenario(relay)

    leaves_nothing_open(run, main)


# ---- good ends

def test_bytes_go_both_ways_and_are_recorded(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        await client.send(b"question")
        assert await endpoint.receive(8) == b"question"
        await endpoint.send(b"answer!")
        assert await client.receive(7) == b"answer!"
        client.close()
        assert await endpoint.ended() == b""
        endpoint.close()
        record = await relay.record()
        assert (record.client, record.listener, record.service) == ("127.0.0.1", "front", "back")
        assert record.endpoint == relay.endpoints[0].address.address
        assert (record.bytes_in, record.bytes_out, record.attempts, record.outcome) == (8, 7, [], OK)
        assert 0.0 <= record.connect_s <= record.duration
        assert record.queue_s == -1.0

    relayed(run, scenario)


def test_client_may_finish_first_and_still_get_its_answer(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        await client.send(b"all of it")
        client.finish()
        assert await endpoint.ended() == b"all of it"
        await endpoint.send(b"late")
        assert await client.receive(4) == b"late"
        await endpoint.send(b"r")
        endpoint.close()
        assert await client.ended() == b"r"
        assert (await relay.record()).outcome is OK

    relayed(run, scenario)


def test_endpoint_may_finish_first_and_still_be_sent_to(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        await endpoint.send(b"greeting")
        endpoint.finish()
        assert await client.ended() == b"greeting"
        await client.send(b"one")
        assert await endpoint.receive(3) == b"one"
        await client.send(b"two")
        client.close()
        assert await endpoint.ended() == b"two"
        assert (await relay.record()).outcome is OK

    relayed(run, scenario)


@pytest.mark.parametrize("size", [0, 1, 3000, tcp.FIRST, tcp.FIRST + 1, 300_000])
def test_what_was_sent_before_the_endpoint_was_there_arrives_with_its_end(run: Run, size: int) -> None:
    data = random.Random(size).randbytes(size)

    async def scenario(relay: Relay) -> None:
        sending = asyncio.ensure_future(relay.client(data, finish=True))
        endpoint = await relay.endpoints[0].accept()
        assert await endpoint.ended() == data
        client = await sending
        await endpoint.send(b"ok")
        endpoint.finish()
        assert await client.ended() == b"ok"
        assert (await relay.record()).bytes_in == size

    relayed(run, scenario)


def test_an_endpoint_that_speaks_first_is_heard(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        await endpoint.send(b"220 ready\r\n")
        assert await client.receive(11) == b"220 ready\r\n"
        client.close()
        endpoint.close()
        assert (await relay.record()).outcome is OK

    relayed(run, scenario)


def test_urgent_bytes_do_not_stop_the_rest(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        for _ in range(20):
            client.sock.send(b"before")
            client.sock.send(b"!", socket.MSG_OOB)
            client.sock.send(b"after")
        client.finish()
        # Not SO_OOBINLINE: only the last urgent byte is out of band, an earlier one that was overtaken is in the stream.
        assert (await endpoint.ended()).replace(b"!", b"") == b"beforeafter" * 20
        endpoint.close()
        assert (await relay.record()).outcome is OK

    relayed(run, scenario)


def test_relay_between_families(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Relay(Endpoint(path=str(tmp_path / "endpoint"))) as relay:
            client, endpoint = await relay.pair()
            await client.send(b"x" * 100_000)
            client.finish()
            assert await endpoint.ended() == b"x" * 100_000
            await endpoint.send(b"y" * 500_000)
            endpoint.finish()
            endpoint.close()  # a unix socket tells this as a hang-up, right behind bytes that are still to be read
            assert await client.ended() == b"y" * 500_000
            assert (await relay.record()).outcome is OK

    run(main)


def test_unix_endpoint_that_finishes_and_goes_takes_no_bytes_along(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Relay(Endpoint(path=str(tmp_path / "endpoint"))) as relay:
            client, endpoint = await relay.pair()
            await endpoint.send(b"bye")
            endpoint.finish()
            endpoint.close()
            assert await client.ended() == b"bye"  # and no RST: the client's side is still open

    run(main)


# ---- resets

def test_reset_by_the_client_reaches_the_endpoint(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        await client.send(b"half a")
        assert await endpoint.receive(6) == b"half a"
        client.reset()
        assert await endpoint.was_reset() == b""
        record = await relay.record()
        assert record.outcome == Outcome("client_gone", Phase.TUNNEL)
        assert relay.service.view.members[0].failures == []

    relayed(run, scenario)


def test_reset_by_the_endpoint_reaches_the_client_and_counts_if_nothing_had_come(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        await client.send(b"?")
        assert await endpoint.receive(1) == b"?"
        endpoint.reset()
        assert await client.was_reset() == b""
        record = await relay.record()
        assert record.outcome == Outcome("reset", Phase.TUNNEL)
        assert record.attempts == []
        assert len(relay.service.view.members[0].failures) == 1

    relayed(run, scenario)


@pytest.mark.parametrize("size", [10, 60_000])
def test_bytes_before_a_reset_arrive_before_it(run: Run, size: int) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        await endpoint.send(b"x" * size)
        endpoint.reset()
        assert await client.was_reset() == b"x" * size
        assert (await relay.record()).bytes_out == size
        assert relay.service.view.members[0].failures == []
        client, endpoint = await relay.pair()
        await client.send(b"y" * size)
        client.reset()
        assert await endpoint.was_reset() == b"y" * size
        assert (await relay.record(2)).bytes_in == size

    relayed(run, scenario)


def test_reset_is_passed_on_after_a_fin_of_the_same_side(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        client.finish()
        assert await endpoint.ended() == b""
        client.reset()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                await endpoint.send(b"x")
                await asyncio.sleep(0)
        assert (await relay.record()).outcome == Outcome("client_gone", Phase.TUNNEL)
        client, endpoint = await relay.pair()
        endpoint.finish()
        assert await client.ended() == b""
        endpoint.reset()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                await client.send(b"x")
                await asyncio.sleep(0)
        assert (await relay.record(2)).outcome == Outcome("reset", Phase.TUNNEL)

    relayed(run, scenario)


def test_writing_to_a_side_that_is_gone_resets_the_writer(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        client.close()  # no RST yet: the kernel answers with one when something comes
        assert await endpoint.ended() == b""
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                await endpoint.send(b"x" * 1000)
                await asyncio.sleep(0)
        assert (await relay.record()).outcome == Outcome("client_gone", Phase.TUNNEL)

    relayed(run, scenario)


def test_reset_behind_bytes_that_wait_for_a_slow_reader(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        session = relay.sessions[0]
        await until(lambda: session._upload is not None)
        upload = session._upload
        assert upload is not None
        sent = await fill(client, lambda: upload.state is splice.BLOCKED)
        passed_on = upload.total
        client.reset()
        got = await endpoint.was_reset()
        # What this process held was sent before the RST; what is still in kernel buffers a RST may discard.
        assert bytes(sent).startswith(got)
        assert (await relay.record()).bytes_in >= passed_on
        assert relay.records[0].outcome == Outcome("client_gone", Phase.TUNNEL)

    relayed(run, scenario)


def test_abort_resets_both(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        await endpoint.send(b"x")
        assert await client.receive(1) == b"x"
        relay.sessions[0].abort()
        relay.sessions[0].abort()
        assert await client.was_reset() == await endpoint.was_reset() == b""
        assert (await relay.record()).outcome == Outcome("draining", Phase.TUNNEL)

    relayed(run, scenario)


# ---- a slow reader

async def fill(sender: Peer, full) -> bytearray:
    """Send until nothing is taken any more: `full` says that the relay holds back, then the kernel's queues fill."""
    pattern = random.Random(5).randbytes(1 << 16)
    sent = bytearray()
    idle = 0
    while idle < 50:
        try:
            at = len(sent) % len(pattern)
            size = sender.sock.send(pattern[at:])
            sent += pattern[at:at + size]
            idle = 0
        except BlockingIOError:
            idle += 1 if full() else 0
        await asyncio.sleep(0)
    return sent


@pytest.mark.parametrize("pipes", [splice.MOST, 0], ids=["splice", "copy"])
@pytest.mark.parametrize("upwards", [True, False], ids=["up", "down"])
def test_memory_is_bounded_and_nothing_is_lost(run: Run, pipes: int, upwards: bool, monkeypatch) -> None:
    monkeypatch.setattr(splice, "PIPES", splice.Pipes(pipes))
    monkeypatch.setattr(splice, "_LITTLE", splice._VIEW[:1])
    monkeypatch.setattr(splice, "CALM", 0)

    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        session = relay.sessions[0]
        await until(lambda: session._upload is not None)
        source, sink = (client, endpoint) if upwards else (endpoint, client)
        flow = session._upload if upwards else session._download
        assert flow is not None
        back = flow.back
        sent = await fill(source, lambda: flow.state is splice.BLOCKED)
        assert flow.state is splice.BLOCKED
        held = flow.pipe.held if flow.pipe is not None else len(flow.rest)
        assert 0 < held <= 256 * 1024
        assert (flow.pipe is None) == (pipes == 0)
        # The other direction does not care.
        await sink.send(b"meanwhile")
        assert await source.receive(9) == b"meanwhile"
        assert back.state is splice.OPEN
        source.finish()
        got = await sink.ended()
        assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()
        sink.close()
        record = await relay.record()
        assert record.outcome is OK
        assert (record.bytes_in if upwards else record.bytes_out) == len(sent)

    relayed(run, scenario)


@pytest.mark.parametrize("pipes", [splice.MOST, 1, 0])
def test_large_transfers_both_ways_at_once(run: Run, pipes: int, monkeypatch) -> None:
    monkeypatch.setattr(splice, "PIPES", splice.Pipes(pipes))
    data = random.Random(2).randbytes(4 << 20)

    async def scenario(relay: Relay) -> None:
        pairs = [await relay.pair() for _ in range(3)]

        async def transfer(source: Peer, sink: Peer) -> None:
            async def sending() -> None:
                await source.send(data)
                source.finish()

            writing = asyncio.ensure_future(sending())
            assert await sink.ended() == data
            await writing

        await asyncio.gather(*(transfer(*ends) for a, b in pairs for ends in ((a, b), (b, a))))
        for number in range(3):
            record = await relay.record(number + 1)
            assert (record.outcome, record.bytes_in, record.bytes_out) == (OK, len(data), len(data))

    relayed(run, scenario)


def test_a_pipe_that_still_holds_bytes_never_serves_another(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(splice, "PIPES", splice.Pipes(1))
    monkeypatch.setattr(splice, "_LITTLE", splice._VIEW[:1])
    monkeypatch.setattr(splice, "CALM", 0)

    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        await until(lambda: relay.sessions[0]._download is not None)
        flow = relay.sessions[0]._download
        assert flow is not None
        await fill(endpoint, lambda: flow.state is splice.BLOCKED)
        assert flow.pipe is not None
        client.reset()
        await relay.record()
        client, endpoint = await relay.pair()
        data = b"fresh" * 200_000
        sending = asyncio.ensure_future(endpoint.send(data))
        assert await client.receive(len(data)) == data
        await sending

    relayed(run, scenario)


# ---- time

def test_idle_relay_ends_with_reset_to_both(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        for _ in range(3):
            await client.send(b"x")
            await endpoint.receive(1)
        assert await client.was_reset() == await endpoint.was_reset() == b""
        record = await relay.record()
        assert record.outcome == Outcome("idle_timeout", Phase.TUNNEL)
        assert record.duration >= 0.1

    relayed(run, scenario, timeouts=model.ListenerTimeouts(idle=0.1))


def test_traffic_in_one_direction_keeps_a_relay_alive(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.5
        while loop.time() < end:
            await endpoint.send(b"tick")
            assert await client.receive(4) == b"tick"
        assert relay.records == []

    relayed(run, scenario, timeouts=model.ListenerTimeouts(idle=0.15))


def test_after_one_side_has_closed_the_other_has_limited_time(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        client.finish()
        assert await endpoint.ended() == b""
        assert await client.was_reset() == b""
        assert (await relay.record()).outcome == Outcome("idle_timeout", Phase.TUNNEL)

    relayed(run, scenario, timeouts=model.ListenerTimeouts(half_closed=0.1))


def test_no_limits_at_all(run: Run) -> None:
    async def scenario(relay: Relay) -> None:
        client, endpoint = await relay.pair()
        client.finish()
        assert await endpoint.ended() == b""
        endpoint.close()
        assert await client.ended() == b""
        assert (await relay.record()).outcome is OK

    relayed(run, scenario, timeouts=model.ListenerTimeouts(idle=0.0, half_closed=0.0))


def test_keepalive_is_set_once_a_relay_has_settled(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(tcp, "SETTLED", 0.05)

    async def scenario(relay: Relay) -> None:
        await relay.pair()
        session = relay.sessions[0]
        await until(lambda: session._settled)
        upstream = session._upstream
        assert upstream is not None
        assert upstream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert upstream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60

    relayed(run, scenario)
