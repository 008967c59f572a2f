"""Attacks on HTTP/2 at full speed: the attacker is thrown out, the endpoint and the memory are safe, others notice little.

The attacker is a process of its own, niced. What others notice is compared with the same machine when a process as nice as
the attacker only spins, in short rounds whose medians count: so the proxy is measured and not the scheduler.
"""
from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Iterator

import pytest

from e2e.backends import Nginx
from e2e.floods import FLOODS, MADE_YOU_RESET, fate_of, start
from e2e.h2peers import PREFACE, SETTINGS, frame
from e2e.program import Edge, StartEdge, addresses, free_port
from e2e.waiting import eventually
from e2e.wire import ask, connect, refused

pytestmark = pytest.mark.alone

STREAMS = 100
MEMORY = 64 << 20
SLACK = 0.005
"""Seconds that are forgiven: a turn of the scheduler's, on a machine with two CPUs and five busy processes."""
ROUND = 0.2
TRIES = 3
"""What is the proxy's fault is there each time; what a neighbour on the machine does is not."""


@pytest.fixture
def target() -> Iterator[int]:
    """The endpoint under attack."""
    port = free_port()
    with start("endpoint", str(port)) as process:
        eventually(lambda: not refused(port), "the endpoint listens")
        yield port
        process.kill()


def listening(port: int, target: int, good: int) -> str:
    return (f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\n"
            "routes: [{service: target}, {host: good.test, service: good}]\n"
            f"services:\n  target: {{endpoints: {addresses(target)}, eject: {{failures: 0}}}}\n"
            f"  good: {{endpoints: {addresses(good)}}}\n")


def seen(target: int) -> dict[str, int]:
    """By the endpoint: the most requests of one connection at a time, and all of them."""
    told: dict[str, int] = json.loads(ask(target, "/seen").text)
    return told


def slowest(port: int, process: subprocess.Popen[str]) -> list[float]:
    """The 99th percentile of a good client's waiting, round by round, while the process runs."""
    rounds: list[float] = []
    with connect(port) as client:
        while process.poll() is None:
            waited: list[float] = []
            over = time.monotonic() + ROUND
            while time.monotonic() < over:
                began = time.monotonic()
                client.get("/", "good.test")
                assert client.response().status == 200
                waited.append(time.monotonic() - began)
            rounds.append(sorted(waited)[int(len(waited) * 0.99)])
    return rounds


def safe(proxy: Edge, target: int, before: int, fate: dict[str, object]) -> None:
    """What holds whatever the attack was."""
    assert proxy.alive
    assert proxy.peak_memory - before <= MEMORY, f"{(proxy.peak_memory - before) >> 20} MiB more: {fate}"
    told = seen(target)
    assert told["most"] <= STREAMS, f"{told}, {fate}"
    assert fate["ended"], f"never thrown out: {fate}"
    goaways = fate["goaways"]
    assert isinstance(goaways, dict) and set(goaways) <= {"0", "1", "2", "5", "6", "9", "11"}, fate


@pytest.mark.parametrize("flood", FLOODS)
def test_others_notice_little(edge: StartEdge, nginx: Nginx, target: int, flood: str, long: bool) -> None:
    seconds = 20.0 if long else 2.0
    port = free_port()
    proxy = edge(listening(port, target, nginx["a"]))
    told = []
    for _ in range(TRIES):
        with start("spin", str(port), "1", nice=10) as spinner:
            quiet = statistics.median(slowest(port, spinner))
        proxy.forget_peak()
        before = proxy.memory
        attacker = start(flood, str(port), str(seconds), nice=10)
        busy = statistics.median(slowest(port, attacker))
        fate = fate_of(attacker, seconds)
        safe(proxy, target, before, fate)
        if busy <= 3 * quiet + SLACK:
            return
        told.append(f"{quiet * 1000:.2f} ms, then {busy * 1000:.2f} ms")
    raise AssertionError(f"good clients waited: {told}; {fate}")


@pytest.mark.parametrize("flood", FLOODS)
def test_the_limits_of_the_other_engine(edge: StartEdge, nginx: Nginx, target: int, flood: str, long: bool) -> None:
    seconds = 10.0 if long else 1.0
    port = free_port()
    proxy = edge(listening(port, target, nginx["a"]), {"EDGEPROXY_H2": "h2"})
    assert ask(port, host="good.test").status == 200
    proxy.forget_peak()
    before = proxy.memory
    safe(proxy, target, before, fate_of(start(flood, str(port), str(seconds), nice=10), seconds))
    assert ask(port, host="good.test").status == 200


@pytest.mark.parametrize("engine", ["ngh2", "h2"])
@pytest.mark.parametrize("primitive", MADE_YOU_RESET)
def test_resets_that_a_client_provokes_are_counted(edge: StartEdge, target: int, nginx: Nginx, primitive: str,
                                                   engine: str) -> None:
    """Two hundred are in one piece, and no more comes: the connection ends because of these."""
    port = free_port()
    edge(listening(port, target, nginx["a"]), {"EDGEPROXY_H2": engine})
    with connect(port) as client:
        client.send(PREFACE + frame(SETTINGS, 0, 0) + next(FLOODS[f"made-you-reset-{primitive}"](1)))
        client.ending()
