"""random and least-latency: shares near the weights, and away from who is slow."""
from __future__ import annotations

import threading
from collections import Counter

from e2e.backends import Nginx, StartActor, answering
from e2e.program import StartEdge, free_port, web
from e2e.wire import Dial, Wire


def test_random_is_near_the_weights(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()
    edge(web(port, f"{{address: '127.0.0.1:{nginx['a']}', weight: 3}}", nginx["b"], service="balance: random"))
    client = dial(port)
    names: Counter[str] = Counter()
    for _ in range(1000):
        client.get()
        names[client.response().text.strip()] += 1
    assert set(names) == {"a", "b"}
    assert 600 <= names["a"] <= 900


def test_least_latency_prefers_who_answers_sooner(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    never = threading.Event()

    def slow(wire: Wire) -> None:
        while True:
            wire.request()
            never.wait(0.05)
            wire.answer(b"slow")

    port = free_port()
    edge(web(port, actor(slow).port, actor(answering("fast")).port, service="balance: least-latency"))
    client = dial(port)
    names: Counter[str] = Counter()
    for _ in range(200):
        client.get()
        names[client.response().text] += 1
    assert names["fast"] >= 180
