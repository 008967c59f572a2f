"""The running program: start, reload, drain, stop.

A reload is: load, compile, bind what is new (everything that can fail), then swap the snapshot and retire what is no
longer named. A reload that fails leaves everything as it was and says why.
"""
from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from edgeproxy import __version__, sessions
from edgeproxy.codec._leaf import ENGINE
from edgeproxy.config.delta import delta
from edgeproxy.config.load import ConfigError
from edgeproxy.config.model import Config
from edgeproxy.net.poller import Poller
from edgeproxy.net.sockets import BindError, refuse_new
from edgeproxy.runtime.accesslog import AccessLog
from edgeproxy.runtime.admin import AdminServer, Place
from edgeproxy.runtime.listener import Listener
from edgeproxy.runtime.registry import Registry
from edgeproxy.runtime.status import Running
from edgeproxy.runtime.watch import CertificateWatch, Clock, warm
from edgeproxy.session.acceptor import ConnectionLimit, descriptor_budget
from edgeproxy.snapshot import Live, Rules, Snapshot, compile_rules

_log = logging.getLogger("edgeproxy")

STOP_GRACE = 1.0  # after SIGINT: what is being answered may finish

EXIT_OK, EXIT_FAILURE, EXIT_CUT = 0, 1, 3


class Proxy:
    def __init__(self, loop: asyncio.AbstractEventLoop, load: Callable[[], Config],
                 announce: Callable[[str], None], clock: Clock | None = None, place: Place | None = None) -> None:
        """`clock`: by which certificates are watched; None: the real one. `place`: of the admin server."""
        self._loop = loop
        self._clock = clock or Clock()
        self._load = load
        self._announce = announce
        self._poller = Poller(loop)
        self._registry = Registry(loop, self._poller)
        self._budget = ConnectionLimit(descriptor_budget())
        self._listeners: dict[str, Listener] = {}
        self._leaving: set[Listener] = set()
        self._access_log: AccessLog
        self._admin = AdminServer(loop, place)
        self._live: Live
        self._running: Running
        self._watch: CertificateWatch
        self._warming: asyncio.Task[None] | None = None
        self._stopped: asyncio.Future[int] = loop.create_future()
        self._reloading = False
        self._reload_again = False
        self._drained: asyncio.Event | None = None
        self._ending: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- start

    def start(self, config: Config) -> None:
        """Raises BindError."""
        rules = compile_rules(config)
        self._registry.sockets.update(self._registry.bind(config))
        try:
            self._admin.bind(config.admin)
        except BindError:
            self._registry.close()
            raise
        self._access_log = AccessLog(config.access_log, self._loop)
        services = self._registry.apply_services(config, rules.endpoints_tls)
        self._live = Live(Snapshot(config, services, rules))
        self._follow(config)
        self._watch = CertificateWatch(self._loop, lambda: self._live.snapshot.config,
                                       lambda: self._live.snapshot.rules, self._renewed, self._clock)
        self._warm()
        self._running = Running(self._live, self._listeners, self._leaving, self._registry)
        told = self._admin.serve(self._running)
        for listener in self._listeners.values():
            for line in listener.describe():
                self._announce(line)
        for line in told:
            self._announce(line)

    def _follow(self, config: Config) -> None:
        """Bring the listeners to `config`; its sockets are in the registry."""
        for name, listener in list(self._listeners.items()):
            wanted = config.listeners.get(name)
            if wanted is None or wanted.protocol != listener.config.protocol:
                self._retire(self._listeners.pop(name))
        sockets = {name: [sock for bind in new.bind for sock in self._registry.sockets[bind]]
                   for name, new in config.listeners.items()}
        for name, listener in self._listeners.items():
            listener.let_go(sockets[name])
        for name, new in config.listeners.items():
            if name not in self._listeners:
                self._listeners[name] = Listener(self._loop, self._poller, new, self._live, self._access_log,
                                                 self._budget)
            self._listeners[name].follow(new, sockets[name])
        self._registry.close_unused(config)

    def _retire(self, listener: Listener) -> None:
        self._leaving.add(listener)
        listener.retire(lambda: self._left(listener))

    def _left(self, listener: Listener) -> None:
        self._leaving.discard(listener)
        if not self._leaving and self._drained is not None:
            self._drained.set()

    # ---- reload

    def reload(self) -> None:
        """SIGHUP. One at a time; one that is asked for meanwhile follows."""
        if self._reloading:
            self._reload_again = True
        elif self._ending is None:
            self._reloading = True
            self._spawn(self._reload())

    async def _reload(self) -> None:
        try:
            # In a thread, so that parsing ten thousand routes does not hold up a request.
            config = await asyncio.to_thread(self._load)
            rules = await asyncio.to_thread(compile_rules, config, self._live.snapshot.rules)
            self._commit(config, rules)
        except (ConfigError, BindError) as error:
            self._running.refused = str(error)
            _log.error("reload refused, the running configuration stays:\n%s", error)
        except Exception:
            _log.exception("reload failed, the running configuration stays; please report it")
        finally:
            self._reloading = False
            if self._reload_again:
                self._reload_again = False
                self.reload()

    def _commit(self, config: Config, rules: Rules) -> None:
        if self._ending is not None:
            return
        old = self._live.snapshot.config
        self._registry.sockets.update(self._registry.bind(config))
        services = self._registry.apply_services(config, rules.endpoints_tls)
        self._live.snapshot = Snapshot(config, services, rules)
        if config.access_log != old.access_log:
            self._access_log.configure(config.access_log)
        self._follow(config)
        self._admin.apply(config.admin)
        self._running.refused = ""
        self._warm()
        _log.info("configuration reloaded: %s", delta(old, config))

    def _renewed(self, old: Config, new: Config, rules: Rules) -> None:
        """Certificates have changed in their files."""
        snapshot = self._live.snapshot
        if snapshot.config is old and self._ending is None:  # else a reload has read them anyway
            services = self._registry.apply_services(new, rules.endpoints_tls)
            self._live.snapshot = Snapshot(new, services, rules)
            self._warm()

    def _warm(self) -> None:
        if self._warming is not None:
            self._warming.cancel()
        self._warming = self._loop.create_task(warm(list(self._live.snapshot.tls.values())))

    # ---- end

    def drain(self) -> None:
        """SIGTERM: no new connections, what is under way may finish for `shutdown.drain` seconds."""
        self._end(self._live.snapshot.config.shutdown.drain, "SIGTERM")

    def stop(self) -> None:
        """SIGINT: as `drain`, but short; a second one ends at once."""
        if self._ending is not None:
            self._cut(EXIT_OK)
        else:
            self._end(STOP_GRACE, "SIGINT")

    def _end(self, grace: float, why: str) -> None:
        if self._ending is None:
            self._live.draining = True
            self._ending = self._loop.create_task(self._drain(grace, why))

    async def _drain(self, grace: float, why: str) -> None:
        self._watch.stop()
        if self._warming is not None:
            self._warming.cancel()
        for sockets in self._registry.sockets.values():
            for sock in sockets:
                refuse_new(sock)
        for listener in self._listeners.values():
            listener.last_call()
            self._retire(listener)
        self._listeners.clear()
        self._registry.close()
        open_work = sum(listener.count for listener in self._leaving)
        if open_work:
            _log.info("%s: %s may finish for %g s", why, _connections(open_work), grace)
        self._drained = asyncio.Event()
        if self._leaving:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._drained.wait()
        self._cut(EXIT_CUT if self._leaving and why == "SIGTERM" else EXIT_OK)

    def _cut(self, status: int) -> None:
        cut = sum(listener.count for listener in self._leaving)
        if cut:
            _log.warning("%s cut", _connections(cut))
        for listener in list(self._leaving):
            listener.cut()
        if not self._stopped.done():
            self._stopped.set_result(status)

    # ---- running

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _signals(self) -> None:
        for number, action in ((signal.SIGHUP, self.reload), (signal.SIGTERM, self.drain), (signal.SIGINT, self.stop),
                               (signal.SIGUSR1, lambda: self._access_log.reopen())):
            self._loop.add_signal_handler(number, action)

    async def serve(self, config: Config) -> int:
        """Run until stopped; the exit status. Raises BindError."""
        self._signals()  # before the first line is printed: who waits for it may send one at once
        self.start(config)
        self._announce(f"edgeproxy {__version__}, codec: {ENGINE}, sessions: {sessions()}")
        gc.collect()
        gc.freeze()  # what the start built is never garbage: do not look at it again
        status = await self._stopped
        self._registry.end_tending()
        self._admin.close()
        await asyncio.sleep(0)  # the callbacks of what was cut
        self._access_log.close()
        return status


def _connections(count: int) -> str:
    return "1 connection" if count == 1 else f"{count} connections"


def run(load: Callable[[], Config], announce: Callable[[str], None], place: Place | None = None) -> int:
    """Load, start and serve until a signal; the exit status. Raises ConfigError; a failed bind is told in a line.
    `place`: of the admin server."""
    config = load()
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if os.environ.get("EDGEPROXY_LOOP", "uvloop") == "uvloop":
        with suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        async def main() -> int:
            loop = asyncio.get_running_loop()
            status = await Proxy(loop, load, announce, place=place).serve(config)
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)  # the end is under way: one more ctrl-C must not garble it
            return status

        try:
            return runner.run(main())
        except BindError as error:
            print(f"edgeproxy: {error}", file=sys.stderr)
            return EXIT_FAILURE
