"""What outlives configurations: listening sockets, by address, and services with their endpoints' state and pools, what
finds these endpoints and what probes them.
"""
from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

from edgeproxy.config import model
from edgeproxy.net.poller import Poller
from edgeproxy.net.sockets import close_listening, is_local, listen
from edgeproxy.upstream.events import Events
from edgeproxy.upstream.probing import Probing, Spacing
from edgeproxy.upstream.roster import UNASKED, is_named
from edgeproxy.upstream.service import Service
from edgeproxy.upstream.tls import ClientTls

if TYPE_CHECKING:
    from edgeproxy.upstream.discovery import Discovery
    from edgeproxy.upstream.resolver import Resolver


class Registry:
    __slots__ = ("sockets", "services", "discoveries", "probings", "events", "_loop", "_poller", "_rng", "_resolver",
                 "_resolver_config", "_spacing")

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller) -> None:
        self.sockets: dict[model.Bind, list[socket.socket]] = {}
        self.services: dict[str, Service] = {}
        self.discoveries: dict[str, Discovery] = {}
        """Of the services whose endpoints are found by name."""
        self.probings: dict[str, Probing] = {}
        """Of the services whose endpoints are probed."""
        self.events = Events()
        self._loop = loop
        self._poller = poller
        self._rng = random.Random()
        self._spacing = Spacing()
        self._resolver: Resolver | None = None
        self._resolver_config = model.Resolver()

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

    # ---- services

    def apply_services(self, config: model.Config, tls: Mapping[str, ClientTls]) -> dict[str, Service]:
        """Bring the services to `config`: unchanged ones are not touched. Cannot fail."""
        for name in self.services.keys() - config.services.keys():
            self._end_tending(name)
            self.services.pop(name).retire()
        asked_otherwise = config.resolver != self._resolver_config
        self._resolver_config = config.resolver
        if asked_otherwise and self._resolver is not None:
            self._resolver.apply(config.resolver)
        for name, wanted in config.services.items():
            known = self.services.get(name)
            changed = known is None or known.config != wanted or known.access.tls is not tls.get(name)
            if known is None:
                known = self.services[name] = Service(self._loop, wanted, self._rng, tls.get(name), self.events)
            elif changed:
                known.apply(wanted, tls.get(name))
            if changed or asked_otherwise:
                self._discover(known, asked_otherwise)
            if changed:
                self._probe(known)
        return dict(self.services)

    def _discover(self, service: Service, asked_otherwise: bool) -> None:
        name = service.name
        discovery = self.discoveries.get(name)
        if not is_named(service.config):
            if discovery is not None:
                self.discoveries.pop(name).close()
                service.absence = None
                service.supply((), "")
        elif discovery is not None:
            discovery.apply(service.config, asked_otherwise)
        else:
            from edgeproxy.upstream.discovery import Discovery  # what knows DNS is imported by those who have names

            if not service.view.members:
                service.supply((), UNASKED)
            begun = self.discoveries[name] = Discovery(self._loop, self._resolves(), service.config, service.supply,
                                                       self.events, self._rng, self._is_own)
            service.absence = lambda: begun.trouble

    def _is_own(self, host: str, port: int) -> bool:
        """Whether the proxy listens there, be it on every address."""
        for bind, sockets in self.sockets.items():
            if bind.path or all(sock.getsockname()[1] != port for sock in sockets):
                continue
            if is_local(host) if not bind.host or ip_address(bind.host).is_unspecified else bind.host == host:
                return True
        return False

    def _resolves(self) -> Resolver:
        from edgeproxy.upstream.resolver import Resolver

        if self._resolver is None:
            self._resolver = Resolver(self._loop, self._resolver_config)
        return self._resolver

    def _probe(self, service: Service) -> None:
        name = service.name
        probing = self.probings.get(name)
        if service.config.health is None:
            if probing is not None:
                service.followed = None
                self.probings.pop(name).close()
        elif probing is not None:
            probing.follow()
        else:
            probing = self.probings[name] = Probing(self._loop, self._poller, service, self._rng, self._spacing)
            service.followed = probing.follow

    def _end_tending(self, name: str) -> None:
        for tending in (self.discoveries.pop(name, None), self.probings.pop(name, None)):
            if tending is not None:
                tending.close()

    def end_tending(self) -> None:
        """Ask and probe no more."""
        for name in list(self.services):
            self._end_tending(name)

    # ---- sockets

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
