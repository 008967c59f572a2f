"""The admin server: who may ask what, and that nobody who asks can hurt: slow ones, many, large ones, other origins."""
from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import socket
import stat
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgeproxy.config import model
from edgeproxy.net.sockets import BindError
from edgeproxy.policy.endpoint import target
from edgeproxy.runtime import admin, status
from edgeproxy.runtime.admin import AdminServer, Place
from edgeproxy.runtime.status import Running
from edgeproxy.snapshot import Live, Snapshot, compile_rules
from edgeproxy.upstream.events import Events
from edgeproxy.upstream.service import Service
from net.rig import Run, both_loops, soon, until

HOST = b"Host: localhost\r\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: a socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ep-") as name:
        yield Path(name) / "s"


class Registry:
    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.discoveries: dict[str, Any] = {}
        self.events = Events()


class Reply(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def echo(running: Running, query: Any) -> Any:
    return {"asked": query}


class Desk:
    """An admin server and the proxy that it tells of: one service, `app`, with two endpoints and a backup."""

    def __init__(self, folder: Path, explain: Callable[[Running, Any], Awaitable[Any]] | None = None) -> None:
        self.path = folder / "a.sock"
        config = model.Config({}, services={"app": model.Service("app", (
            model.EndpointAddress("10.0.0.1", 80), model.EndpointAddress("10.0.0.2", 80, weight=3),
            model.EndpointAddress("10.0.0.3", 80, backup=True)))})
        loop = asyncio.get_running_loop()
        self.registry = Registry()
        self.registry.services = {name: Service(loop, service, random.Random(0), None, self.registry.events)
                                  for name, service in config.services.items()}
        self.live = Live(Snapshot(config, self.registry.services, compile_rules(config)))
        self.running = Running(self.live, {}, (), self.registry)
        self.server = AdminServer(loop, Place(str(self.path), explain or echo))

    @property
    def app(self) -> Service:
        return self.registry.services["app"]

    def open(self, config: model.Admin | None = None) -> list[str]:
        self.server.bind(config)
        return self.server.serve(self.running)

    async def connect(self, port: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if port:
            return await soon(asyncio.open_connection("127.0.0.1", port))
        return await soon(asyncio.open_unix_connection(str(self.path)))

    async def ask(self, raw: bytes, port: int = 0) -> Reply:
        """One request on a connection of its own."""
        reader, writer = await self.connect(port)
        writer.write(raw)
        reply = await answer(reader, raw.startswith(b"HEAD"))
        await close(writer)
        return reply

    async def get(self, target: str, port: int = 0) -> Reply:
        return await self.ask(asked(target), port)

    async def post(self, body: Any, port: int = 0) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = b"POST /api/v1/endpoints HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (HOST, len(data))
        return await self.ask(head + data, port)


def asked(target: str, *fields: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"GET {target} HTTP/1.1", "Host: localhost", *fields, "")).encode()


async def answer(reader: asyncio.StreamReader, bare: bool = False) -> Reply:
    head = (await soon(reader.readuntil(b"\r\n\r\n"))).decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = b"" if bare else await soon(reader.readexactly(int(fields["content-length"])))
    return Reply(int(head[0].split()[1]), fields, body)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await soon(writer.wait_closed())
    except ConnectionError:
        pass


def play(run: Run, folder: Path, story: Callable[[Desk], Any], config: model.Admin | None = None,
         **words: Any) -> None:
    async def main() -> None:
        desk = Desk(folder, **words)
        desk.open(config)
        try:
            await story(desk)
        finally:
            desk.server.close()
            desk.app.retire()
            await asyncio.sleep(0)
        assert not desk.path.exists()

    run(main)


def play_tcp(run: Run, folder: Path, story: Callable[[Desk, int], Any], **words: Any) -> None:
    """`story` gets the port as well."""
    async def main(desk: Desk) -> None:
        [door] = [door for door in desk.server._doors.values() if not door.local]
        await story(desk, int(door.where.rpartition(":")[2]))

    play(run, folder, main, model.Admin(model.Bind("127.0.0.1", 0)), **words)


# ---- where it listens

@both_loops
def test_only_its_user_gets_in(run: Run, folder: Path) -> None:
    async def story(desk: Desk) -> None:
        assert stat.S_IMODE(os.stat(desk.path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert (await desk.get("/livez")).body == b"ok\n"

    play(run, folder, story)


@both_loops
def test_a_stale_socket_is_replaced(run: Run, folder: Path) -> None:
    folder.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "a.sock"))

    async def story(desk: Desk) -> None:
        assert (await desk.get("/livez")).status == 200

    play(run, folder, story)


def test_a_live_socket_of_another_is_left_alone_and_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir(0o700)

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(folder / "a.sock"))
            other.listen()
            desk = Desk(folder)
            assert desk.open() == []
            desk.server.apply(None)
            desk.server.close()
            assert desk.path.exists()

    asyncio.run(main())
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("no admin socket, `edgeproxy status` cannot ask this proxy: ") and "already in use" in line


@pytest.mark.parametrize("case", ["long", "file", "shared", "link"])
def test_a_default_place_that_cannot_be_had_stops_nobody(case: str, folder: Path,
                                                         caplog: pytest.LogCaptureFixture) -> None:
    place, wanted = folder, "cannot be made"
    if case == "long":
        place, wanted = folder / ("x" * 100), "longer than the 107 bytes"
    elif case == "file":
        folder.write_text("")
    elif case == "shared":
        folder.mkdir()
        folder.chmod(0o777)
        wanted = "others may write there"
    else:
        (folder.parent / "t").mkdir()
        folder.symlink_to(folder.parent / "t")
        wanted = "others may write there"

    async def main() -> None:
        desk = Desk(place)
        assert desk.open() == []
        desk.server.close()

    asyncio.run(main())
    [line] = [record.getMessage() for record in caplog.records]
    assert wanted in line


@pytest.mark.parametrize("bind", [model.Bind("0.0.0.0", 0), model.Bind("", 0), model.Bind("192.0.2.1", 9900)])
def test_tcp_is_for_this_machine_only(bind: model.Bind, folder: Path) -> None:
    async def main() -> None:
        desk = Desk(folder)
        with pytest.raises(BindError, match="listens on this machine only"):
            desk.open(model.Admin(bind))

    asyncio.run(main())


@both_loops
def test_a_reload_moves_it(run: Run, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(desk: Desk) -> None:
        first = desk.path
        desk.server.apply(model.Admin(model.Bind(path=str(folder / "b.sock"))))
        assert not first.exists()
        desk.path = folder / "b.sock"
        assert (await desk.get("/livez")).status == 200
        desk.server.apply(model.Admin(model.Bind(path=str(folder / "none" / "c.sock"))))
        assert (await desk.get("/livez")).status == 200
        assert "what was listened on before stays" in caplog.records[-1].getMessage()
        desk.server.apply(None)
        assert not desk.path.exists()
        desk.path = first
        assert (await desk.get("/livez")).status == 200

    play(run, folder, story)


# ---- what it says

@both_loops
def test_ready_until_it_drains(run: Run, folder: Path) -> None:
    async def story(desk: Desk) -> None:
        assert (await desk.get("/readyz"))[::2] == (200, b"ready\n")
        desk.running.refused = "conf.yaml:1:1: no"
        assert (await desk.get("/readyz?verbose")).json == {
            "ready": True, "draining": False, "reload_refused": "conf.yaml:1:1: no",
            "services": {"app": {"ready": 3, "endpoints": 3, "fallback": None, "unresolved": None}}}
        for member in desk.app.view.members:
            member.ready, member.state = False, "ejected"
        assert (await desk.get("/readyz?verbose")).json["services"]["app"]["fallback"] == \
            "none is ready: those that were ejected are used"
        desk.live.draining = True
        assert (await desk.get("/readyz"))[::2] == (503, b"draining\n")
        found = await desk.get("/readyz?verbose")
        assert (found.status, found.json["ready"]) == (503, False)
        assert (await desk.get("/livez")).status == 200

    play(run, folder, story)


@both_loops
def test_pages(run: Run, folder: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.registry.events.add("endpoint", "app", "10.0.0.1:80", "down: x", logging.DEBUG)
        found = (await desk.get("/api/v1/status")).json
        assert [one["address"] for one in found["services"][0]["endpoints"]] == [
            "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]
        assert found["services"][0]["name"] == "app" and len(found["events"]) == 1
        only = (await desk.get("/api/v1/status?service=app")).json
        assert only["services"][0]["name"] == "app" and "listeners" not in only
        missing = await desk.get("/api/v1/status?service=ap")
        assert (missing.status, missing.json["detail"]) == (404, "no service ap; did you mean app?")
        assert (await desk.get("/api/v1/dns")).json == []
        assert [one["text"] for one in (await desk.get("/api/v1/events")).json] == ["down: x"]
        asked = await desk.get("/api/v1/explain?url=http://a/&header=a:b&header=c:d")
        assert asked.json == {"asked": {"url": ["http://a/"], "header": ["a:b", "c:d"]}}
        assert asked.fields["cache-control"] == "no-store" and asked.fields["content-type"] == "application/json"

    play(run, folder, story)


@both_loops
def test_refusals_are_problems(run: Run, folder: Path) -> None:
    async def story(desk: Desk) -> None:
        for raw, code, detail in (
                (b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n", 404, "there is no /x; there is /livez, "),
                (b"POST /api/v1/status HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", 405, "only be read"),
                (b"GET /api/v1/endpoints HTTP/1.1\r\n" + HOST + b"\r\n", 405, "only POST"),
                (b"GET //[ HTTP/1.1\r\n" + HOST + b"\r\n", 400, "no URL"),
                (b"nonsense\r\n\r\n", 400, ""),
                (b"GET / HTTP/1.1\r\nX: " + b"x" * 30_000 + b"\r\n\r\n", 431, "a head has at most 16 KiB"),
                (b"POST /api/v1/endpoints HTTP/1.1\r\n" + HOST + b"Content-Length: 70000\r\n\r\n" + b"x" * 70_000,
                 413, "a body has at most 64 KiB")):
            reply = await desk.ask(raw)
            assert (reply.status, reply.fields["content-type"]) == (code, "application/problem+json"), raw[:50]
            assert reply.json["status"] == code and detail in reply.json["detail"]

    play(run, folder, story)


@both_loops
def test_a_question_that_is_none_is_400(run: Run, folder: Path) -> None:
    async def explain(running: Running, query: Any) -> Any:
        raise ValueError("ftp://x is not a URL")

    async def story(desk: Desk) -> None:
        assert (await desk.get("/api/v1/explain?url=ftp://x")).json["detail"] == "ftp://x is not a URL"

    play(run, folder, story, explain=explain)


@both_loops
def test_a_fault_is_one_line_and_the_next_request_is_answered(run: Run, folder: Path,
                                                              caplog: pytest.LogCaptureFixture) -> None:
    async def explain(running: Running, query: Any) -> Any:
        raise KeyError("x\ny")

    async def story(desk: Desk) -> None:
        reader, writer = await desk.connect()
        for page, code in ((b"/api/v1/explain", 500), (b"/livez", 200)):
            writer.write(b"GET %b HTTP/1.1\r\n%b\r\n" % (page, HOST))
            assert (await answer(reader)).status == code
        await close(writer)

    play(run, folder, story, explain=explain)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("admin: GET /api/v1/explain failed by a fault of the proxy: KeyError: ")
    assert "\n" not in line


@both_loops
def test_bytes_that_come_one_by_one_and_requests_that_follow(run: Run, folder: Path) -> None:
    async def story(desk: Desk) -> None:
        reader, writer = await desk.connect()
        for byte in b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n":
            writer.write(bytes((byte,)))
            await writer.drain()
        assert (await answer(reader)).status == 200
        writer.write(b"HEAD /livez HTTP/1.1\r\n%b\r\nGET /readyz HTTP/1.1\r\nConnection: close\r\n%b\r\n" % (HOST, HOST))
        assert (await answer(reader, True)).fields["content-length"] == "3"
        assert (await answer(reader)).body == b"ready\n"
        assert await soon(reader.read()) == b""
        await close(writer)

    play(run, folder, story)


# ---- orders

@both_loops
def test_an_endpoint_is_taken_out_and_back_in(run: Run, folder: Path) -> None:
    async def story(desk: Desk) -> None:
        for action, state, ready in (("drain", "draining", False), ("disable", "disabled", False), ("enable", "up", True)):
            reply = await desk.post({"service": "app", "address": "10.0.0.2:80", "action": action})
            assert (reply.status, reply.json["state"], reply.json["ready"]) == (200, state, ready)
            assert desk.app.view.members[1].ready is ready
        assert reply.json["others_ready"] == 2

    play(run, folder, story)


@both_loops
def test_orders_that_are_none(run: Run, folder: Path) -> None:
    async def story(desk: Desk) -> None:
        good = {"service": "app", "address": "10.0.0.1:80", "action": "drain"}
        for body, code, detail in (
                (b"{", 400, "the body is no JSON; write {"), (b"[]", 400, "no JSON object"),
                (b"\xff", 400, "no JSON"), (b"[" * 60_000, 400, "the body is no JSON"),
                (b'{"a":' * 10_000, 400, "the body is no JSON"), (good | {"action": "kill"}, 400, "action is one of drain, disable, enable"),
                (good | {"force": True}, 400, "and nothing else"), (good | {"address": 1}, 400, "each a text"),
                (good | {"service": "web"}, 404, "no service web; there is app"),
                (good | {"address": "10.0.0.9:80"}, 404, "service app has no endpoint 10.0.0.9:80; did you mean 10.0.0."),
                (good | {"address": "10.0.0.2:8080"}, 404, "no endpoint 10.0.0.2:8080; did you mean 10.0.0.2:80?")):
            reply = await desk.post(body)
            assert reply.status == code and detail in reply.json["detail"], reply
        assert all(member.ready for member in desk.app.view.members)

    play(run, folder, story)


# ---- tcp

@both_loops
def test_tcp_can_be_read_by_this_machine_s_names_only(run: Run, folder: Path) -> None:
    async def story(desk: Desk, port: int) -> None:
        for host, code in (("localhost", 200), (f"LOCALHOST:{port}", 200), (f"127.0.0.1:{port}", 200), ("[::1]", 200),
                           (f"[::1]:{port}", 200), ("evil.example", 421), (f"evil.example:{port}", 421), ("", 421),
                           ("localhost:80:80", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example", 421)):
            reply = await desk.ask(f"GET /api/v1/status HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), port)
            assert reply.status == code, host
        assert (await desk.ask(b"GET /livez HTTP/1.0\r\n\r\n", port)).status == 421
        order = {"service": "app", "address": "10.0.0.1:80", "action": "drain"}
        assert (await desk.post(order, port)).status == 403
        assert desk.app.view.members[0].ready
        assert (await desk.post(order)).status == 200, "the unix socket is there as well"

    play_tcp(run, folder, story)


@both_loops
def test_pages_of_other_sites_get_nothing(run: Run, folder: Path) -> None:
    async def story(desk: Desk, port: int) -> None:
        here = f"http://127.0.0.1:{port}"
        for fields, code in (
                ((), 200), (("Sec-Fetch-Site: none",), 200), (("Sec-Fetch-Site: Same-Origin",), 200),
                (("Sec-Fetch-Site: cross-site",), 403), (("Sec-Fetch-Site: same-site",), 403),
                (("Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"), 403), (("Sec-Fetch-Site:",), 403),
                ((f"Origin: {here}",), 200), (("Origin: http://127.0.0.1:3000",), 403), (("Origin: null",), 403),
                ((f"Origin: https://127.0.0.1:{port}",), 403), (("Origin: http://evil.example",), 403)):
            for page in ("/livez", "/api/v1/dns"):
                raw = asked(page, *fields).replace(b"localhost", here.removeprefix("http://").encode())
                reply = await desk.ask(raw, port)
                assert reply.status == code, fields
                assert reply.fields["content-type"] == "application/problem+json" or code == 200
            assert (await desk.ask(asked("/livez", *fields))).status == 200, "no page reaches a unix socket"

    play_tcp(run, folder, story)


# ---- bounds

@both_loops
def test_who_is_slow_is_cut(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "PATIENCE", 0.05)

    async def story(desk: Desk) -> None:
        reader, writer = await desk.connect()
        writer.write(b"GET /livez HTTP/1.1\r\n")
        assert await soon(reader.read()) == b""
        await close(writer)

    play(run, folder, story)


@both_loops
def test_the_thirty_third_waits(run: Run, folder: Path) -> None:
    async def story(desk: Desk) -> None:
        some = [await desk.connect() for _ in range(admin.CONNECTIONS)]
        await until(lambda: len(desk.server._tasks) == admin.CONNECTIONS)
        reader, writer = await desk.connect()
        writer.write(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
        reading = asyncio.create_task(answer(reader))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not reading.done()
        await close(some.pop()[1])
        assert (await soon(reading)).status == 200
        for _, open_one in [*some, (reader, writer)]:
            await close(open_one)
        await until(lambda: not desk.server._tasks)

    play(run, folder, story)


@both_loops
def test_others_have_their_turn_while_a_long_status_is_made(run: Run, folder: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "SLICE", 0.0)

    async def story(desk: Desk) -> None:
        desk.app.supply([target("10.1.0.1", port) for port in range(1, 1001)], "")
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        found = await status.rendered(status.status(desk.running))
        task.cancel()
        assert turns > 1000
        assert len(json.loads(found)["services"][0]["endpoints"]) == 1003
        assert len((await desk.get("/api/v1/status")).body) > 100_000

    play(run, folder, story)


# ---- tcp is for everybody on this machine, and gets little

@both_loops
def test_who_takes_all_places_by_tcp_keeps_nobody_from_the_unix_socket(run: Run, folder: Path) -> None:
    async def story(desk: Desk, port: int) -> None:
        some = [await desk.connect(port) for _ in range(admin.CONNECTIONS)]
        await until(lambda: len(desk.server._tasks) == admin.CONNECTIONS)
        assert (await desk.get("/api/v1/status")).status == 200
        for _, writer in some:
            await close(writer)

    play_tcp(run, folder, story)


@both_loops
def test_a_tcp_connection_ends(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "SPACING", 0.0)
    monkeypatch.setattr(admin, "REQUESTS", 3)

    async def story(desk: Desk, port: int) -> None:
        reader, writer = await desk.connect(port)
        writer.write(4 * asked("/livez"))
        told = [(await answer(reader)).fields.get("connection") for _ in range(3)]
        assert told == [None, None, "close"] and await soon(reader.read()) == b""
        await close(writer)
        reader, writer = await desk.connect()
        writer.write(4 * asked("/livez"))
        assert [(await answer(reader)).fields.get("connection") for _ in range(4)] == [None] * 4
        await close(writer)
        monkeypatch.setattr(admin, "LIFETIME", 0.05)
        reader, writer = await desk.connect(port)
        writer.write(asked("/livez")[:-2])
        assert await soon(reader.read()) == b"", "however patient it is"
        await close(writer)
        monkeypatch.setattr(admin, "LIFETIME", 5.0)
        reader, writer = await desk.connect(port)
        writer.write(asked("/livez"))
        assert (await answer(reader)).fields["connection"] == "close", "no time is left for another"
        await close(writer)

    play_tcp(run, folder, story)


@both_loops
def test_much_work_by_tcp_is_done_one_by_one_and_seldom(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
                                                        ) -> None:
    monkeypatch.setattr(admin, "REST", 2.0)
    spans: list[tuple[float, float]] = []

    async def explain(running: Running, query: Any) -> Any:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.to_thread(busy.wait, 0.05)
        spans.append((began, loop.time()))
        return {}

    async def story(desk: Desk, port: int) -> None:
        replies = await asyncio.gather(*(desk.get("/api/v1/explain", port) for _ in range(4)))
        assert {reply.status for reply in replies} == {200} and len(spans) == 4
        for (began, ended), (next_began, _) in pairwise(spans):
            assert next_began - ended >= 1.99 * (ended - began)

    busy = threading.Event()
    play_tcp(run, folder, story, explain=explain)


@both_loops
@pytest.mark.parametrize("page", ["/api/v1/status", "/api/v1/dns", "/api/v1/events", "/api/v1/explain",
                                  "/readyz?verbose"])
def test_tcp_waits_for_its_turn_and_nobody_else(run: Run, folder: Path, page: str, monkeypatch: pytest.MonkeyPatch
                                                ) -> None:
    monkeypatch.setattr(admin, "WAITING", 0.05)
    begun, done = asyncio.Event(), asyncio.Event()

    async def explain(running: Running, query: Any) -> Any:
        if "slow" in query:
            begun.set()
            await done.wait()
        return {}

    async def story(desk: Desk, port: int) -> None:
        reader, writer = await desk.connect(port)
        writer.write(asked("/api/v1/explain?slow"))
        await soon(begun.wait())
        reply = await desk.get(page, port)
        assert (reply.status, reply.fields["content-type"]) == (429, "application/problem+json")
        assert int(reply.fields["retry-after"]) >= 1 and "ask again later" in reply.json["detail"]
        assert (await desk.get(page)).status == 200
        for light in ("/livez", "/readyz"):
            assert (await desk.get(light, port)).status == 200
        done.set()
        assert (await answer(reader)).status == 200
        await close(writer)

    play_tcp(run, folder, story, explain=explain)


@both_loops
def test_who_leaves_does_not_end_the_turn(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "WAITING", 0.05)
    monkeypatch.setattr(admin, "PATIENCE", 0.5)
    monkeypatch.setattr(admin, "REST", 0.0)
    begun, done = asyncio.Event(), asyncio.Event()

    async def explain(running: Running, query: Any) -> Any:
        if "slow" in query:
            begun.set()
            await done.wait()
        return {}

    async def story(desk: Desk, port: int) -> None:
        reader, writer = await desk.connect(port)
        writer.write(asked("/api/v1/explain?slow"))
        assert await soon(reader.read()) == b"" and begun.is_set(), "it was cut"
        await close(writer)
        assert (await desk.get("/api/v1/explain", port)).status == 429
        done.set()
        await until(lambda: not desk.server._turns[False]._lock.locked())
        assert (await desk.get("/api/v1/explain", port)).status == 200

    play_tcp(run, folder, story, explain=explain)


@both_loops
def test_requests_by_tcp_are_spaced(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "SPACING", 0.02)

    async def story(desk: Desk, port: int) -> None:
        began = asyncio.get_running_loop().time()
        replies = await asyncio.gather(*(desk.get("/livez" if i % 2 else "/none", port) for i in range(6)))
        assert {reply.status for reply in replies} == {200, 404}
        assert asyncio.get_running_loop().time() - began >= 5 * 0.019

    play_tcp(run, folder, story)
