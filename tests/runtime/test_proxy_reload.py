"""Reloading the running program, in this process: what changes, what stays, and that a reload that fails is none."""
from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeproxy.config import model
from edgeproxy.config.load import load as load_files
from fakes import OK_EMPTY, Talk, accepted, ok
from net.rig import Endpoint, Peer, Refusing, Run, both_loops, soon, until
from runtime.inprocess import Program

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Run, Callable[[Program, Endpoint, Endpoint], Any], dict[str, str]], None]:
    """Run a story with a program that listens as told and has one service `back` with the first of two endpoints."""
    def run_story(run: Run, story: Callable[[Program, Endpoint, Endpoint], Any], listeners: dict[str, str]) -> None:
        folder = tmp_path / "s"
        folder.mkdir()

        async def main() -> None:
            one, two = Endpoint(), Endpoint()
            program = Program(folder)
            program.set(listeners, {"back": (one,)},
                        (model.Route("r", service=(model.WeightedService("back"),)),))
            try:
                async with program:
                    await story(program, one, two)
            finally:
                one.close()
                two.close()

        run(main)

    return run_story


Play = Callable[..., None]


@both_loops
def test_routes_change_for_the_next_request_of_an_open_connection(run: Run, play: Play) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        client = await program.client("a")
        await client.send(GET)
        await (await accepted(one)).serve(ok(b"one"))
        assert (await client.answer()).body == b"one"
        program.set(routes=(model.Route("r", respond=model.Respond(200, "new")),))
        assert "reloaded" in await program.reload()
        await client.send(GET)
        assert (await client.answer()).body == b"new"

    play(run, story, {"web": "a"})


@both_loops
def test_a_request_under_way_sees_one_configuration(run: Run, play: Play) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        client = await program.client("a")
        await client.send(GET)
        endpoint = await accepted(one)
        await endpoint.request()
        program.set(services={}, routes=())
        await program.reload()
        await endpoint.send(ok(b"old"))
        assert (await client.answer()).body == b"old"
        assert await endpoint.ended() == b"", "the channel of a service that is gone is not kept"
        await client.send(GET)
        assert (await client.answer()).status == 404

    play(run, story, {"web": "a"})


@both_loops
def test_endpoints_change_and_those_that_stay_keep_their_channels(run: Run, play: Play) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        client = await program.client("a")
        await client.send(GET)
        first = await accepted(one)
        await first.serve()
        await client.answer()
        program.set(services={"back": (one, two), "other": (two,)})
        await program.reload()
        for _ in range(2):
            await client.send(GET)
            serving = [asyncio.create_task(first.serve()), asyncio.create_task(self_serve(two))]
            await client.answer()
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
        assert len(one.accepted) == 1 and len(two.accepted) == 1
        program.set(services={"back": (two,)})
        await program.reload()
        assert await first.ended() == b""
        await client.send(GET)
        await two.accepted[0].serve()  # type: ignore[attr-defined]
        assert (await client.answer()).status == 200

    async def self_serve(endpoint: Endpoint) -> None:
        talk = endpoint.accepted[0] if endpoint.accepted else await accepted(endpoint)
        await talk.serve()  # type: ignore[attr-defined]

    play(run, story, {"web": "a"})


@both_loops
def test_a_listener_is_added(run: Run, play: Play) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        assert await program.refused("b")
        program.set({"web": "a", "more": "b"}, routes=(model.Route("r", respond=model.Respond(200, "x")),))
        await program.reload()
        for path in "ab":
            client = await program.client(path)
            await client.send(GET)
            assert (await client.answer()).body == b"x"

    play(run, story, {"web": "a"})


@both_loops
def test_a_listener_is_removed_and_its_connections_finish(run: Run, play: Play) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        idle, busy = await program.client("b"), await program.client("b")
        await busy.send(GET)
        endpoint = await accepted(one)
        await endpoint.request()
        program.set({"web": "a"})
        await program.reload()
        assert await idle.rest() == b"" and await program.refused("b")
        assert not (program.folder / "b").exists()
        await endpoint.send(ok(b"whole"))
        assert (await busy.answer()).body == b"whole"
        assert await busy.rest() == b""
        assert not await program.refused("a")

    play(run, story, {"web": "a", "more": "b"})


@both_loops
def test_half_a_request_on_a_listener_that_is_removed_is_answered(run: Run, play: Play) -> None:
    """Its head is complete when its listener is no longer in the configuration: still an answer, not a fault."""
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        client = await program.client("b")
        await client.send(GET[:10])
        for _ in range(20):
            await asyncio.sleep(0)
        program.set({"web": "a"})
        await program.reload()
        await client.send(GET[10:])
        serving = asyncio.create_task(serve(one))
        answer = await client.answer()
        serving.cancel()
        assert answer.status in (200, 503) and answer["connection"] == "close"
        assert await client.rest() == b""

    async def serve(endpoint: Endpoint) -> None:
        await (await accepted(endpoint)).serve()

    play(run, story, {"web": "a", "more": "b"})


@both_loops
def test_an_address_goes_from_one_listener_to_another_without_being_closed(run: Run, play: Play) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        before = (program.folder / "a").stat().st_ino
        program.set({"renamed": "a"}, routes=(model.Route("r", respond=model.Respond(200, "x")),))
        await program.reload()
        assert (program.folder / "a").stat().st_ino == before
        client = await program.client("a")
        await client.send(GET)
        assert (await client.answer()).body == b"x"

    play(run, story, {"web": "a"})


@both_loops
def test_a_listener_changes_its_protocol(run: Run, play: Play) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        program.set({"web": "tcp:a"}, routes=())
        await program.reload()
        client = await program.client("a")
        await client.send(b"raw")
        assert await (await accepted(one)).receive(3) == b"raw"
        program.set({"web": "a"}, routes=(model.Route("r", respond=model.Respond(200, "x")),))
        await program.reload()
        http = await program.client("a")
        await http.send(LAST)
        assert (await http.answer()).body == b"x"
        await client.send(b"still")  # the relay goes on
        assert await one.accepted[0].receive(5) == b"still"

    play(run, story, {"web": "a"})


@both_loops
def test_a_listener_moves_to_another_address(run: Run, play: Play) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        open_before = await program.client("a")
        program.set({"web": "b"}, routes=(model.Route("r", respond=model.Respond(200, "x")),))
        await program.reload()
        assert await program.refused("a")
        for client in (await program.client("b"), open_before):
            await client.send(GET)
            assert (await client.answer()).body == b"x"

    play(run, story, {"web": "a"})


@both_loops
def test_what_endpoints_are_told_of_the_port_follows_a_move(run: Run, play: Play) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        ports = []
        for _ in range(2):
            with socket.create_server(("127.0.0.1", 0)) as free:
                ports.append(free.getsockname()[1])
        endpoint: Talk | None = None
        for port in ports:
            program.set(listeners={})
            program.config = replace(program.config, listeners={
                "web": model.Listener("web", (model.Bind("127.0.0.1", port),), "http")})
            await program.reload()
            sock = socket.create_connection(("127.0.0.1", port))
            client = Talk(sock)
            program.clients.append(client)
            await client.send(GET)
            endpoint = endpoint or await accepted(one)
            assert (await endpoint.serve(OK_EMPTY))["x-forwarded-port"] == str(port)
            await client.answer()

    play(run, story, {"web": "a"})


# ---- reloads that fail

@both_loops
def test_an_address_that_is_taken_changes_nothing(run: Run, play: Play, tmp_path: Path) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        taken = Refusing()
        taken.sock.listen()
        old = program.config
        program.set({"web": "a", "new": "b"}, {"back": (two,), "other": (two,)},
                    (model.Route("r", respond=model.Respond(200, "new")),))
        program.config = replace(program.config, listeners=program.config.listeners | {
            "x": model.Listener("x", (model.Bind("127.0.0.1", taken.address.port),), "http")})
        line = await program.reload()
        assert "reload refused" in line and "already in use" in line and str(taken.address.port) in line
        assert await program.refused("b"), "what could be bound is closed again"
        client = await program.client("a")
        await client.send(GET)
        await (await accepted(one)).serve(ok(b"old"))
        assert (await client.answer()).body == b"old"
        taken.close()
        program.config = old
        assert "reloaded" in await program.reload()

    play(run, story, {"web": "a"})


@both_loops
def test_a_file_that_cannot_be_read_changes_nothing(run: Run, play: Play, tmp_path: Path) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        bad = tmp_path / "bad.yaml"
        bad.write_text("listeners: {web: {bind: 1, protocl: http}}\n")
        with pytest.raises(Exception) as caught:
            load_files([str(bad)])
        for fault in (caught.value, ZeroDivisionError("on purpose")):
            program.fault = fault
            line = await program.reload()
            assert "the running configuration stays" in line
            client = await program.client("a")
            await client.send(GET)
            talk = one.accepted[0] if one.accepted else await accepted(one)
            await talk.serve()  # type: ignore[attr-defined]
            assert (await client.answer()).status == 200
        program.lines[:] = [line for line in program.lines if "please report" not in line]  # of the second, on purpose

    play(run, story, {"web": "a"})


@both_loops
def test_reloads_asked_for_meanwhile_become_one(run: Run, play: Play) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        program.loads = 0
        for _ in range(10):
            program.proxy.reload()
        await until(lambda: sum("reloaded" in line for line in program.lines) == 2)
        for _ in range(50):
            await asyncio.sleep(0)
        assert program.loads == 2

    play(run, story, {"web": "a"})


# ---- the end

@both_loops
def test_draining_lets_answers_finish_and_refuses_new_clients(run: Run, play: Play) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        program.set(shutdown=model.Shutdown(30.0))
        await program.reload()
        client = await program.client("a")
        await client.send(GET)
        endpoint = await accepted(one)
        await endpoint.request()
        program.proxy.drain()
        await until(lambda: not (program.folder / "a").exists())
        assert await program.refused("a")
        await endpoint.send(ok(b"whole"))
        assert (await client.answer()).body == b"whole"
        assert await client.rest() == b""
        assert await soon(program.running) == 0

    play(run, story, {"web": "a"})


@both_loops
def test_what_does_not_finish_in_time_is_cut(run: Run, play: Play) -> None:
    async def story(program: Program, one: Endpoint, two: Endpoint) -> None:
        program.set(shutdown=model.Shutdown(0.05))
        await program.reload()
        client = await program.client("a")
        await client.send(GET)
        endpoint: Peer = await accepted(one)
        program.proxy.drain()
        assert await soon(program.running) == 3
        assert await client.ended() == b""
        assert b"GET / " in await endpoint.ended()

    play(run, story, {"web": "a"})
