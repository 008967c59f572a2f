"""What probes cost: a thousand endpoints, each probed every two seconds, take at most a tenth of a core."""
from __future__ import annotations

import time
from pathlib import Path

import pytest

from e2e.backends import Nginx
from e2e.program import StartEdge, free_port, web
from e2e.waiting import eventually

pytestmark = pytest.mark.alone

ENDPOINTS = 1000
MEASURED = 10.0
"""Seconds."""
MOST = 0.10
"""Of a core: 200 µs for a probe, the kernel's part included."""


@pytest.mark.patience(300)
@pytest.mark.parametrize("state", ["up", "down"])
@pytest.mark.parametrize("kind", ["tcp: {}", "http: {path: /health}"], ids=["tcp", "http"])
def test_a_thousand_endpoints(edge: StartEdge, tmp_path: Path, kind: str, state: str, long: bool) -> None:
    if not long:
        pytest.skip("a measurement, with EDGEPROXY_LONG=1 only")
    behind, port = free_port(), free_port()
    server = Nginx(tmp_path / "nginx", (), f"server {{ listen {behind} backlog=8192; location / {{ return 200 fine; }} }}",
                   {"all": behind})
    try:
        at = behind if state == "up" else free_port()
        endpoints = [f"'127.2.{number // 250}.{number % 250 + 1}:{at}'" for number in range(ENDPOINTS)]
        proxy = edge(web(port, *endpoints, service=f"health: {{{kind}, interval: 2s, timeout: 1s}}"))
        told = "its first probe passed" if state == "up" else "3 probes in a row failed"
        eventually(lambda: proxy.errors.count(told) == ENDPOINTS, "all have been probed", seconds=30)
        began, used = time.monotonic(), proxy.cpu
        eventually(lambda: time.monotonic() - began >= MEASURED, "it is over", seconds=MEASURED + 1)
        share = (proxy.cpu - used) / (time.monotonic() - began)
        print(f"\n{kind} {state}: {share:.1%} of a core, {share * 2e6 / ENDPOINTS:.0f} µs for each in its two seconds")
        assert share <= MOST
        assert proxy.errors.count(told) == ENDPOINTS, "nothing has changed meanwhile"
    finally:
        server.stop()
