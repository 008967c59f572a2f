"""Probes over HTTP/2, of HTTP and of gRPC, against scripted endpoints; with each engine on both sides."""
from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgeproxy.codec.grpc import encode_check
from edgeproxy.codec.h2 import H2Limits
from edgeproxy.config import model
from fakes import accepted
from net.rig import Endpoint, Run, both_loops, open_descriptors, until
from upstream.h2place import REFUSED_STREAM, engine, goaway, h2_accepted
from upstream.probeplace import Asking

__all__ = ["engine"]

SERVING = b"\0\0\0\0\2\x08\1"
NOT_SERVING = b"\0\0\0\0\2\x08\2"


def h2(*places: Endpoint, **parts: Any) -> Asking:
    return Asking(*places or (Endpoint(),), **({"protocol": "h2c"} | parts))


def grpc(service: str = "", **parts: Any) -> Asking:
    return h2(grpc=model.GrpcProbe(service), **parts)


@both_loops
def test_a_request_and_a_good_answer(run: Run) -> None:
    async def main() -> None:
        asked = model.HttpProbe("/h?x", headers=(("X-Probe", "1"),), body="fine")
        async with h2(http=asked) as a:
            a.ask()
            talk = await h2_accepted(a.places[0])
            request = await talk.request()
            assert dict(request.pairs) == {
                b":method": b"GET", b":scheme": b"http", b":path": b"/h?x", b"accept": b"*/*", b"x-probe": b"1",
                b":authority": a.places[0].address.address.encode(), b"user-agent": request["user-agent"].encode()}
            assert request.ended
            await talk.interim(request.stream, 103)
            await talk.head(request.stream, 200)
            await talk.body(request.stream, b"all is fi")
            assert a.results == []
            await talk.body(request.stream, b"ne", True)
            assert await a.result() == ""
            await talk.ended()

    run(main)


@both_loops
@pytest.mark.parametrize(("step", "why"), [
    ("500", "status 500, wanted 200-399"), ("reset", "no answer: the endpoint reset the stream: CANCEL"),
    ("refused", "the endpoint did not take the request"),
    ("goaway", "the endpoint ends the connection and did not take the request"),
    ("eof", "no answer: closed before the response"), ("nothing", "no answer within 0.2 s"),
    ("cut", "broken answer: closed within the response's body"), ("half", "no end of the answer within 0.2 s")])
def test_what_may_go_wrong(run: Run, step: str, why: str) -> None:
    async def main() -> None:
        async with h2(timeout=0.2) as a:
            a.ask()
            talk = await h2_accepted(a.places[0])
            stream = (await talk.request()).stream
            if step == "500":
                await talk.head(stream, 500)
            elif step in ("reset", "refused"):
                talk.codec.reset(stream, REFUSED_STREAM if step == "refused" else 8)
                await talk.say()
            elif step == "goaway":
                await talk.raw(goaway(0))
            elif step in ("cut", "half"):
                await talk.head(stream, 200)
                await talk.body(stream, b"x")
            if step in ("eof", "cut"):
                talk.close()
            assert await a.result() == why
            if step not in ("eof", "cut"):
                await talk.ended()

    run(main)


@both_loops
def test_before_http2_has_begun(run: Run) -> None:
    async def main() -> None:
        async with h2(timeout=0.2) as a:
            a.ask()
            await accepted(a.places[0])
            assert await a.result() == "no answer within 0.2 s"
            a.ask()
            talk = await accepted(a.places[0])
            await talk.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert await a.result(2) == "broken answer: the endpoint answered with HTTP/1; is its protocol http?"
            a.ask()
            (await accepted(a.places[0])).close()
            assert await a.result(3) == "the endpoint closed before HTTP/2 began"
            a.ask()
            talk2 = await h2_accepted(a.places[0], H2Limits(streams=0))
            waiting = asyncio.ensure_future(talk2.ended())
            assert "MAX_CONCURRENT_STREAMS" in (await a.result(4) or "")
            await waiting

    run(main)


@both_loops
def test_an_endless_body_is_not_read_on(run: Run) -> None:
    async def main() -> None:
        async with h2() as a:
            a.ask()
            talk = await h2_accepted(a.places[0])
            stream = (await talk.request()).stream
            await talk.head(stream, 200)
            await talk.body(stream, b"x" * 10**6)
            waiting = asyncio.ensure_future(talk.ended())
            assert await a.result() == ""
            await waiting

    run(main)


# ---- gRPC

@both_loops
def test_the_question_of_grpc(run: Run) -> None:
    async def main() -> None:
        async with grpc("a.B", timeout=1.5) as a:
            a.ask()
            talk = await h2_accepted(a.places[0])
            request = await talk.request()
            assert [request[n] for n in (":method", ":path", "content-type", "te", "grpc-timeout")] == [
                "POST", "/grpc.health.v1.Health/Check", "application/grpc", "trailers", "1500m"]
            assert request.body == encode_check("a.B")
            await talk.head(request.stream, 200, content_type="application/grpc")
            await talk.body(request.stream, SERVING)
            talk.codec.send_trailers(request.stream, [(b"grpc-status", b"0")])
            await talk.say()
            assert await a.result() == ""
            await talk.ended()

    run(main)


@both_loops
@pytest.mark.parametrize(("body", "trailers", "why"), [
    (NOT_SERVING, {"grpc-status": "0"}, "grpc: NOT_SERVING"),
    (b"\0\0\0\0\0", {"grpc-status": "0"}, "grpc: UNKNOWN"),
    (b"", {"grpc-status": "12", "grpc-message": "unknown service"}, "grpc: UNIMPLEMENTED (the server has no health service)"),
    (b"", {"grpc-status": "5"}, 'grpc: NOT_FOUND (the server knows no service "")'),
    (b"", {"grpc-status": "14", "grpc-message": "draining"}, "grpc: UNAVAILABLE: draining"),
    (SERVING, {}, "grpc: no status (grpc-status) behind the answer"),
    (b"", {"grpc-status": "0"}, "grpc: the answer holds no message"),
    (SERVING + b"x", {"grpc-status": "0"}, "grpc: the answer has another length than it says"),
    (b"\0\0\1\0\0" + bytes(65536), {"grpc-status": "0"}, "grpc: the answer is too long")])
@pytest.mark.parametrize("only", [True, False])
def test_what_grpc_says(run: Run, body: bytes, trailers: dict[str, str], why: str, only: bool) -> None:
    """`only`: what can be said in a head without a body is (trailers-only)."""
    async def main() -> None:
        async with grpc() as a:
            a.ask()
            talk = await h2_accepted(a.places[0])
            stream = (await talk.request()).stream
            fields = {name.replace("-", "_"): value for name, value in trailers.items()}
            if only and not body:
                await talk.head(stream, 200, True, content_type="application/grpc", **fields)
            else:
                await talk.head(stream, 200, content_type="application/grpc+proto")
                if body:
                    await talk.body(stream, body)
                talk.codec.send_trailers(stream, [(n.encode(), v.encode()) for n, v in (trailers or {"x": "y"}).items()])
                await talk.say()
            waiting = asyncio.ensure_future(talk.ended())
            assert await a.result() == why
            await waiting

    run(main)


@both_loops
def test_what_is_no_grpc(run: Run) -> None:
    async def main() -> None:
        async with grpc() as a:
            for number, (status, fields, why) in enumerate((
                    (200, {"content_type": "text/html"}, "the answer is no gRPC (its content-type: text/html)"),
                    (200, {}, "the answer is no gRPC (its content-type: none)"),
                    (404, {"content_type": "text/html"}, "status 404, wanted 200")), 1):
                a.ask()
                talk = await h2_accepted(a.places[0])
                stream = (await talk.request()).stream
                await talk.head(stream, status, **fields)
                assert await a.result(number) == why
                await talk.ended()

    run(main)


# ---- nothing is left

@both_loops
@pytest.mark.parametrize("asked", [{}, {"grpc": model.GrpcProbe()}])
def test_cancelled_at_every_stage_it_leaves_nothing(run: Run, asked: dict[str, Any]) -> None:
    async def main() -> None:
        async with h2(**asked) as a:
            await asyncio.sleep(0)
            before = open_descriptors()
            for stage in range(4):
                probe = a.ask()
                if stage == 0:
                    talk: Any = await accepted(a.places[0])
                else:
                    talk = await h2_accepted(a.places[0])
                    stream = (await talk.request()).stream
                    if stage > 1:
                        await talk.head(stream, 200, content_type="application/grpc")
                    if stage > 2:
                        await talk.body(stream, SERVING[:3])
                for _ in range(3):
                    await asyncio.sleep(0)
                probe.cancel()
                await talk.ended()
                talk.close()
                await until(lambda: open_descriptors() == before)
            assert a.results == []

    run(main)
