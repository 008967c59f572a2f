"""From a client to an endpoint: the ladder of tries, what fails and how it is told, the queue, clients that leave."""
from __future__ import annotations

import asyncio
import random

import pytest

from edgeproxy.config import model
from edgeproxy.errors import OK, Outcome, Phase
from edgeproxy.session import tcp
from edgeproxy.upstream.pool import Member
from net.rig import Endpoint, Refusing, Relay, Run, Silent, both_loops, leaves_nothing_open, until

pytestmark = both_loops

NEVER_EJECT = model.Eject(failures=0)


def with_connect(seconds: float) -> model.Service:
    return model.Service("back", eject=NEVER_EJECT, timeouts=model.ServiceTimeouts(connect=seconds))


def with_places(queue: int, wait: float = 5.0) -> model.Service:
    return model.Service("back", limits=model.ServiceLimits(per_endpoint=1, queue=queue, queue_timeout=wait))


# ---- tries

def test_a_refusal_leads_to_the_next_endpoint_and_loses_nothing(run: Run) -> None:
    data = random.Random(1).randbytes(200_000)

    async def main() -> None:
        async with Relay(Refusing(), Refusing(), Endpoint(), service=model.Service("back", eject=NEVER_EJECT)) as relay:
            first, second, last = relay.endpoints
            sending = asyncio.ensure_future(relay.client(data, finish=True))
            endpoint = await last.accept()
            assert await endpoint.ended() == data
            client = await sending
            endpoint.close()
            assert await client.ended() == b""
            record = await relay.record()
            assert record.outcome is OK
            assert record.endpoint == last.address.address
            assert record.attempts == [(e.address.address, "connect_refused") for e in (first, second)]

    leaves_nothing_open(run, main)


def test_an_endpoint_that_does_not_answer_costs_one_step_of_the_ladder(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(tcp, "LADDER", (0.04, 5.0, 5.0, 5.0))

    async def main() -> None:
        async with Relay(Silent(), Endpoint()) as relay:
            silent, last = relay.endpoints
            client = await relay.client(b"hello")
            endpoint = await last.accept()
            assert await endpoint.receive(5) == b"hello"
            endpoint.close()
            client.close()
            record = await relay.record()
            assert record.outcome is OK
            assert record.attempts == [(silent.address.address, "connect_timeout")]
            assert record.connect_s >= 0.04
            assert len(relay.service.view.members[0].failures) == 1

    leaves_nothing_open(run, main)


def test_the_ladder_gives_each_try_its_own_time(run: Run, monkeypatch) -> None:
    assert tcp.LADDER == (0.25, 0.5, 1.0, 2.0)
    monkeypatch.setattr(tcp, "LADDER", (0.02, 0.04, 0.06, 0.08))

    async def main() -> None:
        async with Relay(Silent(), service=model.Service("back", eject=NEVER_EJECT)) as relay:
            client = await relay.client(b"hello")
            assert await client.was_reset() == b""
            record = await relay.record()
            assert record.outcome == Outcome("connect_timeout", Phase.CONNECT)
            assert record.attempts == [(relay.endpoints[0].address.address, "connect_timeout")] * 4
            assert 0.2 <= record.duration < 1.0
            assert (record.endpoint, record.connect_s, record.connect_ms) == ("", -1.0, None)

    leaves_nothing_open(run, main)


def test_a_configured_time_holds_for_every_try(run: Run) -> None:
    async def main() -> None:
        async with Relay(Silent(), Silent(), service=with_connect(0.05)) as relay:
            client = await relay.client()
            assert await client.was_reset() == b""
            record = await relay.record()
            assert [reason for _, reason in record.attempts] == ["connect_timeout"] * 4
            assert 0.2 <= record.duration < 1.0

    leaves_nothing_open(run, main)


def test_no_endpoint_is_tried_again_while_another_is_left(run: Run) -> None:
    async def main() -> None:
        async with Relay(Refusing(), Refusing(), Refusing(), service=model.Service("back", eject=NEVER_EJECT)) as relay:
            for number in range(1, 7):
                client = await relay.client(b"x")
                assert await client.was_reset() == b""
                record = await relay.record(number)
                tried = [address for address, _ in record.attempts]
                assert len(tried) == 4
                assert len(set(tried[:3])) == 3
                assert record.outcome == Outcome("connect_refused", Phase.CONNECT)

    leaves_nothing_open(run, main)


def test_a_missing_unix_socket_is_a_refusal_and_is_told_later(run: Run, tmp_path) -> None:
    """Every try fails at once, inside the constructor; the end is told by the loop all the same."""
    class Missing(Refusing):
        def __init__(self) -> None:
            super().__init__()
            self.address = model.EndpointAddress(path=str(tmp_path / "nobody"))

    async def main() -> None:
        async with Relay(Missing()) as relay:
            told_within = []
            connected = relay._connected

            def watched(sock, peer) -> None:
                connected(sock, peer)
                told_within.append(len(relay.records))

            relay.acceptor._on_connection = watched
            client = await relay.client(b"x")
            assert await client.was_reset() == b""
            assert (await relay.record()).outcome == Outcome("connect_refused", Phase.CONNECT)
            assert told_within == [0]

    leaves_nothing_open(run, main)


def test_a_service_without_a_ready_endpoint(run: Run) -> None:
    async def main() -> None:
        async with Relay() as relay:
            client = await relay.client(b"x")
            assert await client.was_reset() == b""
            record = await relay.record()
            assert record.outcome == Outcome("unavailable", Phase.CONNECT)
            assert record.attempts == []

    leaves_nothing_open(run, main)


# ---- the queue

def test_without_a_queue_a_full_service_turns_clients_away(run: Run) -> None:
    async def main() -> None:
        async with Relay(Endpoint(), service=with_places(0)) as relay:
            await relay.pair()
            late = await relay.client(b"x")
            assert await late.was_reset() == b""
            assert (await relay.record()).outcome == Outcome("queue_full", Phase.QUEUE)

    leaves_nothing_open(run, main)


def test_a_client_waits_for_a_place_and_loses_nothing(run: Run) -> None:
    async def main() -> None:
        async with Relay(Endpoint(), service=with_places(1)) as relay:
            first, endpoint = await relay.pair()
            waiting = await relay.client(b"patience", finish=True)
            await until(lambda: len(relay.sessions) == 2)
            too_many = await relay.client(b"x")
            assert await too_many.was_reset() == b""
            assert (await relay.record()).outcome == Outcome("queue_full", Phase.QUEUE)
            first.close()
            endpoint.close()
            second = await relay.endpoints[0].accept()
            assert await second.ended() == b"patience"
            second.close()
            assert await waiting.ended() == b""
            record = await relay.record(3)
            assert (record.outcome, record.bytes_in) == (OK, 8)
            assert record.queue_s > 0.0
            assert record.connect_s > 0.0

    leaves_nothing_open(run, main)


def test_waiting_has_an_end(run: Run) -> None:
    async def main() -> None:
        async with Relay(Endpoint(), service=with_places(1, wait=0.05)) as relay:
            await relay.pair()
            waiting = await relay.client(b"x")
            assert await waiting.was_reset() == b""
            assert (await relay.record()).outcome == Outcome("queue_timeout", Phase.QUEUE)

    leaves_nothing_open(run, main)


# ---- clients that leave early

def test_a_client_that_resets_while_the_endpoint_is_dialled(run: Run) -> None:
    async def main() -> None:
        async with Relay(Silent(), service=with_connect(60.0)) as relay:
            for number, first in enumerate((b"", b"hello"), 1):
                client = await relay.client(first)
                await until(lambda n=number: len(relay.sessions) == n)
                client.reset()
                record = await relay.record(number)
                assert record.outcome == Outcome("client_gone", Phase.CONNECT)
                assert record.attempts == []
                assert relay.service.view.members[0].active == 0
                assert relay.service.view.members[0].failures == []

    leaves_nothing_open(run, main)


def test_a_client_that_has_reset_before_it_is_accepted(run: Run) -> None:
    async def main() -> None:
        async with Relay(Endpoint()) as relay:
            relay.acceptor.stop()
            client = await relay.client(b"x")
            client.reset()
            relay.acceptor.start()
            assert (await relay.record()).outcome == Outcome("client_gone", Phase.CONNECT)

    leaves_nothing_open(run, main)


def test_a_fin_while_dialling_is_no_leaving(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(tcp, "LADDER", (0.05, 5.0, 5.0, 5.0))

    async def main() -> None:
        async with Relay(Silent(), Endpoint()) as relay:
            client = await relay.client()
            await until(lambda: len(relay.sessions) == 1)
            await client.send(b"sent while dialling")
            client.finish()
            endpoint = await relay.endpoints[1].accept()
            assert await endpoint.ended() == b"sent while dialling"
            await endpoint.send(b"answer")
            endpoint.close()
            assert await client.ended() == b"answer"
            assert (await relay.record()).outcome is OK

    leaves_nothing_open(run, main)


def test_a_client_that_resets_in_the_queue_gives_its_place_up(run: Run) -> None:
    async def main() -> None:
        async with Relay(Endpoint(), service=with_places(1)) as relay:
            first, endpoint = await relay.pair()
            leaving = await relay.client(b"x")
            await until(lambda: len(relay.sessions) == 2)
            leaving.reset()
            assert (await relay.record()).outcome == Outcome("client_gone", Phase.QUEUE)
            staying = await relay.client(b"y")
            await until(lambda: len(relay.sessions) == 3)
            first.close()
            endpoint.close()
            assert await (await relay.endpoints[0].accept()).receive(1) == b"y"
            staying.close()

    leaves_nothing_open(run, main)


def test_abort_in_every_early_phase(run: Run) -> None:
    async def main() -> None:
        async with Relay(Silent(), service=with_connect(60.0)) as relay:
            client = await relay.client()
            await until(lambda: len(relay.sessions) == 1)
            relay.sessions[0].abort()
            assert await client.was_reset() == b""
            assert (await relay.record()).outcome == Outcome("draining", Phase.CONNECT)
        async with Relay(Endpoint(), service=with_places(1)) as relay:
            await relay.pair()
            client = await relay.client()
            await until(lambda: len(relay.sessions) == 2)
            relay.sessions[1].abort()
            assert await client.was_reset() == b""
            assert (await relay.record()).outcome == Outcome("draining", Phase.QUEUE)

    leaves_nothing_open(run, main)


# ---- faults of our own

def test_a_mistake_ends_one_connection_and_is_logged(run: Run, caplog) -> None:
    def wrong(key: int) -> Member:
        raise ZeroDivisionError

    async def main() -> None:
        async with Relay(Endpoint()) as relay:
            relay.service.first, right = wrong, relay.service.first
            client = await relay.client(b"x")
            assert await client.was_reset() == b""
            assert (await relay.record()).outcome == Outcome("internal", Phase.CONNECT)
            relay.service.first = right
            client, endpoint = await relay.pair()
            await client.send(b"fine")
            assert await endpoint.receive(4) == b"fine"

    leaves_nothing_open(run, main)
    assert "internal error" in caplog.text


def test_a_mistake_at_the_end_is_contained(run: Run, caplog) -> None:
    async def main() -> None:
        async with Relay(Endpoint()) as relay:
            ended = relay._ended

            def wrong(record) -> None:
                ended(record)
                raise ZeroDivisionError

            relay._ended = wrong
            client, endpoint = await relay.pair()
            client.close()
            endpoint.close()
            assert (await relay.record()).outcome is OK

    leaves_nothing_open(run, main)
    assert "internal error" in caplog.text


@pytest.mark.parametrize("balance", ["source-hash", "least-conn"])
def test_pickers_see_the_client_and_the_connections_under_way(run: Run, balance) -> None:
    async def main() -> None:
        service = model.Service("back", balance=model.Balance(balance))
        async with Relay(Endpoint(), Endpoint(), service=service) as relay:
            for _ in range(4):
                await relay.client()
            await until(lambda: len(relay.sessions) == 4)
            counts = sorted(m.active for m in relay.service.view.members)
            assert counts == ([0, 4] if balance == "source-hash" else [2, 2])

    leaves_nothing_open(run, main)
