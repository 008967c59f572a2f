"""How long requests take, with names that are well and with all nameservers silent: the same."""
from __future__ import annotations

import math
import time

import pytest

from dnspeers import ScriptedDns, addresses, nodata, silence
from e2e.pods import Pods, Visitors, named
from e2e.program import StartEdge, free_port
from e2e.waiting import eventually

pytestmark = pytest.mark.alone

NAMES = 30
CLIENTS = 4
TIMEOUT = 0.5
"""Seconds that a question in vain takes; each name asks four. Long against any request, on a machine that is busy too."""


def _p99(visitors: Visitors, since: float, until: float) -> float:
    """Seconds."""
    took = sorted(visit.took for visit in visitors.visits if since <= visit.began < until)
    return took[math.ceil(len(took) * 0.99) - 1]


def test_the_99th_percentile_is_that_without_a_fault(edge: StartEdge, long: bool) -> None:
    """Thirty names of one service, all of them asked for in vain again and again, at two servers."""
    count = 6000 if long else 600
    pods = Pods()
    try:
        with ScriptedDns() as first, ScriptedDns() as second:
            pods.start(*range(1, NAMES + 1))
            for number in range(1, NAMES + 1):
                first.says(f"web{number}.pods.test", "A", addresses(pods.at(number), ttl=1))
                first.says(f"web{number}.pods.test", "AAAA", nodata("pods.test", 1, 1))
            names = ", ".join(f"'web{number}.pods.test.:{pods.port}'" for number in range(1, NAMES + 1))
            port = free_port()
            proxy = edge(named(port, 0, f"dns: [{names}]", [first, second], f"timeout: {TIMEOUT * 1000:.0f}ms, max_ttl: 1s"))
            with Visitors(port, clients=CLIENTS, pause=0.005) as visitors:
                visitors.until_seen(*(pods.at(number) for number in range(1, NAMES + 1)))
                well = visitors.until_more(count)
                well_until = time.monotonic()
                first.always = second.always = silence()
                eventually(lambda: proxy.errors.count("is stale: ") == NAMES, "all names have failed", 30)
                ill = visitors.until_more(count)
                asked = second.count()
            before, during = _p99(visitors, well, well_until), _p99(visitors, ill, math.inf)
            print(f"p99 {before * 1000:.2f} ms before, {during * 1000:.2f} ms while {asked} questions were in vain")
            assert asked
            assert not visitors.failed
            assert during < max(before * 5.0, TIMEOUT / 2), "nobody waits for a question"
            lines = proxy.lines()
            waited = [place for place, line in enumerate(lines) if line["queue_ms"] is not None]
            assert len(lines) > count and all(place < CLIENTS for place in waited), "for the first answer of all, no other"
            assert not any(line["attempts"] for line in lines)
    finally:
        pods.close()
