"""Accepting: no more than there is room for, nobody lost, no spinning."""
from __future__ import annotations

import asyncio
import os
import resource
import socket

import pytest

from edgeproxy.config.model import Bind
from edgeproxy.net.sockets import listen
from edgeproxy.session import acceptor
from edgeproxy.session.acceptor import Acceptor, ConnectionLimit, Sayer, descriptor_budget
from net.rig import Run, both_loops, until


class Counting(socket.socket):
    """Counts how often it is asked for a connection."""

    asked = 0

    def _accept(self) -> tuple[int, object]:
        self.asked += 1
        return super()._accept()


class Door:
    """Some listening sockets with one limit; `inside` are the connections that were accepted."""

    def __init__(self, maximum: int = 1000, doors: int = 1) -> None:
        self.loop = asyncio.get_running_loop()
        self.limit = ConnectionLimit(maximum)
        self.inside: list[tuple[socket.socket, str]] = []
        self.lines: list[str] = []
        self.clients: list[socket.socket] = []
        self.acceptors = []
        for _ in range(doors):
            sock = Counting(fileno=listen(Bind("127.0.0.1", 0))[0].detach())
            self.acceptors.append(Acceptor(self.loop, sock, self.came, self.limit, self.lines.append))
        for one in self.acceptors:
            one.start()

    def came(self, sock: socket.socket, peer: str) -> None:
        self.inside.append((sock, peer))

    def knock(self, door: int = 0) -> socket.socket:
        client = socket.create_connection(self.acceptors[door].sock.getsockname())
        self.clients.append(client)
        return client

    def leave(self) -> None:
        self.inside.pop(0)[0].close()
        self.limit.release()

    async def turns(self, number: int = 30) -> None:
        for _ in range(number):
            await asyncio.sleep(0)

    def close(self) -> None:
        for one in self.acceptors:
            one.close()
        for sock in (*self.clients, *(sock for sock, _ in self.inside)):
            sock.close()


@both_loops
def test_what_a_connection_is_given(run: Run) -> None:
    async def main() -> None:
        door = Door()
        client = door.knock()
        await until(lambda: door.inside)
        sock, peer = door.inside[0]
        assert peer == "127.0.0.1"
        assert sock.getpeername() == client.getsockname()
        assert sock.getblocking() is False
        assert os.get_inheritable(sock.fileno()) is False
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        assert door.limit.taken == 1
        door.close()

    run(main)


@both_loops
def test_a_crowd_gets_in_and_the_loop_gets_its_turns(run: Run) -> None:
    async def main() -> None:
        door = Door()
        for _ in range(acceptor.BATCH * 3):
            door.knock()
        door.loop.call_soon(lambda: door.lines.append(f"turn after {len(door.inside)}"))
        await until(lambda: len(door.inside) == acceptor.BATCH * 3)
        assert int(door.lines[0].split()[-1]) <= acceptor.BATCH
        door.close()

    run(main)


@both_loops
def test_at_the_limit_the_kernel_holds_the_rest(run: Run) -> None:
    async def main() -> None:
        door = Door(maximum=2, doors=2)
        for n in range(6):
            door.knock(n % 2)
        await until(lambda: len(door.inside) == 2 and door.lines)
        await door.turns()
        assert (len(door.inside), door.limit.taken) == (2, 2)
        assert door.lines == ["at the limit of 2 connections: no more are accepted until one ends"] * len(door.lines)
        assert len(door.lines) <= 2  # once for each socket
        for left in range(5, 1, -1):
            door.leave()
            await until(lambda: len(door.inside) == 2)
            await door.turns()
            assert door.limit.taken == 2
            assert left
        assert len(door.lines) <= 2  # and not again within a minute
        door.leave()
        door.leave()
        assert door.limit.taken == 0
        door.knock()
        await until(lambda: len(door.inside) == 1)
        door.close()

    run(main)


@both_loops
def test_a_limit_can_be_changed(run: Run) -> None:
    async def main() -> None:
        door = Door(maximum=1)
        for _ in range(3):
            door.knock()
        await until(lambda: door.lines)
        door.limit.set(3)
        await until(lambda: len(door.inside) == 3)
        door.limit.set(1)
        door.knock()
        door.leave()
        await door.turns()
        assert len(door.inside) == 2
        door.close()

    run(main)


@both_loops
def test_without_descriptors_accepting_pauses_and_then_goes_on(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(acceptor, "PAUSE", 0.05)

    async def main() -> None:
        door = Door()
        door.knock()
        await until(lambda: door.inside)
        waiting = door.knock()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        probe = socket.socket()
        lowest_free = probe.fileno()
        probe.close()
        counting = door.acceptors[0].sock
        asked = counting.asked
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            await until(lambda: door.lines)
            paused = door.loop.create_future()
            door.loop.call_later(0.12, paused.set_result, None)
            await paused
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert 1 <= counting.asked - asked <= 4  # one for each pause, though the socket was readable all the time
        assert len(door.lines) == 1
        assert "raise the limit on descriptors" in door.lines[0]
        await until(lambda: len(door.inside) == 2)
        assert door.inside[1][0].getpeername() == waiting.getsockname()
        door.close()

    run(main)


@both_loops
def test_a_connection_that_cannot_begin_gives_its_place_back(run: Run) -> None:
    async def main() -> None:
        door = Door()
        came = door.came

        def wrong(sock: socket.socket, peer: str) -> None:
            if not door.lines:
                raise ZeroDivisionError("oops")
            came(sock, peer)

        door.acceptors[0]._on_connection = wrong
        first = door.knock()
        second = door.knock()
        await until(lambda: door.inside)
        assert door.limit.taken == 1
        assert door.lines == ["internal error, a connection was dropped: ZeroDivisionError('oops')"]
        assert first.recv(1) == b""
        assert door.inside[0][0].getpeername() == second.getsockname()
        door.close()

    run(main)


@both_loops
def test_a_stopped_door_loses_nobody(run: Run) -> None:
    async def main() -> None:
        door = Door(maximum=1)
        old = door.acceptors[0]
        door.knock()
        await until(lambda: door.inside)
        door.knock()
        await until(lambda: door.lines)
        old.stop()
        old.stop()
        door.leave()  # must not wake the one that was stopped
        await door.turns()
        assert door.inside == []
        door.acceptors[0] = new = Acceptor(door.loop, old.sock, door.came, ConnectionLimit(5), door.lines.append)
        new.start()
        new.start()
        await until(lambda: door.inside)
        door.close()
        assert old.sock.fileno() == -1

    run(main)


@both_loops
def test_stopped_while_paused(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(acceptor, "PAUSE", 0.01)

    async def main() -> None:
        door = Door()
        door.acceptors[0]._fault(OSError(24, "Too many open files"))
        door.acceptors[0].stop()
        door.knock()
        waited = door.loop.create_future()
        door.loop.call_later(0.03, waited.set_result, None)
        await waited
        assert door.inside == []
        door.close()

    run(main)


def test_lines_are_said_once_a_minute(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(acceptor, "monotonic", lambda: clock[0])
    lines: list[str] = []
    say = Sayer(lines.append)
    for clock[0], said in ((100.0, 1), (100.1, 1), (159.9, 1), (160.0, 2), (161.0, 2), (400.0, 3)):
        say("full")
        assert len(lines) == said


@pytest.mark.parametrize(("soft", "places"), [(1024, 480), (20_000, 9968), (66, 1), (64, 1), (10, 1)])
def test_descriptor_budget(soft: int, places: int, monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert descriptor_budget() == places


def test_descriptor_budget_without_limit(monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert descriptor_budget() == 1 << 20
