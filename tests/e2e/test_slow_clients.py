"""Slow readers cost bounded memory, slow writers cost no endpoint, and nobody else notices either."""
from __future__ import annotations

import threading
import time

from e2e.backends import Nginx, StartActor, StartStage, answering
from e2e.program import StartEdge, free_port, tcp, web
from e2e.streams import read_stream, send_stream
from e2e.waiting import eventually
from e2e.wire import Dial, Wire

MIB = 1 << 20
KIB = 1 << 10


def test_slow_readers_of_a_big_file(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    """100 clients that ask for 1 GiB and take nothing: at most 256 KiB each, whatever nginx would send."""
    target = nginx.file("slow", 1 << 30)
    port = free_port()
    proxy = edge(web(port, nginx["a"]))
    before = proxy.memory
    clients = [dial(port, small=True) for _ in range(100)]
    for client in clients:
        client.get(target)
    for client in clients:
        assert b"200 OK" in client.until(b"\r\n\r\n")
    good = dial(port)
    for _ in range(200):
        good.get()
        assert good.response().text == "a\n", "others are served meanwhile"
    assert proxy.memory - before < 100 * 256 * KIB
    took = len(clients[0].exactly(MIB))
    assert took == MIB, "and it goes on when they do"


def test_a_slow_endpoint_pauses_a_fast_client(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(small=True), free_port()
    proxy = edge(web(port, endpoint.port))
    before = proxy.memory
    client = dial(port)
    client.send(f"PUT / HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: {1 << 30}\r\n\r\n")
    channel = endpoint.accept()
    channel.request(body=False)
    sent = _push(client)
    assert sent < 32 * MIB, "the kernel's buffers and a little"
    assert proxy.memory - before < 2 * MIB
    channel.exactly(sent)
    assert _push(client) > 0, "and it goes on when the endpoint does"


def test_both_directions_of_tcp(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(small=True), free_port()
    proxy = edge(tcp(port, endpoint.port))
    before = proxy.memory
    client = dial(port, small=True)
    server = endpoint.accept()
    up, down = _push(client), _push(server)
    assert up < 32 * MIB and down < 32 * MIB
    assert proxy.memory - before < 2 * MIB, "512 KiB a direction at most"
    assert len(server.exactly(up)) == up
    assert len(client.exactly(down)) == down


def _push(wire: Wire) -> int:
    """Send until nothing more is taken; how much it was."""
    sent = 0
    wire.sock.settimeout(0.3)
    try:
        while True:
            sent += wire.sock.send(b"x" * 65536)
    except TimeoutError:
        wire.sock.settimeout(5)
    return sent


def test_while_one_direction_waits_the_other_flows(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(small=True), free_port()
    edge(tcp(port, endpoint.port))
    client = dial(port)
    server = endpoint.accept()
    assert _push(client) > 0
    result: list[int] = []
    thread = threading.Thread(target=lambda: result.append(send_stream(server, 20 * MIB)))
    thread.start()
    wanted = read_stream(client, 20 * MIB)
    thread.join(5)
    assert result == [wanted]


def test_slowloris_does_not_disturb_others(edge: StartEdge, stage: StartStage, actor: StartActor, dial: Dial) -> None:
    """Clients that never finish their heads take no endpoint, and are gone after their time."""
    endpoint, port = actor(answering("fine")), free_port()
    proxy = edge(web(port, endpoint.port, listener="timeouts: {header: 2s}"))
    good = dial(port)

    def worst(number: int = 300) -> float:
        took = []
        for _ in range(number):
            began = time.perf_counter()
            good.get()
            assert good.response().text == "fine"
            took.append(time.perf_counter() - began)
        return sorted(took)[int(number * 0.99)]

    worst()
    alone = worst()
    before = proxy.descriptors
    slow = [dial(port) for _ in range(500)]
    for client in slow:
        client.send("GET / HTTP/1.1\r\nHost: x.invalid\r\nX-Slow: ")
    eventually(lambda: proxy.descriptors >= before + 500, "all are there")
    for number, client in enumerate(slow):
        if number % 2:
            client.send("a")
    beside = worst()
    assert beside < max(5 * alone, 0.05), f"{alone * 1000:.2f} ms alone, {beside * 1000:.2f} ms beside 500 slow ones"
    assert endpoint.connections == 1
    for client in slow:
        assert client.response().status == 408
    for client in slow:
        client.close()
    eventually(lambda: proxy.descriptors == before, "nothing is left of them")


def test_a_slow_post_is_streamed_without_harm(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    slow = dial(port)
    slow.send("POST /slow HTTP/1.1\r\nHost: x.invalid\r\nContent-Length: 20\r\n\r\n")
    channel = endpoint.accept()
    channel.request(body=False)
    quick = dial(port)
    quick.get("/first")
    other = endpoint.accept()
    other.request()
    other.answer()
    assert quick.response().status == 200
    for number in range(20):
        slow.send("x")
        assert channel.exactly(1) == b"x"
        quick.get(f"/{number}")
        assert other.request().target == f"/{number}"
        other.answer()
        assert quick.response().status == 200
    channel.answer(b"thanks")
    assert slow.response().text == "thanks"
