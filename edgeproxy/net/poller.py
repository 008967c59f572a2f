"""Who is told when a raw socket is ready: one epoll for all of them, edge-triggered.

A module of its own because it is compiled (`[tool.edgeproxy]` in pyproject.toml) and `sockets.py` cannot be: a class
there inherits from `socket.socket`, whose layout compiled classes do not know.
"""
from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Callable
from time import monotonic
from typing import Final

_log = logging.getLogger("edgeproxy")

# Linux's numbers, written out so that the compiled code has them as constants; the assertion compares them.
READABLE: Final = 0x201B  # EPOLLIN, and all of ENDING
WRITABLE: Final = 0x4  # EPOLLOUT
ENDING: Final = 0x201A  # EPOLLPRI, EPOLLRDHUP, EPOLLHUP, EPOLLERR
"""A short read does not mean that nothing is left: an end, an error or an urgent mark stands behind the bytes."""
DEAD: Final = 0x18  # EPOLLHUP, EPOLLERR
BROKEN: Final = 0x8  # EPOLLERR
assert (select.EPOLLIN, select.EPOLLPRI, select.EPOLLOUT, select.EPOLLERR, select.EPOLLHUP, select.EPOLLRDHUP) == (
    0x1, 0x2, WRITABLE, BROKEN, 0x10, 0x2000)

_EDGES = (select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET) & 0xFFFFFFFF
_ROUNDS: Final = 4  # a turn of the loop is held for at most 256 events
_BATCH: Final = 64


class Poller:
    """Tells watchers of raw sockets about *changes* of readiness (edge-triggered), by an epoll of its own in the loop.

    Why not `loop.add_reader`: a watcher there costs uvloop four system calls to add, three to remove and one to switch
    between reading and writing; here a connection costs one in its whole life. A relay of one short connection took
    59 µs of CPU that way and 42 µs this way (HAProxy 33), and both loops behave alike.

    Rules for watchers: a call is a hint that something changed, so act until the kernel says EAGAIN or a read came up
    short (see ENDING); a readiness that was told and not used is not told again. `forget` before the descriptor is
    closed. `again` is for who must stop in the middle so that others get their turn.
    """

    __slots__ = ("now", "turning", "batch", "unsent", "_loop", "_epoll", "_register", "_unregister", "_watchers",
                 "_fresh", "_again", "_turn_booked")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = monotonic()
        """When the present turn began: a clock that costs nothing."""
        self.turning = False
        self.batch = 0
        """Number of the events at hand."""
        """Watchers are being called. What they write may wait in `unsent` until they all were."""
        self.unsent: list[Callable[[], None]] = []
        """Called, in order, when the events at hand are dealt with. Sent one by one between other work, each small
        write finds its peer asleep again and pays for waking it; sent in a row they find it awake. Measured with
        keep-alive requests on one core each for proxy and peers: 27 µs of CPU a request without, 21 with."""
        self._loop = loop
        self._epoll = select.epoll()
        self._register = self._epoll.register
        self._unregister = self._epoll.unregister
        self._watchers: dict[int, Callable[[int], None]] = {}
        # A descriptor closed in this turn may be handed out again at once, while an event of its former owner is still
        # on the list: who registers becomes a watcher only when the list is done.
        self._fresh: dict[int, Callable[[int], None]] = {}
        self._again: dict[Callable[[], None], None] = {}
        self._turn_booked = False
        loop.add_reader(self._epoll.fileno(), self._turn)

    def watch(self, fd: int, watcher: Callable[[int], None]) -> None:
        """Call `watcher(events)` at every change from now on, and once if `fd` is ready already. Raises OSError."""
        self._register(fd, _EDGES)
        self._fresh[fd] = watcher

    def hand_over(self, fd: int, watcher: Callable[[int], None]) -> None:
        """Another watcher for a descriptor that is watched already; it finds out itself what is ready now."""
        (self._fresh if fd in self._fresh else self._watchers)[fd] = watcher

    def forget(self, fd: int) -> None:
        """No call for `fd` any more. The kernel's own record goes when the descriptor is closed."""
        if self._watchers.pop(fd, None) is None:
            self._fresh.pop(fd, None)

    def release(self, fd: int) -> None:
        """As `forget`, for a descriptor that stays open: its next owner may watch it anew. Raises OSError."""
        self.forget(fd)
        self._unregister(fd)

    def again(self, work: Callable[[], None]) -> None:
        """Call `work` in the next turn of the loop, once."""
        self._again[work] = None
        if not self._turn_booked:
            self._turn_booked = True
            self._loop.call_soon(self._unfinished)

    def close(self) -> None:
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._watchers.clear()
            self._fresh.clear()
            self._again.clear()

    def _turn(self) -> None:
        watchers, fresh, poll = self._watchers, self._fresh, self._epoll.poll
        self.now = monotonic()
        for _ in range(_ROUNDS):
            if fresh:
                watchers.update(fresh)
                fresh.clear()
            events = poll(0, _BATCH)
            self.batch += 1
            self.turning = True
            for fd, event in events:
                watcher = watchers.get(fd)
                if watcher is not None:
                    try:
                        watcher(event)
                    except Exception:  # the events behind this one would be lost: they are told only once
                        _log.exception("internal error on descriptor %d; please report it", fd)
            self.turning = False
            if self.unsent:
                self._send()
            if len(events) < 2:  # asking again costs less than going round through the loop, but not if it is idle
                return

    def _send(self) -> None:
        work, self.unsent = self.unsent, []
        for send in work:
            try:
                send()
            except Exception:
                _log.exception("internal error while sending; please report it")

    def _unfinished(self) -> None:
        self._turn_booked = False
        self.batch += 1
        self.now = monotonic()
        work, self._again = self._again, {}
        for resume in work:
            try:
                resume()
            except Exception:
                _log.exception("internal error while a relay went on; please report it")
