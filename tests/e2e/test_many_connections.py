"""A thousand at once, descriptors that run out, and answers that reach the one who asked."""
from __future__ import annotations

import random
import resource
import threading

import pytest

from e2e.backends import Nginx, StartActor
from e2e.program import StartEdge, free_port, tcp, web
from e2e.waiting import eventually
from e2e.wire import Cut, Dial, Wire, connect

pytestmark = pytest.mark.alone


def test_a_thousand_http_connections(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()
    proxy = edge(web(port, nginx["a"], nginx["b"]))
    before = proxy.descriptors
    clients = [dial(port) for _ in range(1000)]
    for _ in range(3):
        for client in clients:
            client.get()
        for client in clients:
            assert client.response().status == 200
    for client in clients:
        client.close()
    eventually(lambda: proxy.descriptors <= before + 128, "only idle channels are left: 64 for each endpoint")
    assert {line["outcome"] for line in proxy.lines()} == {"ok"}


def test_a_thousand_tcp_connections(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    port = free_port()
    proxy = edge(tcp(port, nginx["a"], nginx["b"], service="balance: least-conn"))
    before = proxy.descriptors
    clients = [dial(port) for _ in range(1000)]
    for client in clients:
        client.get()
    for client in clients:
        assert client.response().status == 200
    assert proxy.descriptors >= before + 2000
    for client in clients:
        client.close()
    eventually(lambda: proxy.descriptors == before, "nothing is left")
    logged = [line["endpoint"] for line in proxy.logged(1000)]
    assert sorted(logged.count(f"127.0.0.1:{nginx[name]}") for name in "ab") == [500, 500]


def test_out_of_descriptors(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    """More clients than descriptors: the rest waits in the kernel, nobody is harmed, and the CPU is not either."""
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    port = free_port()
    proxy = edge(web(port, nginx["a"]), before=few)
    clients = [dial(port) for _ in range(200)]
    for client in clients:
        client.get()
    answered = [client for client in clients if not client.quiet(0.005)]
    assert 10 <= len(answered) < 128
    for client in answered:
        assert client.response().status == 200
    assert proxy.descriptors <= 128
    for client in answered:
        client.close()
    late = next(client for client in clients if client not in answered)
    assert late.response().status == 200, "its turn comes"
    assert "Errno 24" not in proxy.errors and "oo many open files" not in proxy.errors


def test_no_answer_ever_reaches_another(edge: StartEdge, actor: StartActor, long: bool) -> None:
    """Unique ids at 16 connections, with clients that leave and endpoints that die, over a few shared channels."""
    def script(wire: Wire) -> None:
        rng = random.Random(wire.sock.getpeername()[1])
        while True:
            request = wire.request()
            mark = request.target.encode()
            fate = rng.random()
            if fate < 0.02:
                wire.reset()
                return
            if fate < 0.04:
                wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + mark)
                return
            if fate < 0.5:
                wire.answer(mark)
            else:
                wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
                          % (len(mark), mark))

    port = free_port()
    edge(web(port, actor(script).port, actor(script).port, service="eject: {failures: 0}, pool: {idle: 4}"))
    wrong: list[object] = []
    answered = [0] * 8

    def client(worker: int) -> None:
        rng = random.Random(worker)
        wire = connect(port)
        for number in range(20_000 if long else 500):
            target = f"/{worker}-{number}"
            try:
                wire.get(target)
                if rng.random() < 0.05:
                    wire.reset()
                    wire = connect(port)
                    continue
                answer = wire.response()
                if answer.status == 200 and answer.text != target:
                    wrong.append((target, answer.body))
                answered[worker] += answer.status == 200
            except (Cut, OSError):
                wire.close()
                wire = connect(port)
        wire.close()

    threads = [threading.Thread(target=client, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert wrong == []
    assert sum(answered) > 8 * 400
