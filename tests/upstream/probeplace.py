"""Probes against scripted endpoints: what a service of a configuration asks, and what the probe says came of it."""
from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from edgeproxy.config import model
from edgeproxy.config.certificates import read_certificate
from edgeproxy.net.poller import Poller
from edgeproxy.policy.endpoint import Endpoint as Identity
from edgeproxy.upstream.access import Access
from edgeproxy.upstream.probe import Probe, Questions
from edgeproxy.upstream.tls import build_tls
from fakes import Place
from net.rig import until

HTTP = model.HttpProbe("/healthz")


class Asking:
    """One service's probes, begun by hand."""

    def __init__(self, *places: Place, health: model.Health | None = None, timeout: float = 5.0, http: Any = None,
                 tcp: bool = False, grpc: Any = None, **service: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.poller = Poller(self.loop)
        self.places = places
        asked = health or model.Health(tcp=model.TcpProbe() if tcp else None, grpc=grpc, timeout=timeout,
                                       http=http or (HTTP if not tcp and grpc is None else None))
        config = model.Service("back", tuple(p.address for p in places), health=asked, **service)
        shown = config.tls.client_cert
        read = {} if shown is None else {(shown.cert, shown.key): read_certificate(shown.cert, shown.key)}
        self.tls = build_tls(config, read)
        self.questions = Questions(self.loop, self.poller, config, Access(config, self.tls))
        self.results: list[str | None] = []

    def identity(self, number: int = 0, name: str = "") -> Identity:
        where = self.places[number].address
        return Identity(where.address, where.host, where.port, where.path, name)

    def ask(self, number: int = 0, name: str = "") -> Probe:
        before = len(self.results)
        probe = self.questions.begin(self.identity(number, name), self.results.append)
        assert len(self.results) == before, "told before it was begun"
        return probe

    async def result(self, number: int = 1) -> str | None:
        """What the probe that ended as the `number`th came to."""
        await until(lambda: len(self.results) >= number)
        assert len(self.results) == number, "told twice"
        return self.results[-1]

    async def __aenter__(self) -> Asking:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        for place in self.places:
            place.close()
        for _ in range(5):  # closed in the next turn of the loop
            await asyncio.sleep(0)
        assert self.questions.pool.idle == []
        self.poller.close()
