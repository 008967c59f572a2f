"""The running program within a test: it listens at unix sockets in a folder, and its log is a list of lines."""
from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeproxy.config import model
from edgeproxy.runtime.proxy import Proxy
from edgeproxy.runtime.watch import Clock
from fakes import Talk
from net.rig import soon, until


class Program(logging.Handler):
    """The program with a configuration that the test changes; unix sockets in a folder of the test's."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        super().__init__(logging.INFO)
        self.clock = clock
        self.folder = folder
        self.config = model.Config({}, access_log=model.AccessLog(format="off"), shutdown=model.Shutdown(0.0))
        self.lines: list[str] = []
        self.announced: list[str] = []
        self.clients: list[Talk] = []
        self.loads = 0
        self.fault: Exception | None = None
        self.proxy: Proxy

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def load(self) -> model.Config:
        self.loads += 1
        if self.fault is not None:
            raise self.fault
        return self.config

    def bind(self, name: str) -> model.Bind:
        return model.Bind(path=str(self.folder / name))

    def set(self, listeners: dict[str, str] | None = None, services: dict[str, Any] | None = None,
            routes: tuple[model.Route, ...] | None = None, **parts: Any) -> None:
        """`listeners`: name to socket; `services`: name to places; one route to each service by host, and to `a`."""
        config = self.config
        if listeners is not None:
            config = replace(config, listeners={
                name: model.Listener(name, (self.bind(path.removeprefix("tcp:")),), "tcp", service="back")
                if path.startswith("tcp:") else model.Listener(name, (self.bind(path),), "http")
                for name, path in listeners.items()})
        if services is not None:
            config = replace(config, services={name: model.Service(name, tuple(p.address for p in places))
                                               for name, places in services.items()})
        if routes is not None:
            config = replace(config, routes=routes)
        self.config = replace(config, **parts)

    async def reload(self) -> str:
        """Reload; the line that says how it went."""
        seen = len(self.lines)
        self.proxy.reload()
        await until(lambda: any("reload" in line for line in self.lines[seen:]))
        return next(line for line in self.lines[seen:] if "reload" in line)

    async def client(self, path: str) -> Talk:
        sock = socket.socket(socket.AF_UNIX)
        self.clients.append(Talk(sock))
        await soon(asyncio.get_running_loop().sock_connect(sock, str(self.folder / path)))
        return self.clients[-1]

    async def refused(self, path: str) -> bool:
        try:
            (await self.client(path)).close()
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        return False

    async def __aenter__(self) -> Program:
        self.logger = logging.getLogger("edgeproxy")
        self.level = self.logger.level
        self.logger.setLevel(logging.INFO)
        self.logger.addHandler(self)
        self.proxy = Proxy(asyncio.get_running_loop(), self.load, self.announced.append, self.clock)
        self.running = asyncio.create_task(self.proxy.serve(self.config))
        await until(lambda: self.announced or self.running.done())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.proxy.stop()
        self.proxy.stop()
        await soon(self.running)
        self.logger.removeHandler(self)
        self.logger.setLevel(self.level)
        for client in self.clients:
            client.close()
        assert not [line for line in self.lines if "please report" in line]
        assert os.listdir(self.folder) == [], "the sockets' files are gone"


class Invented(Clock):
    """A clock that stands until the test says how much later it is; whoever sleeps by it has one turn then."""

    def __init__(self, date: float) -> None:
        self.began = date
        self.passed = 0.0
        self.asked: list[float] = []
        """How long who sleeps has wanted to, each time."""
        self._sleeper: asyncio.Future[None] | None = None

    def since(self) -> float:
        return self.passed

    def date(self) -> float:
        return self.began + self.passed

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        self._sleeper = asyncio.get_running_loop().create_future()
        await self._sleeper

    async def later(self, seconds: float = 1.0) -> None:
        """So much later: who sleeps wakes, and has fallen asleep again when this returns."""
        await until(lambda: self._sleeper is not None)
        assert self._sleeper is not None
        self.passed += seconds
        sleeper, self._sleeper = self._sleeper, None
        sleeper.set_result(None)
        await until(lambda: self._sleeper is not None)
