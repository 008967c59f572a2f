"""One of three endpoints is killed and started again, in turn, under load: GETs do not notice, no POST is carried out twice.

A GET that was under way at the one that dies is asked again elsewhere; a POST that had been sent there is not, so it may
fail: told, and told why. A connection to a tcp listener may be cut as well, but only once it was an endpoint's.
"""
from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path

import pytest

from e2e.backends import StartActor, answering
from e2e.mortal import Mortal
from e2e.patients import becomes
from e2e.program import StartEdge, free_port, tcp, web
from e2e.waiting import PATIENCE, eventually
from e2e.wire import ask, refused

PACE = 0.004
"""Seconds that a client waits between two requests; the test is about deaths, not about speed."""
HTTP = "health: {http: {path: /health}, interval: 200ms, timeout: 500ms, fall: 2, rise: 1}"
TCP = "health: {tcp: {}, interval: 200ms, timeout: 500ms, fall: 2, rise: 1}"
EVIDENCE = {"probes": f"{HTTP}, ", "knocks": f"{TCP}, ", "requests": ""}
SOON = "eject: {for: 600ms}"
"""Over before the next one dies. The long version has the defaults: 10 s, and somebody dies every 5 s."""


@dataclass
class Told:
    """What clients were told: of each id the status, 0 if the connection ended without an answer."""

    gets: dict[str, int] = field(default_factory=dict)
    posts: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def failed(self, which: dict[str, int]) -> dict[str, int]:
        return {name: status for name, status in which.items() if status != 200}


class Clients:
    """Many at once, in a thread with a loop of its own, until `stop`."""

    def __init__(self, port: int, gets: int = 0, posts: int = 0, lines: int = 0) -> None:
        self.told = Told()
        self._port = port
        self._kinds = ["GET"] * gets + ["POST"] * posts + ["LINE"] * lines
        self._ids = count()
        self._over = threading.Event()
        self._faults: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> Told:
        self._over.set()
        self._thread.join(PATIENCE * 2)
        assert not self._thread.is_alive(), "a request never ended"
        if self._faults:
            raise self._faults[0]
        return self.told

    def _run(self) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(self._line() if kind == "LINE" else self._http(kind) for kind in self._kinds))
        try:
            asyncio.run(all_of_them())
        except BaseException as fault:
            self._faults.append(fault)

    async def _http(self, method: str) -> None:
        told = self.told.gets if method == "GET" else self.told.posts
        while not self._over.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            with suppress(OSError, asyncio.IncompleteReadError):  # closed after an answer with Connection: close
                while not self._over.is_set():
                    name = f"/{method.lower()}/{next(self._ids)}"
                    told[name] = 0
                    writer.write(f"{method} {name} HTTP/1.1\r\nHost: x.invalid\r\n"
                                 f"{'Content-Length: 0' if method == 'POST' else 'X-A: b'}\r\n\r\n".encode())
                    head = await reader.readuntil(b"\r\n\r\n")
                    at = head.lower().index(b"content-length: ") + 16
                    body = await reader.readexactly(int(head[at:head.index(b"\r", at)]))
                    told[name] = int(head.split(b" ", 2)[1])
                    assert told[name] != 200 or body.decode() == name, (name, body)
                    if b"\r\nconnection: close\r\n" in head.lower():
                        break
                    await asyncio.sleep(PACE)
            writer.transport.abort()

    async def _line(self) -> None:
        while not self._over.is_set():
            name = f"line-{next(self._ids)}"
            self.told.lines[name] = 0
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(f"{name}\n".encode())
                answer = await reader.read()
                if answer:
                    assert answer.decode() == f"{name}\n"
                    self.told.lines[name] = 200
                writer.transport.abort()
            await asyncio.sleep(PACE)


@pytest.fixture
def three(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[Mortal]]:
    """Endpoints of the kind that the test is parametrized by."""
    made = [Mortal(tmp_path, request.param, free_port()) for _ in range(3)]
    try:
        for each in made:
            each.start()
        eventually(lambda: not any(refused(each.port) for each in made), "three endpoints listen", seconds=20)
        yield made
    finally:
        for each in made:
            each.stop()


def _kill_in_turn(endpoints: list[Mortal], seconds: float, period: float) -> int:
    """Each is dead for a good third of its period; how many deaths there were."""
    over = threading.Event()
    deaths = 0
    for each in cycle(endpoints):
        each.kill()
        deaths += 1
        over.wait(period * 0.4)
        each.start()
        over.wait(period * 0.6)
        eventually(lambda: not refused(each.port), "it is back", seconds=20)  # noqa: B023
        if deaths * period >= seconds:
            return deaths
    raise AssertionError


def _counted(endpoints: list[Mortal], prefix: str) -> Counter[str]:
    seen: Counter[str] = Counter()
    for each in endpoints:
        seen += Counter({name: times for name, times in each.seen.items() if name.startswith(prefix)})
    return seen


@pytest.mark.parametrize("evidence", ["probes", "requests"])
@pytest.mark.parametrize("three", ["http", "h2c"], indirect=True, ids=lambda kind: f"by-{kind}")
def test_no_get_fails_and_no_post_is_doubled(
        edge: StartEdge, three: list[Mortal], evidence: str, long: bool, request: pytest.FixtureRequest) -> None:
    seconds, period = (60.0, 5.0) if long else (8.0, 1.0)
    protocol = "h2c" if "h2c" in request.node.name else "http"
    wanted = EVIDENCE[evidence] + ("eject: {}" if long else SOON)
    port = free_port()
    proxy = edge(web(port, *(each.port for each in three), service=f"protocol: {protocol}, {wanted}"))
    with Clients(port, gets=6, posts=4) as clients:
        eventually(lambda: len(clients.told.posts) > 100, "the load is there")
        deaths = _kill_in_turn(three, seconds, period)
        told = clients.stop()
    lost, unanswered = told.failed(told.gets), told.failed(told.posts)
    seen = _counted(three, "/post/")
    print(f"\n{protocol}, {evidence}: {deaths} deaths; {len(told.gets)} GET, {len(lost)} failed; "
          f"{len(told.posts)} POST, {len(unanswered)} failed {Counter(unanswered.values())}")
    assert len(told.gets) > 100 * deaths
    assert len(lost) <= len(told.gets) / 10_000, [line for line in proxy.lines() if line["path"] in lost][:5]
    assert {name: times for name, times in seen.items() if times > 1} == {}, "carried out twice"
    assert not {name for name, status in told.posts.items() if status == 200} - set(seen)
    assert set(unanswered.values()) <= {502}, "each is told"
    outcomes = {line["path"]: line["outcome"] for line in proxy.lines()}
    assert {outcomes[name] for name in unanswered} <= {"reset", "stale", "cut"}, "none that was not sent"
    assert len(unanswered) <= 4 * deaths, "at most what was under way"


@pytest.mark.parametrize("evidence", ["knocks", "requests"])
@pytest.mark.parametrize("three", ["tcp"], indirect=True, ids=lambda kind: f"by-{kind}")
def test_connections_find_an_endpoint_that_lives(
        edge: StartEdge, three: list[Mortal], evidence: str, long: bool) -> None:
    seconds, period = (60.0, 5.0) if long else (8.0, 1.0)
    wanted = EVIDENCE[evidence] + ("eject: {}" if long else SOON)
    port = free_port()
    proxy = edge(tcp(port, *(each.port for each in three), service=wanted))
    with Clients(port, lines=8) as clients:
        eventually(lambda: len(clients.told.lines) > 100, "the load is there")
        deaths = _kill_in_turn(three, seconds, period)
        told = clients.stop()
    cut = told.failed(told.lines)
    seen = _counted(three, "line-")
    print(f"\ntcp, {evidence}: {deaths} deaths; {len(told.lines)} connections, {len(cut)} cut")
    assert len(told.lines) > 100 * deaths
    assert {name: times for name, times in seen.items() if times > 1} == {}
    bad = [line for line in proxy.lines() if line["outcome"] != "ok"]
    unrelayed = [line for line in bad if not line["endpoint"]]
    assert unrelayed == [], f"{len(unrelayed)} were no endpoint's before they were cut\n{proxy.errors}"
    assert len(cut) <= 8 * deaths, "at most what was under way"


@pytest.mark.parametrize("health", ["", "health: {tcp: {}, interval: 50ms, fall: 2, rise: 1}, "],
                         ids=["requests", "probes"])
def test_who_was_ejected_is_better_than_nobody(edge: StartEdge, actor: StartActor, health: str) -> None:
    """It is back, but its time is not over yet, as the last one that is ready dies."""
    last, other, port = actor(answering("last")), actor(answering("other")), free_port()
    proxy = edge(web(port, last.port, other.port, service=f"{health}eject: {{failures: 2, for: 60s}}"))
    other.stop()
    eventually(lambda: ask(port).status == 200 and "ejected" in proxy.errors, "it is ejected")
    actor(answering("again"), other.port)
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 1.5, "it has been back for a while")
    last.stop()
    for _ in range(10):
        answer = ask(port)
        assert (answer.status, answer.text) == (200, "again")
    if health:
        becomes(proxy, last.port, "down")
        assert ask(port).text == "again"
