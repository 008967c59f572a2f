"""tcp listeners: FIN one way leaves the other way open, exactly; raw sockets and nc."""
from __future__ import annotations

import shutil
import subprocess

import pytest

from e2e.backends import StartActor, StartStage
from e2e.program import StartEdge, free_port, tcp
from e2e.wire import Dial, End, Wire

LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


@LOOPS
def test_the_client_closes_first(edge: StartEdge, stage: StartStage, dial: Dial, loop: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, endpoint.port), {"EDGEPROXY_LOOP": loop})
    client = dial(port)
    client.send(b"question")
    client.half_close()
    server = endpoint.accept()
    assert server.ending() == (b"question", End.FIN)
    for _ in range(3):
        server.send(b"answer ")
        assert client.exactly(7) == b"answer "
    assert client.quiet()
    server.close()
    assert client.ending() == (b"", End.FIN)
    client.close()
    line = proxy.entry()
    assert (line["kind"], line["outcome"], line["bytes_in"], line["bytes_out"]) == ("tcp", "ok", 8, 21)


@LOOPS
def test_the_endpoint_closes_first(edge: StartEdge, stage: StartStage, dial: Dial, loop: str) -> None:
    endpoint, port = stage(), free_port()
    edge(tcp(port, endpoint.port), {"EDGEPROXY_LOOP": loop})
    client = dial(port)
    server = endpoint.accept()
    server.send(b"greeting")
    server.half_close()
    assert client.ending() == (b"greeting", End.FIN)
    for _ in range(3):
        client.send(b"still here ")
        assert server.exactly(11) == b"still here "
    client.half_close()
    assert server.ending() == (b"", End.FIN)


def test_fin_right_behind_the_data_before_the_endpoint_is_there(
        edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    """The client is done before the connection to the endpoint even stands."""
    endpoint, port = stage(), free_port()
    edge(tcp(port, free_port(), endpoint.port, service="eject: {failures: 0}"))
    for number in range(20):
        client = dial(port)
        client.send(b"%d" % number)
        client.half_close()
        server = endpoint.accept()
        assert server.ending() == (b"%d" % number, End.FIN)
        server.send(b"ok")
        server.close()
        assert client.ending() == (b"ok", End.FIN)


def test_a_large_answer_after_fin(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    size = 20 * 1024 * 1024

    def script(wire: Wire) -> None:
        wire.ending()
        wire.send(b"x" * size)

    endpoint, port = actor(script), free_port()
    edge(tcp(port, endpoint.port))
    client = dial(port)
    client.send(b"give")
    client.half_close()
    data, end = client.ending()
    assert (len(data), end) == (size, End.FIN)


def test_nc_with_half_close(edge: StartEdge, actor: StartActor) -> None:
    program = shutil.which("nc")
    assert program, "the end-to-end tests need nc (Debian: apt-get install netcat-openbsd)"

    def count(wire: Wire) -> None:
        data, _ = wire.ending()
        wire.send(b"%d bytes\n" % len(data))

    endpoint, port = actor(count), free_port()
    edge(tcp(port, endpoint.port))
    done = subprocess.run([program, "-N", "127.0.0.1", str(port)], input=b"z" * 100_000, capture_output=True, timeout=5)
    assert done.stdout == b"100000 bytes\n"


@pytest.mark.parametrize("who", ["client", "endpoint"])
def test_the_other_side_has_its_time_to_finish(edge: StartEdge, stage: StartStage, dial: Dial, who: str) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, endpoint.port, listener="timeouts: {half_closed: 300ms}"))
    client = dial(port)
    client.send(b"x")
    server = endpoint.accept()
    assert server.exactly(1) == b"x"
    one, other = (client, server) if who == "client" else (server, client)
    one.half_close()
    assert other.ending() == (b"", End.FIN)
    assert one.quiet(0.15)
    one.ending()
    assert proxy.entry()["outcome"] == "idle_timeout"


def test_an_idle_relay_ends_after_its_time(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(tcp(port, endpoint.port, listener="timeouts: {idle: 300ms}"))
    client = dial(port)
    server = endpoint.accept()
    for _ in range(5):  # bytes in one direction are enough to keep it
        client.send(b"x")
        assert server.exactly(1) == b"x"
        assert client.quiet(0.1)
    assert client.ending()[1] is End.RESET
    assert server.ending()[1] is End.RESET
    assert proxy.entry()["outcome"] == "idle_timeout"
