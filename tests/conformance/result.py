"""What the conformance checks share: the place where edgeproxy runs, and the count of what passed."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from e2e.backends import Actor
from e2e.certs import Authority
from e2e.program import Edge, addresses, free_port
from e2e.tlspeers import NAME, https
from e2e.wire import Wire

BODY = b"conformance: this is the answer to every request, GET and POST alike\n"


@dataclass
class Result:
    passed: int = 0
    failed: int = 0
    missing: list[str] = field(default_factory=list)
    """Tools that are not there."""


class Site:
    """A backend, an authority, and edgeproxy in front of it as often as it is asked for; all gone at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "authority")
        self._backend = Actor(_answering)
        self._started: list[Edge] = []

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        for edge in self._started:
            edge.stop()
        self._backend.stop()

    def start(self, env: dict[str, str], more: str = "") -> tuple[int, int]:
        """A proxy with defaults; the ports of its http and its https listener (`more` are keys of its route)."""
        plain, secure = free_port(), free_port()
        pairs = [self.authority.server(NAME, "localhost", rsa_key=rsa_key, days=90) for rsa_key in (False, True)]
        listener = https(secure, pairs, f"default: '{pairs[0].cert}'")
        text = (f"listeners:\n  web: {{bind: '127.0.0.1:{plain}', protocol: http}}\n  secure: {listener}\n"
                f"routes: [{{service: app{more}}}]\n"
                f"services: {{app: {{endpoints: {addresses(self._backend.port)}}}}}\n")
        edge = Edge(self.folder / f"edge{len(self._started)}", text, env)
        self._started.append(edge)
        edge.ready()
        return plain, secure

    def stop(self) -> None:
        """End the proxy that was started last; raises AssertionError if it printed a fault."""
        self._started.pop().stop()


def _answering(wire: Wire) -> None:
    while True:
        wire.request()
        wire.answer(BODY, "200 OK", "Content-Type: text/plain")
