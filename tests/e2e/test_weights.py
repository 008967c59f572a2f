"""Weighted round robin: the shares are exact, and interleaved instead of in bursts."""
from __future__ import annotations

from collections import Counter

from e2e.backends import Nginx
from e2e.program import StartEdge, free_port, web
from e2e.wire import Dial, ask


def test_five_to_one_to_one_is_exact_and_interleaved(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()
    edge(web(port, f"{{address: '127.0.0.1:{nginx['a']}', weight: 5}}", nginx["b"], nginx["c"]))
    client = dial(port)
    names = []
    for _ in range(70):
        client.get()
        names.append(client.response().text.strip())
    assert Counter(names) == {"a": 50, "b": 10, "c": 10}
    for start in range(0, 70, 7):
        assert Counter(names[start:start + 7]) == {"a": 5, "b": 1, "c": 1}
    assert "aaaaa" not in "".join(names[:7]), "smooth: the five do not come in a row"


def test_shares_hold_over_many_connections(edge: StartEdge, nginx: Nginx) -> None:
    port = free_port()
    edge(web(port, f"{{address: '127.0.0.1:{nginx['a']}', weight: 2}}", nginx["b"]))
    assert Counter(ask(port).text.strip() for _ in range(30)) == {"a": 20, "b": 10}


def test_weight_zero_takes_nothing(edge: StartEdge, nginx: Nginx) -> None:
    port = free_port()
    edge(web(port, f"{{address: '127.0.0.1:{nginx['a']}', weight: 0}}", nginx["b"]))
    assert {ask(port).text.strip() for _ in range(10)} == {"b"}
