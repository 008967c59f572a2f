"""What outlives configurations: listening sockets, by address, and services with their endpoints' state and pools."""
from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Mapping

from edgeproxy.config import model
from edgeproxy.net.sockets import close_listening, listen
from edgeproxy.upstream.service import Service
from edgeproxy.upstream.tls import ClientTls


class Registry:
    __slots__ = ("sockets", "services", "_loop", "_rng")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.sockets: dict[model.Bind, list[socket.socket]] = {}
        self.services: dict[str, Service] = {}
        self._loop = loop
        self._rng = random.Random()

    def bind(self, config: model.Config) -> dict[model.Bind, list[socket.socket]]:
        """The sockets that `config` needs and that are not open yet; all of them or none. Raises BindError."""
        new: dict[model.Bind, list[socket.socket]] = {}
        try:
            for listener in config.listeners.values():
                for bind in listener.bind:
                    if bind not in self.sockets and bind not in new:
                        new[bind] = listen(bind)
        except BaseException:
            for sockets in new.values():
                for sock in sockets:
                    close_listening(sock)
            raise
        return new

    def apply_services(self, config: model.Config, tls: Mapping[str, ClientTls]) -> dict[str, Service]:
        """Bring the services to `config`: unchanged ones are not touched. Cannot fail."""
        for name in self.services.keys() - config.services.keys():
            self.services.pop(name).retire()
        for name, service in config.services.items():
            known = self.services.get(name)
            if known is None:
                self.services[name] = Service(self._loop, service, self._rng, tls.get(name))
            elif known.config != service or known.access.tls is not tls.get(name):
                known.apply(service, tls.get(name))
        return dict(self.services)

    def close_unused(self, config: model.Config) -> None:
        """Close the listening sockets that `config` does not name."""
        needed = {bind for listener in config.listeners.values() for bind in listener.bind}
        for bind in self.sockets.keys() - needed:
            for sock in self.sockets.pop(bind):
                close_listening(sock)

    def close(self) -> None:
        for sockets in self.sockets.values():
            for sock in sockets:
                close_listening(sock)
        self.sockets.clear()
