"""One client connection over real sockets: requests in a row, limits, time, slow and leaving clients, the end."""
from __future__ import annotations

import asyncio
import socket

import pytest

from edgeproxy.config import model
from edgeproxy.errors import Phase
from fakes import OK_EMPTY, Web, accepted, ok, respond, to_back
from net.rig import Endpoint, Run, both_loops, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


def short(**times: float) -> model.ListenerTimeouts:
    return model.ListenerTimeouts(**times)


# ---- requests in a row

@both_loops
def test_keep_alive_reuses_both_connections(run: Run) -> None:
    async def main() -> None:
        async with Web(Endpoint()) as web:
            client = web.client()
            await client.send(GET)
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            for number in range(5):
                if number:
                    await client.send(GET)
                await endpoint.serve(ok(b"%d" % number))
                assert (await client.answer()).body == b"%d" % number
            assert [x.reused for x in web.logged] == [False, True, True, True, True]
            assert len({x.request_id for x in web.logged}) == 5

    run(main)


@both_loops
def test_a_head_in_single_bytes(run: Run) -> None:
    async def main() -> None:
        async with Web(routes=(respond("hi"),)) as web:
            client = web.client()
            for byte in GET:
                await client.send(bytes((byte,)))
                await asyncio.sleep(0)
            assert (await client.answer()).body == b"hi"

    run(main)


@both_loops
@pytest.mark.parametrize("size", [0, 100, 4000], ids=["empty", "small", "more than buffers hold"])
def test_a_thousand_pipelined_requests_are_answered_in_order(run: Run, size: int) -> None:
    """Also while the client does not read, so that answers pile up and reading has to stop."""
    async def main() -> None:
        routes = (respond("x" * size), respond("last", path=model.PathMatch("exact", "/last")))
        async with Web(routes=routes) as web:
            client = web.client()
            head = b"GET /%d HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 50 + b"\r\n\r\n"
            requests = b"".join(head % n for n in range(1000)) + GET.replace(b" / ", b" /last ")
            sending = asyncio.create_task(client.send(requests))
            for _ in range(1000):
                answer = await client.answer()
                assert (answer.status, len(answer.body)) == (200, size)
            assert (await client.answer()).body == b"last"
            await sending
            assert [x.head.path for x in web.logged if x.head] == [*(f"/{n}" for n in range(1000)), "/last"]

    run(main)


@both_loops
def test_pipelined_requests_behind_a_slow_reader_are_not_lost(run: Run) -> None:
    """The answers fill the client's side in the middle of a burst; the rest of the burst must wait its turn."""
    async def main() -> None:
        async with Web(routes=(respond("x" * 100_000),)) as web:
            client = web.client()
            count = 100
            sending = asyncio.create_task(client.send(b"".join(
                b"GET /%03d HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (n, b"y" * 300) for n in range(count))))
            await until(lambda: len(web.logged) > 5)
            for _ in range(200):  # let all that can be read be read, while nothing is taken
                await asyncio.sleep(0)
            for _ in range(count):
                assert len((await client.answer()).body) == 100_000
            await sending
            assert [x.head.path for x in web.logged if x.head] == [f"/{n:03}" for n in range(count)]

    run(main)


@both_loops
def test_a_client_that_takes_nothing_stops_the_next_answer_too(run: Run) -> None:
    """http.md: memory per exchange is bounded; also of the exchange that begins when the client is full already."""
    async def main() -> None:
        routes = (respond("x" * 6_000_000, path=model.PathMatch("exact", "/big")), to_back())
        async with Web(Endpoint(), routes=routes) as web:
            client = web.client()
            await client.send(GET.replace(b" / ", b" /big "))
            await web.ends()
            await client.send(GET)
            try:
                endpoint = await asyncio.wait_for(accepted(web.places[0]), 0.2)  # type: ignore[arg-type]
            except TimeoutError:
                return  # it is not even asked for: good
            await endpoint.request()
            await endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
            with pytest.raises(TimeoutError):  # no: 32 MiB would go into the proxy's memory
                for _ in range(512):
                    await asyncio.wait_for(web.loop.sock_sendall(endpoint.sock, b"z" * 65536), 0.3)

    run(main)


@both_loops
def test_http_1_0(run: Run) -> None:
    async def main() -> None:
        async with Web(Endpoint()) as web:
            client = web.client()
            await client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            await endpoint.serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            answer = await client.answer()
            assert (answer["connection"], answer["transfer-encoding"], answer.body) == ("close", "", b"abc")
            client = web.client()
            await client.send(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" * 2)
            for _ in range(2):
                await endpoint.serve(ok(b"kept"))
                answer = await client.answer()
                assert (answer["connection"], answer.body) == ("keep-alive", b"kept")

    run(main)


@both_loops
def test_a_cut_answer_never_looks_complete(run: Run) -> None:
    async def main() -> None:
        async with Web(Endpoint()) as web:
            for minor, head in ((1, b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
                                (1, b"Content-Length: 9\r\n\r\nabc"),
                                (0, b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")):
                client = web.client()
                await client.send(b"GET / HTTP/1.%d\r\nHost: a\r\n\r\n" % minor)
                endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
                await endpoint.request()
                await endpoint.send(b"HTTP/1.1 200 OK\r\n" + head)
                await client.head()
                endpoint.close()
                if minor:
                    assert not (await client.rest()).endswith(b"0\r\n\r\n")
                else:  # only the close tells a 1.0 client the end, so it must not be a regular one
                    assert await client.reset_after() == b"abc"
            assert {x.outcome for x in web.logged} == {("response_cut", Phase.BODY)}

    run(main)


# ---- limits

@both_loops
@pytest.mark.parametrize(("request_bytes", "status"), [
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20 + b"\r\n", 431),
    (b"GET /" + b"x" * 17000 + b" HTTP/1.1\r\n", 414),
    (POST % 101, 413),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n", 413),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
], ids=["head", "fields", "target", "body", "chunked body", "no host", "version", "method", "coding", "chunk"])
def test_limits_and_broken_requests(run: Run, request_bytes: bytes, status: int) -> None:
    async def main() -> None:
        # A large head limit where the target's own is tested.
        limits = model.ListenerLimits(header=65536 if status == 414 else 1024, headers=10, body=100)
        async with Web(Endpoint(), limits=limits) as web:
            client = web.client()
            await client.send(request_bytes)
            answer = await client.answer()
            assert (answer.status, answer["connection"]) == (status, "close")
            assert answer["proxy-status"].startswith("edgeproxy; error=http_request_")
            assert await client.rest() == b""
            assert (await web.ends()).status == status and len(web.logged) == 1

    run(main)


@both_loops
def test_a_body_of_just_the_limit_passes(run: Run) -> None:
    async def main() -> None:
        async with Web(Endpoint(), limits=model.ListenerLimits(body=100)) as web:
            client = web.client()
            await client.send(POST % 100 + b"x" * 100)
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            assert (await endpoint.serve()).body == b"x" * 100
            assert (await client.answer()).status == 200

    run(main)


@both_loops
def test_a_client_that_still_sends_gets_the_error_and_no_reset(run: Run) -> None:
    async def main() -> None:
        async with Web(limits=model.ListenerLimits(body=10), routes=(respond(),)) as web:
            client = web.client()
            await client.send(POST % 200_000 + b"x" * 100_000)
            await web.ends()
            await client.send(b"x" * 100_000)
            assert (await client.answer()).status == 413
            assert await client.rest() == b""
            client.close()
            await until(lambda: web.closed == 1)

    run(main)


@both_loops
def test_who_never_stops_sending_after_an_error_is_cut(run: Run) -> None:
    async def main() -> None:
        async with Web(limits=model.ListenerLimits(body=10), routes=(respond(),)) as web:
            client = web.client()
            await client.send(POST % 900_000_000)
            assert (await client.answer()).status == 413
            with pytest.raises(ConnectionError):
                for _ in range(1000):
                    await client.send(b"x" * 65536)

    run(main)


# ---- time

@both_loops
@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX"])
def test_a_head_that_takes_too_long_is_408(run: Run, start: bytes) -> None:
    async def main() -> None:
        async with Web(timeouts=short(header=0.1)) as web:
            client = web.client()
            await client.send(start)
            answer = await client.answer()
            assert (answer.status, answer["connection"]) == (408, "close")
            assert (await web.ends()).outcome == ("request_timeout", Phase.HEAD)

    run(main)


@both_loops
def test_an_idle_connection_is_closed_without_a_word(run: Run) -> None:
    async def main() -> None:
        async with Web(timeouts=short(idle=0.1), routes=(respond("hi"),)) as web:
            client = web.client()
            await client.send(GET)
            assert (await client.answer()).body == b"hi"
            assert await client.rest() == b""
            assert await web.client().rest() == b""
            assert len(web.logged) == 1

    run(main)


@both_loops
def test_a_body_that_stops_coming_is_408_and_the_connection_ends(run: Run) -> None:
    async def main() -> None:
        async with Web(Endpoint(), timeouts=short(body=0.1)) as web:
            client = web.client()
            await client.send(POST % 10 + b"abc")
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            assert (await client.answer()).status == 408
            assert await endpoint.ended()  # the endpoint must not wait for ever either
            await until(lambda: web.closed == 1, 4.0)  # though the client keeps its side open: LINGER has a deadline

    run(main)


@both_loops
def test_an_early_answer_and_a_client_that_stops_sending(run: Run) -> None:
    """DRAIN has a deadline."""
    async def main() -> None:
        async with Web(routes=(respond("early"),), timeouts=short(body=0.1)) as web:
            client = web.client()
            await client.send(POST % 10 + b"abc")
            assert (await client.answer()).body == b"early"
            await until(lambda: web.closed == 1, 4.0)

    run(main)


@both_loops
def test_a_client_that_takes_nothing_is_cut_after_the_body_time(run: Run) -> None:
    async def main() -> None:
        async with Web(Endpoint(), timeouts=short(body=0.2)) as web:
            client = web.client()
            await client.send(GET)
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            await endpoint.request()
            await endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
            with pytest.raises(ConnectionError):
                while True:
                    await endpoint.send(b"x" * 65536)
            exchange = await web.ends()
            assert exchange.outcome == ("client_gone", Phase.BODY)
            assert exchange.bytes_out < 32 << 20

    run(main)


@both_loops
@pytest.mark.parametrize("paused", [False, True], ids=["it sent the rest", "the endpoint does not read either"])
def test_a_client_that_takes_nothing_is_cut_whatever_it_sends(run: Run, paused: bool) -> None:
    """Two reasons to be watched at once: the end of one must not end the other."""
    async def main() -> None:
        async with Web(Endpoint(), timeouts=short(body=0.2)) as web:
            client = web.client()
            size = 50_000_000 if paused else 10
            await client.send(POST % size + b"abc")
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            await endpoint.through(b"abc")
            await endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
            with pytest.raises(TimeoutError):  # until nobody takes any more
                async with asyncio.timeout(5):
                    while True:
                        await asyncio.wait_for(web.loop.sock_sendall(endpoint.sock, b"x" * 65536), 0.05)
            if paused:
                with pytest.raises((TimeoutError, ConnectionError)):
                    await asyncio.wait_for(web.loop.sock_sendall(client.sock, b"y" * (size - 3)), 0.15)
            else:
                await client.send(b"x" * 7)
            assert (await asyncio.wait_for(web.ends(), 3)).outcome == ("client_gone", Phase.BODY)

    run(main)


@both_loops
def test_a_slow_reader_that_caught_up_keeps_its_connection(run: Run) -> None:
    """The deadline of its slowness must not end the idle connection afterwards."""
    async def main() -> None:
        async with Web(routes=(respond("x" * 8_000_000),), timeouts=short(body=0.2, idle=30.0)) as web:
            client = web.client()
            await client.send(GET)
            assert len((await client.answer()).body) == 8_000_000
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.more(), 0.5)

    run(main)


def test_an_answer_in_the_queue_is_not_dropped_by_lingering() -> None:
    """A client that has not taken the last kilobytes has the body timeout's time for them, not LINGER's."""
    async def main() -> None:
        async with Web(routes=(respond("x" * 50_000),)) as web:
            near, far = socket.socketpair()
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            near.setblocking(False)
            client = web.client(near, far)
            await client.send(LAST + b"more behind the last request")
            await web.ends()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.4):
                    while not web.closed:
                        await asyncio.sleep(0.05)
            assert len((await client.answer()).body) == 50_000

    asyncio.run(main())


# ---- clients that wait for 100, and early answers

@both_loops
def test_expect_100_continue(run: Run) -> None:
    async def main() -> None:
        async with Web(Endpoint()) as web:
            client = web.client()
            await client.send(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") % 3)
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            assert (await endpoint.head())["expect"] == "100-continue"
            await endpoint.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert (await client.answer()).status == 100
            await client.send(b"abc")
            assert await endpoint.receive(3) == b"abc"
            await endpoint.send(ok(b"done"))
            assert (await client.answer()).body == b"done"
            await client.send(GET)
            await endpoint.serve(ok(b"again"))
            assert (await client.answer()).body == b"again"

    run(main)


@both_loops
def test_a_client_that_waits_for_100_is_not_slow(run: Run) -> None:
    """It is the endpoint's turn: the client's silence is what it was asked for (RFC 9110 §10.1.1)."""
    async def main() -> None:
        async with Web(Endpoint(), timeouts=short(body=0.1)) as web:
            client = web.client()
            await client.send(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") % 3)
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            await endpoint.head()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.more(), 0.3)
            await endpoint.send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
            answer = await client.answer()
            assert (answer.status, answer["connection"]) == (417, "close")

    run(main)


@both_loops
@pytest.mark.parametrize(("size", "kept"), [(200_000, True), (600_000, False)])
def test_an_early_answer_drains_the_request_up_to_a_limit(run: Run, size: int, kept: bool) -> None:
    async def main() -> None:
        async with Web(routes=(respond("early"),)) as web:
            client = web.client()
            await client.send(POST % size)
            assert (await client.answer()).body == b"early"
            await client.send(b"x" * (size // 2))
            await client.send(b"x" * (size // 2) + GET if kept else b"x" * (size // 2))
            if kept:
                assert (await client.answer()).body == b"early"
            else:
                assert await client.rest() == b""
            assert len(web.logged) == (2 if kept else 1)

    run(main)


# ---- what endpoints are told

@both_loops
def test_forwarded_fields_and_ids_of_strangers_are_replaced(run: Run) -> None:
    async def main() -> None:
        async with Web(Endpoint()) as web:
            client = web.client()
            await client.send(GET[:-2] + b"X-Forwarded-For: 6.6.6.6\r\nX-Request-Id: mine\r\n\r\n")
            request = await (await accepted(web.places[0])).serve()  # type: ignore[arg-type]
            assert request["x-forwarded-for"] == "192.0.2.7" and request["x-forwarded-port"] == "8080"
            await client.answer()
            exchange = await web.ends()
            assert request["x-request-id"] == exchange.request_id != "mine"
            assert exchange.client == "192.0.2.7"

    run(main)


@both_loops
@pytest.mark.parametrize(("told", "client_address"), [
    (b"198.51.100.1, 203.0.113.5", "203.0.113.5"),
    (b"198.51.100.1, 203.0.113.5, 192.0.2.9", "203.0.113.5"),
    (b"203.0.113.5, nonsense, 192.0.2.9", "192.0.2.9"),
    (b"192.0.2.8", "192.0.2.8"),
    (b"", "192.0.2.7"),
    (b"2001:db8::1", "2001:db8::1"),
], ids=["one hop", "two hops", "nonsense", "all trusted", "empty", "v6"])
def test_a_trusted_proxy_tells_who_the_client_is(run: Run, told: bytes, client_address: str) -> None:
    async def main() -> None:
        async with Web(Endpoint(), trusted=("192.0.2.0/24",)) as web:
            client = web.client()
            await client.send(GET[:-2] + b"X-Forwarded-For: %b\r\nX-Request-Id: theirs\r\n\r\n" % told)
            request = await (await accepted(web.places[0])).serve()  # type: ignore[arg-type]
            assert request["x-forwarded-for"].endswith("192.0.2.7")
            await client.answer()
            exchange = await web.ends()
            assert (exchange.client, exchange.request_id) == (client_address, "theirs")
            assert request["x-request-id"] == "theirs"

    run(main)


@both_loops
@pytest.mark.parametrize("identity", [b"x" * 129, b"caf\xe9"])
def test_an_unusable_request_id_is_replaced(run: Run, identity: bytes) -> None:
    async def main() -> None:
        async with Web(Endpoint(), trusted=("192.0.2.0/24",)) as web:
            client = web.client()
            await client.send(GET[:-2] + b"X-Request-Id: %b\r\n\r\n" % identity)
            request = await (await accepted(web.places[0])).serve()  # type: ignore[arg-type]
            assert request["x-request-id"] == (await web.ends()).request_id
            assert len(request["x-request-id"]) < 100 and request["x-request-id"].isascii()
            await client.answer()

    run(main)


# ---- own answers

@both_loops
def test_head_of_an_own_answer_has_its_length_and_no_body(run: Run) -> None:
    async def main() -> None:
        async with Web(routes=(respond("hello"),)) as web:
            client = web.client()
            await client.send(GET.replace(b"GET", b"HEAD") + GET)
            answer = await client.answer(bodiless=True)
            assert (answer.status, answer["content-length"]) == (200, "5")
            assert (await client.answer()).body == b"hello"
            assert [x.bytes_out for x in web.logged] == [0, 5], "the log counts bytes that were sent"

    run(main)


@both_loops
def test_options_star_is_answered_by_the_proxy_whatever_the_routes(run: Run) -> None:
    async def main() -> None:
        async with Web(routes=(respond(host=("b",)),)) as web:
            client = web.client()
            await client.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await client.answer()
            assert answer.status == 204 and "GET" in answer["allow"]

    run(main)


# ---- leaving

@both_loops
def test_half_a_head_and_the_end_is_400(run: Run) -> None:
    async def main() -> None:
        async with Web() as web:
            client = web.client()
            await client.send(b"GET / HT")
            await until(lambda: True)
            client.finish()
            assert (await client.answer()).status == 400
            assert (await web.ends()).outcome == ("bad_request", Phase.HEAD)

    run(main)


@both_loops
@pytest.mark.parametrize("how", ["finish", "reset"])
def test_a_client_that_leaves_takes_its_request_along(run: Run, how: str) -> None:
    async def main() -> None:
        async with Web(Endpoint()) as web:
            client = web.client()
            await client.send(GET)
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            await endpoint.request()
            getattr(client, how)()
            assert await endpoint.ended() == b""
            exchange = await web.ends()
            assert (exchange.outcome, exchange.status) == (("client_gone", Phase.WAIT), 499)
            await until(lambda: web.closed == 1)

    run(main)


# ---- draining

@both_loops
def test_draining_closes_idle_connections_and_lets_answers_finish(run: Run) -> None:
    async def main() -> None:
        async with Web(Endpoint()) as web:
            idle, busy, new = web.client(), web.client(), web.client()
            await busy.send(GET)
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            await endpoint.request()
            await new.send(GET[:10])
            await until(lambda: web.front.count() == 3)
            for _ in range(20):
                await asyncio.sleep(0)
            web.front.drain()
            assert await idle.rest() == b""
            await endpoint.send(ok(b"whole"))
            assert (await busy.answer()).body == b"whole"
            assert await busy.rest() == b""
            await new.send(GET[10:])
            await endpoint.serve(OK_EMPTY)
            assert (await new.answer())["connection"] == "close"
            assert await new.rest() == b""

    run(main)


@both_loops
@pytest.mark.parametrize("begun", [False, True])
def test_draining_with_pipelined_requests_does_not_reset_the_answer(run: Run, begun: bool) -> None:
    """What is unread when a socket closes turns the FIN into a RST, and that can overtake the answer."""
    async def main() -> None:
        async with Web(Endpoint()) as web:
            client = web.client()
            await client.send(GET)
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            await endpoint.request()
            await client.send(GET)
            for _ in range(50):
                await asyncio.sleep(0)
            await client.send(GET * 2000)
            if begun:
                await endpoint.send(ok(b"whole")[:-2])
                await client.through(b"who")
                client.buffer[:0] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwho"
            web.front.drain()
            await endpoint.send(ok(b"whole")[-2 if begun else 0:])
            assert (await client.answer()).body == b"whole"
            if begun:  # its head was out before the drain: only the next answer can say that it is the last
                await endpoint.request()
                await endpoint.send(ok(b"last"))
                last = await client.answer()
                assert last.body == b"last" and last["connection"] == "close"
            assert await client.rest() == b""

    run(main)


# ---- upgrades

@both_loops
def test_an_upgrade_and_what_was_sent_before_it(run: Run) -> None:
    async def main() -> None:
        async with Web(Endpoint()) as web:
            client = web.client()
            await client.send(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: chat\r\n\r\nearly")
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            assert (await endpoint.request())["upgrade"] == "chat"
            await endpoint.send(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nwelcome")
            assert (await client.answer())["upgrade"] == "chat"
            assert await client.receive(7) == b"welcome"
            assert await endpoint.receive(5) == b"early"
            client.finish()
            assert await endpoint.rest() == b""
            await endpoint.send(b"bye")
            endpoint.close()
            assert await client.rest() == b"bye"
            exchange = await web.ends()
            assert (exchange.outcome.cause, exchange.bytes_in, exchange.bytes_out) == ("ok", 5, 10)
            await until(lambda: web.closed == 1)

    run(main)


@both_loops
def test_a_tunnel_that_is_cut_resets_both_sides(run: Run) -> None:
    async def main() -> None:
        async with Web(Endpoint()) as web:
            client = web.client()
            await client.send(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: chat\r\n\r\n")
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            await endpoint.request()
            await endpoint.send(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
            await client.answer()
            web.front.drain()
            assert web.front.count() == 1
            web.front.cut()
            await client.reset_after()
            await endpoint.reset_after()
            assert (await web.ends()).outcome == ("draining", Phase.TUNNEL)

    run(main)


@both_loops
def test_an_upgrade_refused_leaves_the_connection_in_http(run: Run) -> None:
    async def main() -> None:
        async with Web(Endpoint()) as web:
            client = web.client()
            await client.send(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: chat\r\n\r\n" + GET)
            endpoint = await accepted(web.places[0])  # type: ignore[arg-type]
            await endpoint.serve(ok(b"no"))
            assert (await client.answer()).body == b"no"
            await endpoint.serve(ok(b"next"))
            assert (await client.answer()).body == b"next"

    run(main)


@pytest.mark.parametrize("line, answered", [
    (b"INVALID CONNECTION PREFACE\r\n\r\n", False),   # an answer of HTTP/1 would be read as something else
    (b"EHLO mail example\r\n\r\n", False),
    (b"GET / HTTP/3.0\r\n\r\n", True),
    (b"GET / http/1.1\r\n\r\n", True),
    (b"GET /\r\n\r\n", True),                         # HTTP/0.9: its client can read it
    (b"nonsense\r\n\r\n", True),
    (b"GET  / HTTP/1.1\r\n\r\n", True),
])
@both_loops
def test_who_speaks_something_else_is_not_answered_in_http(run: Run, line: bytes, answered: bool) -> None:
    async def main() -> None:
        async with Web(Endpoint()) as web:
            client = web.client()
            await client.send(line)
            if answered:
                assert (await client.answer()).status in (400, 505)
            else:
                assert await client.rest() == b""
                assert [fault.cause for fault in web.faults] == ["the client does not speak HTTP"]

    run(main)
