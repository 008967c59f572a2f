"""least-conn: who has the fewest in flight is next, by weight; a slow endpoint gets less."""
from __future__ import annotations

import threading
from collections import Counter

from e2e.backends import StartActor, StartStage, answering
from e2e.program import StartEdge, free_port, tcp, web
from e2e.waiting import PATIENCE, eventually
from e2e.wire import Dial, Wire


def test_a_slow_endpoint_gets_one_request_while_the_other_gets_the_rest(
        edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    held: list[Wire] = []
    go_on = threading.Event()

    def slow(wire: Wire) -> None:
        wire.request()
        held.append(wire)
        go_on.wait(PATIENCE)
        wire.answer(b"slow")

    endpoints = [actor(slow).port, actor(answering("fast")).port]
    port = free_port()
    edge(web(port, *endpoints, service="balance: least-conn"))
    clients = []
    answers: Counter[str] = Counter()
    for _ in range(12):
        client = dial(port)
        client.get()
        before = len(held)
        if eventually(lambda: client.buffer or len(held) > before or not client.quiet(0.01), "held or answered"):  # noqa: B023
            if len(held) > before:
                clients.append(client)
            else:
                answers[client.response().text] += 1
    assert answers == {"fast": 11}
    assert len(held) == 1
    go_on.set()
    assert clients[0].response().text == "slow"


def test_connections_of_a_tcp_listener_are_spread_by_weight(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    heavy, light = stage(), stage()
    port = free_port()
    edge(tcp(port, f"{{address: '127.0.0.1:{heavy.port}', weight: 2}}", light.port, service="balance: least-conn"))
    for number in range(9):
        dial(port).send(b"%d" % number)
    # with 2:1 the nine go six to three, whatever the order within
    assert sorted(heavy.accept().exactly(1) for _ in range(6))
    assert sorted(light.accept().exactly(1) for _ in range(3))
    assert heavy.untouched() and light.untouched()
