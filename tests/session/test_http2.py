"""One HTTP/2 connection over real sockets, on both engines of the codec: requests, bodies, windows, limits, faults."""
from __future__ import annotations

import asyncio
import socket

import pytest

from edgeproxy.codec._leaf import RequestHead
from edgeproxy.config import model
from edgeproxy.errors import Kind, Phase, ProxyError
from edgeproxy.session.peer import Gate
from edgeproxy.session.reply import Reply
from fakes import Talk, World, accepted, ok, respond, to_back
from net.rig import Endpoint, Refusing, Run, both_loops, until
from session.h2talk import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    HEADERS,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS,
    H2Web,
    engine,
    frame,
    head,
    quiet,
)

__all__ = ["engine"]
pytestmark = pytest.mark.usefixtures("engine")


async def place(web: World) -> Talk:
    """The next connection to the first endpoint."""
    endpoint = web.places[0]
    assert isinstance(endpoint, Endpoint)
    return await accepted(endpoint)


class Counting(socket.socket):
    writes = 0

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        Counting.writes += 1
        return super().send(data, flags)


# ---- requests and answers

@both_loops
def test_a_request_goes_through_and_its_answer_back(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            stream = await client.ask("/x?y=1", fields=[("accept", "a/b"), ("cookie", "a=1"), ("cookie", "b=2")])
            endpoint = await place(web)
            request = await endpoint.serve(
                b"HTTP/1.1 200 OK\r\nX-Name: v\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello")
            assert request.start == "GET /x?y=1 HTTP/1.1"
            assert (request["host"], request["accept"], request["cookie"]) == ("a", "a/b", "a=1; b=2")
            assert request["x-forwarded-for"] == "192.0.2.7" and request["x-forwarded-port"] == "8080"
            answer = await client.answer(stream)
            assert (answer.status, answer.body, answer.ended) == (200, b"hello", True)
            assert (answer.fields["x-name"], answer.fields["content-length"]) == ("v", "5")
            assert "connection" not in answer.fields
            exchange = await web.ends()
            assert exchange.outcome == ("ok", Phase.DONE) and (exchange.bytes_in, exchange.bytes_out) == (0, 5)
            assert exchange.head is not None and exchange.head.major == 2

    run(main)


@both_loops
def test_an_http1_endpoint_is_told_that_a_post_has_no_body(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            stream = await client.ask(method="POST")
            endpoint = await place(web)
            assert (await endpoint.serve()).fields["content-length"] == "0"
            assert (await client.answer(stream)).status == 200
            stream = await client.ask(method="DELETE")
            assert "content-length" not in (await endpoint.serve()).fields
            assert (await client.answer(stream)).status == 200

    run(main)


@both_loops
def test_requests_in_a_row_and_at_once_have_ids_of_their_own(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            streams = [await client.ask(f"/{n}") for n in range(5)]
            for _ in range(5):
                endpoint = await place(web)
                request = await endpoint.request()
                await endpoint.send(ok(request.start.split()[1].encode()))
            assert [(await client.answer(s)).body for s in streams] == [b"/%d" % n for n in range(5)]
            assert len({x.request_id for x in web.logged}) == 5

    run(main)


@both_loops
def test_bytes_that_were_read_already_and_bytes_one_by_one(run: Run) -> None:
    async def main() -> None:
        async with H2Web(routes=(respond("hi"),)) as web:
            sample = web.talk()
            wire = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + sample.headers(head())
            client = web.talk(first=wire)
            client.streams, client.next = dict(sample.streams), 3
            assert (await client.answer(1)).body == b"hi"
            client = web.talk()
            client.streams[1] = type(client.streams.get(1) or sample.streams[1])()
            for byte in wire:
                await client.send(bytes((byte,)))
                await asyncio.sleep(0)
            assert (await client.answer(1)).body == b"hi"

    run(main)


@both_loops
def test_sixteen_answers_of_one_turn_are_one_write(run: Run) -> None:
    async def main() -> None:
        async with H2Web(routes=(respond("hi"),)) as web:
            client = web.talk(kind=Counting)
            await client.open()
            await client.pong()
            before = Counting.writes
            await client.send(b"".join(client.headers(head()) for _ in range(16)))
            for stream in client.streams:
                assert (await client.answer(stream)).body == b"hi"
            assert Counting.writes == before + 1

    run(main)


@both_loops
def test_a_read_full_of_requests_does_not_keep_others_waiting(run: Run) -> None:
    async def main() -> None:
        async with H2Web(routes=(respond("hello"),)) as web:
            crowd, other = await web.opened_talk(), await web.opened_talk()
            streams = [crowd.next + 2 * n for n in range(90)]
            await crowd.send(b"".join(crowd.headers(head(f"/{number:040}")) for number in streams))
            stream = await other.ask()
            await other.answer(stream)
            for number in streams:
                assert (await crowd.answer(number)).status == 200
            first = [exchange.session.peer is not web.logged[0].session.peer for exchange in web.logged]
            assert first.index(True) < 80  # not behind the last of them

    run(main)


@both_loops
def test_trailers_both_ways_and_te(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            stream = await client.ask("/", "POST", [("te", "trailers")], ended=False)
            await client.data(stream, b"abc")
            await client.send(client.headers([("x-sum", "7")], True, stream))
            endpoint = await place(web)
            request = await endpoint.head()
            assert (request["te"], request["transfer-encoding"]) == ("trailers", "chunked")
            assert await endpoint.through(b"\r\n\r\n") == b"3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"
            await endpoint.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nGrpc-Status: 0\r\n\r\n")
            answer = await client.answer(stream)
            assert (answer.body, answer.trailers, answer.reset) == (b"hi", {"grpc-status": "0"}, None)
            assert "content-length" not in answer.fields

    run(main)


@both_loops
@pytest.mark.parametrize(("method", "response", "length"), [
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "10"),
    ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", "10"),
    ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "0"),
], ids=["HEAD", "204", "304", "empty"])
def test_answers_without_a_body_end_with_their_head(run: Run, method: str, response: bytes, length: str | None) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            stream = await client.ask("/", method)
            await (await place(web)).serve(response)
            answer = await client.answer(stream)
            assert answer.frames == [HEADERS] and answer.ended
            assert answer.fields.get("content-length") == length

    run(main)


@both_loops
def test_interim_answers(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            stream = await client.ask("/", "POST", [("expect", "100-continue"), ("content-length", "3")], ended=False)
            endpoint = await place(web)
            assert (await endpoint.head())["expect"] == "100-continue"
            await endpoint.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
            answer = client.streams[stream]
            while answer.interim != [100, 103]:
                await client.frame()
            await client.data(stream, b"abc", True)
            assert await endpoint.receive(3) == b"abc"
            await endpoint.send(ok(b"done"))
            assert (await client.answer(stream)).body == b"done"

    run(main)


@both_loops
def test_local_answers(run: Run) -> None:
    async def main() -> None:
        routes = (respond("fixed"), to_back(path=model.PathMatch("prefix", "/dead")))
        async with H2Web(Refusing(), routes=routes) as web:
            client = await web.opened_talk()
            answer = await client.answer(await client.ask("/"))
            assert (answer.status, answer.body, answer.fields["content-length"]) == (200, b"fixed", "5")
            answer = await client.answer(await client.ask("/", "HEAD"))
            assert (answer.status, answer.body, answer.fields["content-length"]) == (200, b"", "5")
            answer = await client.answer(await client.ask("/dead"))
            assert answer.status == 502
            assert answer.fields["proxy-status"].startswith("edgeproxy; error=connection_refused")
            assert answer.fields["content-type"].startswith("text/plain") and b"502" in answer.body

    run(main)


@both_loops
def test_a_cut_answer_is_reset_and_never_ended(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            for response in (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"Content-Length: 9\r\n\r\nabc"):
                stream = await client.ask()
                endpoint = await place(web)
                await endpoint.request()
                await endpoint.send(b"HTTP/1.1 200 OK\r\n" + response)
                await client.begun(stream)
                endpoint.close()
                assert await client.was_reset_stream(stream) == INTERNAL_ERROR
                assert not client.streams[stream].ended
            assert {x.outcome for x in web.logged} == {("response_cut", Phase.BODY)}
            await client.pong()  # the connection lives on

    run(main)


@both_loops
def test_trusted_peers_tell_the_client_and_the_request_id(run: Run) -> None:
    async def main() -> None:
        async with H2Web(routes=(respond(),), trusted=("192.0.2.0/24",)) as web:
            client = await web.opened_talk()
            await client.answer(await client.ask(
                fields=[("x-forwarded-for", "198.51.100.1"), ("x-request-id", "abc")]))
            exchange = await web.ends()
            assert (exchange.client, exchange.request_id) == ("198.51.100.1", "abc")

    run(main)


class Closed(Gate):
    def check(self, head: RequestHead) -> Reply | ProxyError | None:
        if head.path == "/fault":
            raise RuntimeError("a fault")
        if head.path == "/moved":
            return Reply(308, ((b"Location", b"https://a/"),), b"")
        return ProxyError(Kind.METHOD_REFUSED, "not here") if head.path == "/wrong" else None


@both_loops
def test_the_gate_answers_before_anything_is_routed(run: Run) -> None:
    async def main() -> None:
        async with H2Web(routes=(respond("in"),)) as web:
            web.gate = Closed()
            client = await web.opened_talk()
            answer = await client.answer(await client.ask("/moved"))
            assert (answer.status, answer.fields["location"]) == (308, "https://a/")
            assert (await client.answer(await client.ask("/wrong"))).status == 405
            assert (await client.answer(await client.ask("/other"))).body == b"in"
            assert len(web.logged) == 3

    run(main)


# ---- what is malformed, and limits

@both_loops
@pytest.mark.parametrize(("fields", "status"), [
    ([("x", "y" * 3000)], 431),
    ([(f"x{n}", "y") for n in range(20)], 431),
    ([("host", "b")], 400),
], ids=["size", "number", "host"])
def test_heads_that_are_answered(run: Run, fields: list[tuple[str, str]], status: int) -> None:
    async def main() -> None:
        limits = model.ListenerLimits(header=2048, headers=10)
        async with H2Web(routes=(respond(),), limits=limits) as web:
            client = await web.opened_talk()
            answer = await client.answer(await client.ask(fields=fields))
            assert answer.status == status
            assert (await web.ends()).status == status
            assert (await client.answer(await client.ask())).status == 200

    run(main)


@both_loops
@pytest.mark.parametrize("fields", [
    [(":method", "GET"), (":path", "/"), (":authority", "a")],
    head(fields=[("connection", "close")]),
    head(fields=[("X-Upper", "1")]),
    head(fields=[("te", "gzip")]),
    [*head(), (":path", "/late")],
], ids=["no scheme", "connection", "upper case", "te", "late pseudo-header"])
def test_malformed_heads_reset_their_stream_only(run: Run, fields: list[tuple[str, str]]) -> None:
    async def main() -> None:
        async with H2Web(routes=(respond("hi"),)) as web:
            client = await web.opened_talk()
            stream = client.next
            await client.send(client.headers(fields))
            assert await client.was_reset_stream(stream) == PROTOCOL_ERROR
            assert (await client.answer(await client.ask())).body == b"hi"

    run(main)


@both_loops
@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_413(run: Run, announced: bool) -> None:
    async def main() -> None:
        async with H2Web(Endpoint(), limits=model.ListenerLimits(body=100)) as web:
            client = await web.opened_talk()
            stream = await client.ask("/", "POST", [("content-length", "101")] if announced else [], ended=False)
            if not announced:
                await client.data(stream, b"x" * 60)
                await client.data(stream, b"x" * 60)
            answer = await client.answer(stream)
            assert answer.status == 413
            assert await client.was_reset_stream(stream) == NO_ERROR
            assert (await web.ends()).status == 413
            stream = await client.ask("/", "POST", ended=False)
            await client.data(stream, b"x" * 100, True)
            for _ in range(1 if announced else 2):  # the first one's connection was reset
                endpoint = await place(web)
            assert (await endpoint.serve()).body == b"x" * 100
            assert (await client.answer(stream)).status == 200

    run(main)


@both_loops
def test_an_early_answer_ends_the_request_without_an_error(run: Run) -> None:
    """RFC 9113 §8.1; what still comes is dropped, and the connection's window opens again for it."""
    async def main() -> None:
        async with H2Web(routes=(respond("early"),)) as web:
            client = await web.opened_talk()
            for _ in range(40):  # 40 × 64 kB are more than the connection's window
                stream = await client.ask("/", "POST", ended=False)
                for _ in range(8):  # on their way when the answer comes
                    await client.data(stream, b"x" * 8000)
                answer = await client.answer(stream)
                assert (answer.status, answer.body, answer.ended) == (200, b"early", True)
                assert await client.was_reset_stream(stream) == NO_ERROR
            await client.pong()
            assert client.windows[0] > 40 * 64_000

    run(main)


# ---- flow

@both_loops
def test_a_slow_endpoint_stops_the_upload_and_other_streams_go_on(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint(), routes=(to_back(path=model.PathMatch("prefix", "/up")), respond("hi"))) as web:
            client = await web.opened_talk()
            up = await client.ask("/up", "POST", ended=False)
            endpoint = await place(web)
            await endpoint.head()
            sent = 0
            window = 65536
            while True:  # until the windows are used up
                while window - sent >= 8000:
                    await client.data(up, b"x" * 8000)
                    sent += 8000
                before = client.windows.get(up, 0)
                await client.pong()
                window = 65536 + client.windows.get(up, 0)
                if client.windows.get(up, 0) == before:
                    break
            assert (await client.answer(await client.ask("/other"))).body == b"hi"
            stuck = sent
            assert stuck < 16 << 20
            got = 0
            while got < stuck:  # the endpoint reads on, and the windows open again
                got += len(await endpoint.chunk())
            while window - sent < 8000:
                await client.frame()
                window = 65536 + client.windows.get(up, 0)
            await client.data(up, b"", True)
            while await endpoint.chunk():
                pass
            await endpoint.send(ok(b"got it"))
            assert (await client.answer(up)).body == b"got it"

    run(main)


@both_loops
def test_a_reset_upload_gives_its_part_of_the_shared_window_back(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            for _ in range(40):  # 40 × 64 KiB are more than the connection's window
                window, sent = 65535, 0
                up = await client.ask("/", "POST", ended=False)
                await place(web)
                while window - sent >= 8000:
                    await client.data(up, b"x" * 8000)
                    sent += 8000
                await client.reset_stream(up)
            await client.pong()
            assert len(web.logged) == 40

    run(main)


@both_loops
def test_a_client_with_a_small_window_stops_the_endpoint_and_nobody_else(run: Run) -> None:
    async def main() -> None:
        routes = (to_back(path=model.PathMatch("prefix", "/down")), respond("hi"))
        async with H2Web(Endpoint(), routes=routes) as web:
            client = await web.opened_talk(1000)
            stream = await client.ask("/down")
            endpoint = await place(web)
            await endpoint.request()
            size = 64 << 20
            await endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            sent = 0
            with pytest.raises(TimeoutError):
                while True:
                    await asyncio.wait_for(web.loop.sock_sendall(endpoint.sock, b"z" * 65536), 0.3)
                    sent += 65536
            assert sent < 16 << 20  # the kernel's buffers
            queued = web.session.codec.queued(stream)
            assert queued <= 256 * 1024
            answer = await client.begun(stream)
            while len(answer.body) < 1000:
                await client.frame()
            assert (await client.answer(await client.ask("/other"))).body == b"hi"
            for given in range(1, 100):
                await client.grant(0, 10_000)
                await client.grant(stream, 10_000)
                while len(answer.body) < 1000 + given * 10_000:
                    await client.frame()
            await client.reset_stream(stream)
            assert (await web.ends(2)).outcome == ("client_gone", Phase.BODY)

    run(main)


@both_loops
def test_a_client_that_does_not_read_at_all(run: Run) -> None:
    """Wide windows, and nothing taken from the socket: the transport is full, the endpoints stop, memory is bounded."""
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk(1 << 30)
            endpoints = []
            for _ in range(3):
                await client.ask()
                endpoint = await place(web)
                await endpoint.request()
                await endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
                endpoints.append(endpoint)
            for endpoint in endpoints:
                with pytest.raises(TimeoutError):
                    while True:
                        await asyncio.wait_for(web.loop.sock_sendall(endpoint.sock, b"z" * 65536), 0.3)
            held = sum(web.session.codec.queued(s) for s in client.streams)
            assert held + web.session.transport.get_write_buffer_size() <= 3 * 256 * 1024
            sending = asyncio.ensure_future(web.loop.sock_sendall(endpoints[2].sock, b"z" * (4 << 20)))
            while not sending.done():  # and they go on when it reads
                await client.frame()
            await sending

    run(main)


@both_loops
def test_who_asks_on_and_on_and_reads_nothing(run: Run) -> None:
    """Answers that are whole at once, and windows that are wide: requests are no longer read."""
    async def main() -> None:
        async with H2Web(routes=(respond("x" * 60_000),)) as web:
            client = await web.opened_talk(1 << 30)
            with pytest.raises(TimeoutError):
                while True:
                    asked = b"".join(client.headers(head(fields=[("x", f"{client.next}{'y' * 10_000}")]))
                                     for _ in range(20))
                    await asyncio.wait_for(web.loop.sock_sendall(client.sock, asked), 0.3)
            session = web.session
            held = session.transport.get_write_buffer_size() + session.codec.queued(2**31 - 1)
            assert held < 8 << 20  # a hundred streams at the most
            before = len(web.logged)
            for stream in list(client.streams)[:before + 20]:
                assert len((await client.answer(stream)).body) == 60_000
            assert len(web.logged) > before

    run(main)


@both_loops
def test_an_early_answer_behind_a_closed_window_is_delivered_before_the_reset(run: Run) -> None:
    async def main() -> None:
        async with H2Web(routes=(respond("x" * 5000),)) as web:
            client = await web.opened_talk(1000)
            stream = await client.ask("/", "POST", ended=False)
            answer = await client.begun(stream)
            await client.pong()
            assert len(answer.body) == 1000 and answer.reset is None
            await client.grant(stream, 10_000)
            assert (await client.answer(stream)).body == b"x" * 5000
            assert await client.was_reset_stream(stream) == NO_ERROR

    run(main)


# ---- streams that end badly, and too many of them

@both_loops
def test_a_reset_stream_gives_its_endpoint_up_at_once(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint(), routes=(to_back(path=model.PathMatch("prefix", "/up")), respond("hi"))) as web:
            client = await web.opened_talk()
            stream = await client.ask("/up")
            endpoint = await place(web)
            await endpoint.request()
            await client.reset_stream(stream)
            await endpoint.ended()
            assert (await web.ends()).outcome == ("client_gone", Phase.WAIT)
            assert (await client.answer(await client.ask())).body == b"hi"

    run(main)


@both_loops
def test_streams_that_were_reset_count_for_a_while(run: Run) -> None:
    """CVE-2023-44487: never more than a hundred at the endpoints, those that have just been given up among them."""
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            streams = [await client.ask() for _ in range(60)]
            endpoints = [await place(web) for _ in range(60)]
            for endpoint in endpoints:
                await endpoint.request()
            for stream in streams:
                await client.reset_stream(stream)
            later = [await client.ask() for _ in range(60)]
            for stream in later[40:]:
                assert await client.was_reset_stream(stream) == REFUSED_STREAM
            assert all(client.streams[s].reset is None for s in later[:40])
            for _ in range(40):
                await (await place(web)).serve(ok(b"late"))
            assert [(await client.answer(s)).body for s in later[:40]] == [b"late"] * 40
            assert len(web.logged) == 100

    run(main)


@both_loops
def test_who_cancels_much_and_asks_again_at_once_waits_and_is_not_thrown_out(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            cancelled = [await client.ask() for _ in range(60)]
            for endpoint in [await place(web) for _ in cancelled]:
                await endpoint.request()
            for stream in cancelled:
                await client.reset_stream(stream)
            streams = [await client.ask() for _ in range(40)]
            for _ in range(200):
                assert await client.was_reset_stream(await client.ask()) == REFUSED_STREAM
            for _ in streams:
                await (await place(web)).serve(ok(b"late"))
            assert [(await client.answer(stream)).body for stream in streams] == [b"late"] * 40

    run(main)


@both_loops
def test_who_goes_on_asking_what_is_malformed_is_thrown_out(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            await client.send(b"".join(client.headers(head(fields=[("te", "gzip")])) for _ in range(200)))
            assert (await client.goaway())[1] == ENHANCE_YOUR_CALM
            await client.over()
            await quiet(web)

    run(main)


@both_loops
def test_rapid_resets_end_the_connection(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            for _ in range(101):
                await client.reset_stream(await client.ask())
            assert (await client.goaway())[1] == ENHANCE_YOUR_CALM
            await quiet(web)
            assert all(x.outcome.cause == "client_gone" for x in web.logged)

    run(main)


@both_loops
def test_a_broken_client_is_told_and_its_exchanges_end(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            await client.ask()
            endpoint = await place(web)
            await endpoint.request()
            await client.send(frame(SETTINGS, 0, 5))  # SETTINGS on a stream
            assert (await client.goaway())[1] == PROTOCOL_ERROR
            await quiet(web)
            await endpoint.ended()
            assert (await web.ends()).outcome == ("h2_protocol_error", Phase.WAIT)
            assert [(fault.client, fault.outcome.cause) for fault in web.faults] == [("192.0.2.7", "h2_protocol_error")]

    run(main)


@both_loops
def test_the_client_leaves_with_streams_in_every_phase(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            await client.ask()
            first = await place(web)
            await first.request()
            stream = await client.ask()
            second = await place(web)
            await second.request()
            await second.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            await client.begun(stream)
            await client.ask("/", "POST", ended=False)
            client.close()
            await quiet(web)
            assert sorted(x.outcome.phase.value for x in web.logged)[0] == "body"
            assert {x.outcome.cause for x in web.logged} == {"client_gone"}

    run(main)


@both_loops
def test_a_fault_in_one_stream_ends_its_connection_only(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint(), routes=(to_back(path=model.PathMatch("prefix", "/up")), respond("hi"))) as web:
            web.gate = Closed()
            other = await web.opened_talk()
            client = await web.opened_talk()
            await client.ask("/up")
            endpoint = await place(web)
            await endpoint.request()
            await client.ask("/fault")
            await client.over()
            await until(lambda: web.closed == 1)
            await endpoint.ended()
            assert (await other.answer(await other.ask())).body == b"hi"
            assert len(web.alarm.lines) == 1 and "a fault" in web.alarm.lines[0]
            web.alarm.lines.clear()

    run(main)


@both_loops
def test_a_head_in_pieces(run: Run) -> None:
    async def main() -> None:
        async with H2Web(routes=(respond("hi"),)) as web:
            client = await web.opened_talk()
            whole = client.headers(head())
            payload = whole[9:]
            await client.send(frame(HEADERS, END_STREAM, 1, payload[:3]) + frame(CONTINUATION, 0, 1, payload[3:4]))
            await client.send(frame(CONTINUATION, END_HEADERS, 1, payload[4:]))
            assert (await client.answer(1)).body == b"hi"

    run(main)
