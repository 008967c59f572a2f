"""The poller: who is told of what, once, and never of somebody else's descriptor."""
from __future__ import annotations

import asyncio
import os
import socket

from edgeproxy.net.poller import BROKEN, READABLE, WRITABLE, Poller
from net.rig import Run, both_loops, until

pytestmark = both_loops


def pair() -> tuple[socket.socket, socket.socket]:
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    return a, b


def test_changes_are_told_once(run: Run) -> None:
    async def main() -> None:
        poller = Poller(asyncio.get_running_loop())
        a, b = pair()
        events: list[int] = []
        poller.watch(a.fileno(), events.append)
        await until(lambda: events)
        assert events.pop() & (WRITABLE | READABLE) == WRITABLE
        b.send(b"x")
        await until(lambda: events)
        assert events.pop() & READABLE
        for _ in range(20):
            await asyncio.sleep(0)
        assert events == []
        b.close()
        await until(lambda: events)
        assert events.pop() & READABLE
        poller.close()
        a.close()

    run(main)


def test_a_reset_is_told_as_broken(run: Run) -> None:
    async def main() -> None:
        poller = Poller(asyncio.get_running_loop())
        a, b = pair()
        events: list[int] = []
        poller.watch(a.fileno(), events.append)
        a.send(b"unread: closing now is a reset")
        b.close()
        await until(lambda: events and events[-1] & BROKEN)
        poller.close()
        a.close()

    run(main)


def test_an_event_of_a_former_owner_is_not_told_to_the_next(run: Run) -> None:
    async def main() -> None:
        poller = Poller(asyncio.get_running_loop())
        ends = [pair() for _ in range(2)]
        told: list[str] = []
        replaced: list[socket.socket] = []

        def first(events: int) -> None:
            """Closes the other and opens one with the same number, whose turn in this list is still to come."""
            if not events & READABLE or replaced:
                return
            other = ends[1][0].fileno()
            poller.forget(other)
            ends[1][0].close()
            fresh = pair()
            if fresh[1].fileno() == other:
                fresh = fresh[1], fresh[0]
            assert fresh[0].fileno() == other
            replaced.extend(fresh)
            poller.watch(other, lambda events: told.append("readable" if events & READABLE else "writable"))

        poller.watch(ends[0][0].fileno(), first)
        poller.watch(ends[1][0].fileno(), lambda _: told.append("former"))
        await until(lambda: "former" in told)
        told.clear()
        ends[0][1].send(b"x")
        ends[1][1].send(b"x")
        await until(lambda: told)
        assert told == ["writable"]
        poller.close()
        for sock in (*ends[0], *ends[1], *replaced):
            sock.close()

    run(main)


def test_forgotten_and_handed_over(run: Run) -> None:
    async def main() -> None:
        poller = Poller(asyncio.get_running_loop())
        a, b = pair()
        old: list[int] = []
        new: list[int] = []
        poller.watch(a.fileno(), old.append)
        poller.hand_over(a.fileno(), new.append)  # before the first turn
        await until(lambda: new)
        poller.hand_over(a.fileno(), old.append)
        b.send(b"x")
        await until(lambda: old)
        poller.forget(a.fileno())
        poller.forget(a.fileno())
        old.clear()
        b.send(b"x")
        for _ in range(20):
            await asyncio.sleep(0)
        assert old == []
        poller.close()
        poller.close()
        a.close()
        b.close()

    run(main)


def test_a_mistake_of_one_watcher_costs_the_others_nothing(run: Run, caplog) -> None:
    async def main() -> None:
        poller = Poller(asyncio.get_running_loop())
        ends = [pair() for _ in range(10)]
        told: set[int] = set()

        def wrong(_: int) -> None:
            raise ZeroDivisionError

        for number, (a, _) in enumerate(ends):
            poller.watch(a.fileno(), wrong if number % 2 else lambda _, n=number: told.add(n))
        poller.again(lambda: wrong(0))
        poller.again(lambda: told.add(100))
        await until(lambda: told == {0, 2, 4, 6, 8, 100})
        poller.close()
        for end in ends:
            for sock in end:
                sock.close()

    run(main)
    assert caplog.text.count("internal error") == 6


def test_again_is_once_and_after_other_work(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        poller = Poller(loop)
        order: list[str] = []

        def work() -> None:
            order.append("work")
            if order.count("work") < 3:
                poller.again(work)
                loop.call_soon(order.append, "other")

        poller.again(work)
        poller.again(work)
        assert order == []
        await until(lambda: order.count("work") == 3)
        await asyncio.sleep(0)
        assert order.count("work") == 3
        assert order[0] == "work"
        assert "other" in order[1:]
        poller.close()

    run(main)


def test_many_descriptors_share_turns_with_the_loop(run: Run) -> None:
    """One that is ready for ever must not keep timers and others waiting."""
    async def main() -> None:
        loop = asyncio.get_running_loop()
        poller = Poller(loop)
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        told: list[int] = []

        def ping(_: int) -> None:
            told.append(1)
            os.write(writer, b"x")  # every event makes the next

        poller.watch(reader, ping)
        os.write(writer, b"x")
        fired = loop.create_future()
        loop.call_later(0.01, fired.set_result, None)
        await fired
        assert told
        poller.forget(reader)
        poller.close()
        os.close(reader)
        os.close(writer)

    run(main)
