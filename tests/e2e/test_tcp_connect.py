"""tcp listeners: finding an endpoint, what is logged, and that nothing sent meanwhile is lost."""
from __future__ import annotations

from collections import Counter

from e2e.backends import BlackHole, StartActor, StartStage, echoing
from e2e.program import StartEdge, free_port, tcp
from e2e.wire import Dial, End, Wire

NEVER_EJECT = "eject: {failures: 0}"


def test_refusals_are_tried_elsewhere(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    good, closed, port = actor(echoing), [free_port(), free_port(), free_port()], free_port()
    proxy = edge(tcp(port, *closed, good.port, service=NEVER_EJECT))
    client = dial(port)
    client.send(b"kept")
    client.half_close()
    assert client.ending() == (b"kept", End.FIN)
    line = proxy.entry()
    assert {a["endpoint"] for a in line["attempts"]} <= {f"127.0.0.1:{p}" for p in closed}
    assert {a["reason"] for a in line["attempts"]} == {"connect_refused"}
    assert (line["endpoint"], line["outcome"]) == (f"127.0.0.1:{good.port}", "ok")


def test_a_silent_endpoint_is_given_up_after_250_ms(
        edge: StartEdge, actor: StartActor, dial: Dial, black_hole: BlackHole) -> None:
    good, port = actor(echoing), free_port()
    proxy = edge(tcp(port, black_hole.port, good.port, service=NEVER_EJECT))
    client = dial(port)
    client.send(b"kept")
    client.half_close()
    assert client.ending() == (b"kept", End.FIN)
    line = proxy.entry()
    assert line["attempts"] == [{"endpoint": f"127.0.0.1:{black_hole.port}", "reason": "connect_timeout"}]
    assert 240 <= line["duration_ms"] <= 1500


def test_when_nobody_is_there_the_client_gets_rst(edge: StartEdge, dial: Dial) -> None:
    port = free_port()
    proxy = edge(tcp(port, free_port(), free_port()))
    client = dial(port)
    client.send(b"hello?")
    assert client.ending() == (b"", End.RESET)
    line = proxy.entry()
    assert line["outcome"] == "connect_refused"
    assert line["phase"] == "connect"


def test_round_robin_by_connection(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    def named(name: bytes) -> int:
        def script(wire: Wire) -> None:
            wire.send(name)
        return actor(script).port

    port = free_port()
    edge(tcp(port, f"{{address: '127.0.0.1:{named(b'a')}', weight: 3}}", named(b"b")))
    names = Counter(dial(port).ending()[0] for _ in range(40))
    assert names == {b"a": 30, b"b": 10}


def test_source_hash_by_address(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    def named(name: bytes) -> int:
        def script(wire: Wire) -> None:
            wire.send(name)
        return actor(script).port

    port = free_port()
    edge(tcp(port, named(b"a"), named(b"b"), named(b"c"), service="balance: source-hash"))
    sources = [f"127.0.3.{n}" for n in range(1, 31)]
    where = {source: dial(port, source=source).ending()[0] for source in sources}
    assert set(where.values()) == {b"a", b"b", b"c"}
    assert where == {source: dial(port, source=source).ending()[0] for source in sources}


def test_the_log_of_a_connection(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, endpoint.port))
    client = dial(port, source="127.0.0.9")
    client.send(b"12345")
    server = endpoint.accept()
    assert server.exactly(5) == b"12345"
    server.send(b"123")
    server.close()
    assert client.ending() == (b"123", End.FIN)
    client.close()
    line = proxy.entry()
    assert line["kind"] == "tcp" and line["client"] == "127.0.0.9"
    assert (line["listener"], line["service"], line["endpoint"]) == ("relay", "app", f"127.0.0.1:{endpoint.port}")
    assert (line["bytes_in"], line["bytes_out"], line["outcome"], line["attempts"]) == (5, 3, "ok", [])
    assert line["connect_ms"] >= 0 and line["duration_ms"] >= line["connect_ms"]


def test_the_connection_limit_holds_the_rest_in_the_kernel(
        edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(tcp(port, endpoint.port, listener="limits: {connections: 2}"))
    clients = [dial(port) for _ in range(3)]
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
    inside = [endpoint.accept(), endpoint.accept()]
    assert sorted(wire.exactly(1) for wire in inside) == [b"0", b"1"]
    assert endpoint.untouched()
    clients[0].reset()
    assert endpoint.accept().exactly(1) == b"2", "it was not refused, it waited"
