"""Dialling: connected or one word for why not, once, and nothing left open."""
from __future__ import annotations

import asyncio
import errno
import resource
import socket
from pathlib import Path

import pytest

from edgeproxy.config import model
from edgeproxy.errors import Kind
from edgeproxy.policy.endpoint import Endpoint as Identity
from edgeproxy.upstream.connector import Dial, begin, kind_of, settle
from net.rig import Endpoint, Refusing, Run, Silent, both_loops, open_descriptors, until

Told = list[tuple[socket.socket | None, Kind | None]]


def identity(address: model.EndpointAddress) -> Identity:
    return Identity(address.address, address.host, address.port, address.path)


async def dialled(endpoint: Identity, timeout: float = 5.0) -> tuple[socket.socket | None, Kind | None]:
    told: Told = []
    before = open_descriptors()
    Dial(asyncio.get_running_loop(), endpoint, timeout, lambda *result: told.append(result))
    assert told == [], "told from within the constructor"
    await until(lambda: told)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(told) == 1
    sock = told[0][0]
    assert open_descriptors() == before + (sock is not None)
    return told[0]


@both_loops
@pytest.mark.parametrize("kind", ["v4", "v6", "unix"])
def test_connected(run: Run, kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        try:
            server = Endpoint(str(tmp_path / "sock") if kind == "unix" else "", "::1" if kind == "v6" else "127.0.0.1")
        except OSError:
            pytest.skip("no IPv6 on this machine")
        sock, why = await dialled(identity(server.address))
        assert sock is not None and why is None
        assert sock.getblocking() is False
        if kind != "unix":
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        peer = await server.accept()
        sock.send(b"hello")
        assert await peer.receive(5) == b"hello"
        sock.close()
        server.close()

    run(main)


@both_loops
def test_refused(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        nobody = Refusing()
        assert await dialled(identity(nobody.address)) == (None, Kind.CONNECT_REFUSED)
        nobody.close()
        missing = Identity("unix:x", path=str(tmp_path / "missing"))
        assert await dialled(missing) == (None, Kind.CONNECT_REFUSED)

    run(main)


@both_loops
def test_timed_out(run: Run) -> None:
    async def main() -> None:
        silent = Silent()
        assert await dialled(identity(silent.address), 0.03) == (None, Kind.CONNECT_TIMEOUT)
        silent.close()

    run(main)


@both_loops
@pytest.mark.parametrize("endpoint", [
    Identity("255.255.255.255:80", "255.255.255.255", 80),
    Identity("not-an-address:80", "256.1.1.1", 80),
    Identity("127.0.0.1:70000", "127.0.0.1", 70000),
    Identity("unix:long", path="/" + "x" * 200),
])
def test_what_cannot_be_reached_at_all(run: Run, endpoint: Identity) -> None:
    async def main() -> None:
        assert await dialled(endpoint) == (None, Kind.CONNECT_FAILED)

    run(main)


@both_loops
def test_cancelled(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: Told = []
        server, nobody, silent = Endpoint(), Refusing(), Silent()
        before = open_descriptors()
        for target in (server, nobody, silent):
            dial = Dial(loop, identity(target.address), 0.01, lambda *result: told.append(result))
            dial.cancel()
            dial.cancel()
        gone = Dial(loop, Identity("unix:x", path="/nonexistent/x"), 0.01, lambda *result: told.append(result))
        gone.cancel()
        waited = loop.create_future()
        loop.call_later(0.05, waited.set_result, None)
        await waited
        assert told == []
        assert open_descriptors() == before
        dial = Dial(loop, identity(server.address), 5.0, lambda *result: told.append(result))
        await until(lambda: told)
        dial.cancel()  # too late: the socket is the receiver's
        sock = told[0][0]
        assert sock is not None and sock.fileno() >= 0
        sock.close()
        for target in (server, nobody, silent):
            target.close()

    run(main)


@both_loops
def test_without_descriptors(run: Run) -> None:
    async def main() -> None:
        server = Endpoint()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        told: Told = []
        probe = socket.socket()
        lowest_free = probe.fileno()
        probe.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            Dial(asyncio.get_running_loop(), identity(server.address), 5.0, lambda *result: told.append(result))
            await until(lambda: told)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert told == [(None, Kind.EXHAUSTED)]
        server.close()

    run(main)


@pytest.mark.parametrize(("code", "kind"), [
    (errno.ECONNREFUSED, Kind.CONNECT_REFUSED),
    (errno.ETIMEDOUT, Kind.CONNECT_TIMEOUT),
    (errno.ECONNRESET, Kind.CONNECT_FAILED),
    (errno.EHOSTUNREACH, Kind.CONNECT_FAILED),
    (errno.ENETUNREACH, Kind.CONNECT_FAILED),
    (errno.EMFILE, Kind.EXHAUSTED),
    (errno.EADDRNOTAVAIL, Kind.EXHAUSTED),
])
def test_names_of_failures(code: int, kind: Kind) -> None:
    assert kind_of(code) is kind


def test_the_two_halves_for_who_watches_himself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock, kind = begin(Identity("x", *server.getsockname()), speaks=True)
        assert sock is not None and kind is None
        assert settle(sock) is None
        sock.close()
