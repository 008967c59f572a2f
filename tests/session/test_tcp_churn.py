"""Thousands of short connections, ended in every way: descriptors, places and memory come back to where they were."""
from __future__ import annotations

import asyncio
import gc
import random

from edgeproxy.config import model
from edgeproxy.errors import OK
from edgeproxy.session.splice import Flow
from edgeproxy.session.tcp import TcpSession
from net.rig import Endpoint, Peer, Relay, Run, both_loops, leaves_nothing_open, until

CONNECTIONS = 3000
AT_ONCE = 32


async def serve(endpoint: Endpoint) -> None:
    """Answer what comes until EOF; every third client's answer is cut by a reset."""
    number = 0
    tasks: set[asyncio.Task[None]] = set()

    async def one(peer: Peer, number: int) -> None:
        try:
            data = await peer.ended() if number % 2 else await peer.receive(1)
            await peer.send(data * 3)
            if number % 3 == 0:
                peer.reset()
        except OSError:
            pass
        finally:
            peer.close()

    while True:
        peer = await endpoint.accept()
        endpoint.accepted.clear()
        number += 1
        task = asyncio.ensure_future(one(peer, number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def visit(relay: Relay, rng: random.Random) -> None:
    client = await relay.client(b"x" * rng.choice((1, 100, 5000)))
    relay.clients.clear()
    way = rng.randrange(4)
    try:
        if way < 2:  # half of them half-close and wait for the answer
            client.finish()
            await client.ended()
        elif way == 2:
            client.reset()
    except OSError:
        pass
    finally:
        client.close()


@both_loops
def test_churn_leaves_nothing_behind(run: Run) -> None:
    async def main() -> None:
        patient = model.Service("back", timeouts=model.ServiceTimeouts(connect=10.0))  # a busy machine is no fault
        async with Relay(Endpoint(), Endpoint(), service=patient) as relay:
            servers = [asyncio.ensure_future(serve(endpoint)) for endpoint in relay.endpoints]
            rng = random.Random(3)

            async def visitor() -> None:
                for _ in range(CONNECTIONS // AT_ONCE):
                    await visit(relay, rng)
                    relay.sessions[:] = [s for s in relay.sessions if s.stage < 3]

            await asyncio.gather(*(visitor() for _ in range(AT_ONCE)))
            # The last clients are gone, but perhaps not all of them were accepted yet.
            await until(lambda: relay.limit.taken + len(relay.records) == CONNECTIONS // AT_ONCE * AT_ONCE)
            for session in relay.sessions:
                session.abort()
            relay.sessions.clear()
            assert {r.outcome.cause for r in relay.records} <= {"ok", "client_gone", "reset", "draining"}
            assert sum(r.outcome is OK for r in relay.records) > CONNECTIONS // 8
            assert len(relay.poller._watchers) + len(relay.poller._fresh) == 0
            relay.records.clear()
            for server in servers:
                server.cancel()
            await asyncio.gather(*servers, return_exceptions=True)

    gc.collect()
    leaves_nothing_open(run, main)


@both_loops
def test_an_ended_connection_is_freed_without_the_garbage_collector(run: Run) -> None:
    async def main() -> None:
        async with Relay(Endpoint()) as relay:
            gc.collect()
            gc.disable()
            try:
                for number in range(1, 4):
                    client, endpoint = await relay.pair()
                    await endpoint.send(b"x")
                    await client.receive(1)
                    client.close()
                    endpoint.close()
                    await relay.record(number)
                relay.sessions.clear()
                relay.records.clear()
                left = [o for o in gc.get_objects() if isinstance(o, (TcpSession, Flow))]
                # The nursery knows the young for a moment.
                young = (*relay.listener.nursery._born, *relay.listener.nursery._young)
                assert [o for o in left if o not in young] == []
            finally:
                gc.enable()

    run(main)
