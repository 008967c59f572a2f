"""Real processes and real sockets for every scenario; all of it on 127.0.0.1 and gone when its test is over.

`EDGEPROXY_LONG=1` runs the long versions. `EDGEPROXY_PURE=1` and `EDGEPROXY_LOOP=asyncio` reach the proxy as they are.
"""
from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from dnspeers import ScriptedDns
from e2e.backends import Actor, BlackHole, Nginx, Stage, StartActor, StartStage
from e2e.certs import Authority
from e2e.pods import Pods
from e2e.program import Edge, StartEdge
from e2e.tlspeers import DialTls, client_context, connect_tls, tls_servers
from e2e.wire import Dial, Wire, connect


@pytest.fixture(scope="session", autouse=True)
def enough_descriptors() -> None:
    """A thousand connections at once need more descriptors than many systems give without being asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 8192:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Three servers: a, b and c."""
    server = Nginx(tmp_path_factory.mktemp("nginx"), ("a", "b", "c"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whose certificates the proxy shows, and who signs those of its clients and endpoints."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Nginx]:
    """Servers that speak TLS and HTTP/2: tls, strict (asks for a client certificate), h2, h2c, and a plain one."""
    more, ports = tls_servers(authority)
    server = Nginx(tmp_path_factory.mktemp("origin"), ("plain",), more, ports)
    yield server
    server.stop()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[StartEdge]:
    """Starts a proxy and waits until it listens."""
    started: list[Edge] = []
    numbers = count()

    def start(text: str, env: Mapping[str, str] | None = None, before: Callable[[], None] | None = None) -> Edge:
        proxy = Edge(tmp_path / f"edge{next(numbers)}", text, env, before)
        started.append(proxy)
        return proxy.ready()

    yield start
    _stop_all([proxy.stop for proxy in started])


@pytest.fixture
def stage() -> Iterator[StartStage]:
    """Opens an endpoint that the test plays itself."""
    opened: list[Stage] = []

    def start(port: int = 0, small: bool = False) -> Stage:
        opened.append(Stage(port, small))
        return opened[-1]

    yield start
    _stop_all([one.stop for one in opened])


@pytest.fixture
def actor() -> Iterator[StartActor]:
    """Starts an endpoint with a script."""
    started: list[Actor] = []

    def start(script: Callable[[Wire], None], port: int = 0) -> Actor:
        started.append(Actor(script, port))
        return started[-1]

    yield start
    _stop_all([one.stop for one in started])


@pytest.fixture
def black_hole() -> Iterator[BlackHole]:
    hole = BlackHole()
    yield hole
    hole.stop()


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Opens a client's connection; it is closed with the test."""
    wires: list[Wire] = []

    def open_one(port: int, source: str | None = None, small: bool = False) -> Wire:
        wires.append(connect(port, source=source, small=small))
        return wires[-1]

    yield open_one
    for wire in wires:
        wire.close()


@pytest.fixture
def dial_tls(authority: Authority) -> Iterator[DialTls]:
    """Opens a client's connection over TLS, with that ALPN; it is closed with the test."""
    wires: list[Wire] = []

    def open_one(port: int, *alpn: str) -> Wire:
        wires.append(connect_tls(port, client_context(authority, *alpn)))
        return wires[-1]

    yield open_one
    for wire in wires:
        wire.close()


@pytest.fixture(scope="session")
def long() -> bool:
    """Whether the long versions are wanted."""
    return os.environ.get("EDGEPROXY_LONG", "") == "1"


def _stop_all(stops: list[Callable[[], None]]) -> None:
    faults: list[Exception] = []
    for stop in stops:
        try:
            stop()
        except (Exception, AssertionError) as fault:
            faults.append(fault)
    if faults:
        raise faults[0]


# ---- names and what they stand for

@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def scripted(stack: ExitStack) -> ScriptedDns:
    return stack.enter_context(ScriptedDns())


@pytest.fixture
def pods(stack: ExitStack) -> Pods:
    opened = Pods()
    stack.callback(opened.close)
    return opened
