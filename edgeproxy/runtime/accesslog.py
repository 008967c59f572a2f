"""The access log's output: lines are gathered, and a thread writes them.

Rule of this file: nothing here may stop or slow the proxy. `write` appends to a list; a daemon thread does the system
calls, so a pipe nobody reads, a full disk or a hung mount block that thread and nobody else. What does not fit into the
bound is dropped and counted, and the error log says how many, at most once a minute.

Not taken: making the output non-blocking. Standard output is often a pipe or terminal shared with other programs, and
O_NONBLOCK belongs to the open file, so theirs would become non-blocking too. Not taken either: plain files written
from the loop, which hangs the proxy with the disk (and saves 0.2 µs a line). What a thread costs is the struggle for
the interpreter: woken for each 64 KiB, joining and writing batch by batch, it cost 2 to 6 µs a line; so the loop joins,
and the thread is woken ten times a second and makes one system call: 0.5 µs a line with everything.
"""
from __future__ import annotations

import logging
import os
import select
import stat
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

from edgeproxy.config import model
from edgeproxy.runtime.logline import CombinedLines, JsonLines

if TYPE_CHECKING:
    import asyncio

    from edgeproxy.session.record import ConnectionRecord, ExchangeRecord

BATCH = 64 * 1024          # lines are joined when they are this much, while they are still in the cache
HANDOVER = 1024 * 1024     # the thread is woken for this much without waiting for the timer
DELAY = 0.1                # seconds a line waits at most before it is handed to the thread
PENDING = 4 * 1024 * 1024  # bytes joined and not written yet; beyond that lines are dropped
PATIENCE = 1.0             # seconds that close() waits for a slow output, and a first loss for its report
REPORT_EVERY = 60.0        # seconds between two reports of losses

log = logging.getLogger("edgeproxy.accesslog")


def _nothing(_: ConnectionRecord) -> str:
    return ""


def name(path: str) -> str:
    return "standard output" if path == "-" else path


def open_log(path: str) -> int:
    """A descriptor to append to; "-" is standard output. Raises OSError.

    O_NONBLOCK so that a FIFO without a reader is an error instead of a wait for ever; files ignore it.
    """
    if path == "-":
        return 1
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)


def unwritable(path: str) -> str | None:
    """Why `path` could not be opened as a log, in plain words, without creating it; None: nothing against it."""
    if path == "-":
        return None
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            return f"there is no folder {folder}"
        return None if os.access(folder, os.W_OK | os.X_OK) else f"no permission to create a file in {folder}"
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "is a directory"
    return None if os.access(path, os.W_OK) else "permission denied"


_Batches = tuple[list[bytes], int]  # whole lines, and their size
_AT_ONCE = 64  # pieces for one writev; the kernel's bound is 1024


class _Output:
    """The thread's half: a descriptor and what became of the lines. Its counters have this one writer."""

    __slots__ = ("path", "fd", "queue", "done", "failed", "error", "_torn", "_lost")

    def __init__(self, path: str, lost: Callable[[], None]) -> None:
        self.path = path
        self.fd = open_log(path)
        self.queue: SimpleQueue[_Batches | str | None] = SimpleQueue()
        """In order: batches to write; a path to open for what follows; None: stop."""
        self.done = 0
        """Bytes that are not pending any more, written or lost."""
        self.failed = 0
        """Lines lost because the output refused them."""
        self.error = ""
        self._torn = False  # the last write ended inside a line
        self._lost = lost

    def run(self) -> None:
        while (item := self.queue.get()) is not None:
            if isinstance(item, str):
                self._open(item)
            else:
                self._put(item[0])
                self.done += item[1]

    def _open(self, path: str) -> None:
        if path == self.path == "-":
            return
        try:
            fd = open_log(path)
        except OSError as error:
            log.error("access log: %s: %s; going on with %s as it was", path, error.strerror, name(self.path))
            return
        self.close()
        self.path, self.fd, self._torn = path, fd, False

    def close(self) -> None:
        if self.fd != 1:
            os.close(self.fd)

    def _put(self, batches: list[bytes]) -> None:
        rest: list[bytes | memoryview] = [b"\n"] if self._torn else []
        rest += batches
        try:
            while rest:
                written = self._write(rest[:_AT_ONCE])
                while rest and written >= len(rest[0]):
                    written -= len(rest.pop(0))
                self._torn = written > 0 and rest[0][written - 1] != 0x0A
                if written:
                    rest[0] = memoryview(rest[0])[written:]
        except OSError as error:
            self.error = error.strerror or str(error)
            self.failed += sum(bytes(piece).count(b"\n") for piece in rest) - (rest[0] == b"\n")
            self._lost()

    def _write(self, pieces: Sequence[bytes | memoryview]) -> int:
        while True:
            try:
                return os.writev(self.fd, pieces)
            except BlockingIOError:  # made so by others, or a FIFO of our own: wait here, nobody else has to
                poll = select.poll()
                poll.register(self.fd, select.POLLOUT)
                poll.poll()


class AccessLog:
    """`exchange(x)`, `connection(x)`. All methods belong to the loop's thread; lines are ASCII and end with a newline.

    Raises OSError if the file cannot be opened.
    """

    __slots__ = ("enabled", "http", "tcp", "_loop", "_path", "_lines", "_size", "_batches", "_waiting", "_queued",
                 "_dropped", "_reported", "_timer", "_reporter", "_output", "_writer", "_closed")

    def __init__(self, config: model.AccessLog, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: list[str] = []
        self._size = 0
        self._batches: list[bytes] = []
        self._waiting = 0
        """Bytes in `_batches`."""
        self._queued = 0
        """Bytes that were ever handed over."""
        self._dropped = 0
        self._reported = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reporter: asyncio.TimerHandle | None = None
        self._writer: threading.Thread | None = None
        self._closed = False
        self._use(config.format)
        self._path = config.path if self.enabled else "-"
        self._output = _Output(self._path, self._lost_in_thread)

    def _use(self, form: str) -> None:
        self.enabled = form != "off"
        self.http: Callable[[ExchangeRecord], str] = _nothing
        self.tcp: Callable[[ConnectionRecord], str] = _nothing
        if self.enabled:
            lines = JsonLines() if form == "json" else CombinedLines()
            self.http, self.tcp = lines.http, lines.tcp

    def configure(self, config: model.AccessLog) -> None:
        """Follow a new configuration. A path that cannot be opened is told in the error log, and the old one stays."""
        self.flush()
        self._use(config.format)
        if self.enabled and config.path != self._path and not self._closed:
            self._path = config.path
            self._send(config.path)

    def exchange(self, ended: ExchangeRecord) -> None:
        if self.enabled:
            self.write(self.http(ended))

    def connection(self, ended: ConnectionRecord) -> None:
        if self.enabled:
            self.write(self.tcp(ended))

    @property
    def lost(self) -> int:
        """Lines that were never written."""
        return self._dropped + self._output.failed

    def write(self, line: str) -> None:
        self._lines.append(line)
        self._size = size = self._size + len(line)
        if size >= BATCH:
            self._join()
        elif self._timer is None:
            self._timer = self._loop.call_later(DELAY, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Hand over what has gathered; does not wait until it is written."""
        self._join()
        if self._waiting:
            self._queued += self._waiting
            self._send((self._batches, self._waiting))
            self._batches, self._waiting = [], 0

    def _join(self) -> None:
        lines = self._lines
        self._lines, self._size = [], 0
        if not lines or not self.enabled:
            return
        batch = "".join(lines).encode("ascii", "backslashreplace")
        if self._closed or self._queued - self._output.done + self._waiting + len(batch) > PENDING:
            self._dropped += len(lines)
            self._watch()
            return
        self._batches.append(batch)
        self._waiting += len(batch)
        if self._waiting >= HANDOVER:
            self.flush()

    def reopen(self) -> None:
        """Open the path again (after rotation). What was written before this goes to the old file."""
        if self.enabled and not self._closed:
            self.flush()
            self._send(self._path)

    def close(self) -> None:
        """Write what is left; an output that takes nothing is given up after a second."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        for timer in (self._timer, self._reporter):
            if timer is not None:
                timer.cancel()
        self._timer = self._reporter = None
        if self._writer is not None:
            self._output.queue.put(None)
            self._writer.join(PATIENCE)
        if self._writer is not None and self._writer.is_alive():
            log.error("access log: %s takes nothing; given up with %d KiB unwritten", name(self._output.path),
                      (self._queued - self._output.done) // 1024)
        else:
            self._output.close()
        if self.lost > self._reported:
            self._report()

    def _send(self, item: _Batches | str) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._output.run, name="access-log", daemon=True)
            self._writer.start()
        self._output.queue.put(item)

    def _lost_in_thread(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: close() has reported, or nobody is left to be told
            self._loop.call_soon_threadsafe(self._watch)

    def _watch(self) -> None:
        if self._reporter is None and not self._closed:
            self._reporter = self._loop.call_later(PATIENCE, self._look)

    def _look(self) -> None:
        self._reporter = None
        if self.lost > self._reported:
            self._report()
            self._reporter = self._loop.call_later(REPORT_EVERY, self._look)

    def _report(self) -> None:
        reason = self._output.error or "it is too slow"
        log.error("access log: %d lines lost since the last report, %d in all (%s: %s)", self.lost - self._reported,
                  self.lost, name(self._output.path), reason)
        self._reported = self.lost
