"""The table of `exchange.py`, row by row, with a client that writes down what it is told and scripted endpoints."""
from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import pytest

from edgeproxy.codec._leaf import RequestHead
from edgeproxy.config import model
from edgeproxy.errors import OK, Kind, Outcome, Phase, ProxyError
from edgeproxy.session.peer import Gate
from edgeproxy.session.reply import Reply
from fakes import OK_EMPTY, Asker, Place, Talk, World, accepted, back, ok, respond, to_back
from net.rig import Endpoint, Refusing, Run, Silent, both_loops, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = GET.replace(b"GET", b"POST")
PUT = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
UPGRADE = GET[:-2] + b"Connection: upgrade\r\nUpgrade: chat\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n"
PATIENT = model.Eject(0)


def world(*places: Place, service: dict[str, Any] | None = None, **route: Any) -> World:
    """A route to one service; nothing is ejected unless the test wants it."""
    parts: dict[str, Any] = {"eject": PATIENT} | (service or {})
    return World(places, (to_back(**route),), back(*places, **parts))


def retry(*when: Any, attempts: int = 3) -> model.Retry:
    return model.Retry(attempts, when)


async def take(world: World, number: int = 0) -> Talk:
    place = world.places[number]
    assert isinstance(place, Endpoint)
    return await accepted(place)


async def warm(world: World) -> Talk:
    """An idle channel in the pool."""
    Asker(world).ask(GET)
    endpoint = await take(world)
    await endpoint.serve()
    await world.ends()
    world.logged.clear()
    return endpoint


# ---- the good end

@both_loops
def test_a_request_and_its_response(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            endpoint = await take(w)
            request = await endpoint.serve(ok(b"hello"))
            assert request["x-request-id"] == "id-1" and request["via"] == "1.1 edgeproxy"
            assert await w.ends() is exchange
            assert (asker.told, asker.body) == (["head 200", "end", "finished"], b"hello")
            assert (exchange.outcome, exchange.status, exchange.bytes_in, exchange.bytes_out) == (OK, 200, 0, 5)
            assert (exchange.route, exchange.service, exchange.endpoint) == ("r", "back", w.members[0].address)
            assert (exchange.attempts, exchange.reused, exchange.queue_s) == ((), False, -1.0)
            assert exchange.connect_s >= 0 and exchange.first_byte_s >= 0
            asker = Asker(w)
            exchange = asker.ask(GET)
            await endpoint.serve(ok(b"again"))
            await w.ends(2)
            assert exchange.reused and exchange.connect_s < 0 and asker.body == b"again"

    run(main)


@both_loops
def test_a_streamed_body_both_ways_with_trailers(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            endpoint = await take(w)
            await endpoint.through(b"abc\r\n")
            await endpoint.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n")
            await asker.hears("head 200")
            asker.more(b"3\r\ndef\r\n0\r\nX-Sum: 6\r\n\r\n")
            assert await endpoint.through(b"\r\n\r\n") == b"3\r\ndef\r\n0\r\nX-Sum: 6\r\n\r\n"
            await endpoint.send(b"3\r\nllo\r\n0\r\nX-Sum: 5\r\n\r\n")
            await w.ends()
            assert (asker.body, asker.trailers) == (b"hello", b"X-Sum: 5\r\n")
            assert (exchange.bytes_in, exchange.bytes_out, exchange.outcome) == (6, 5, OK)
            assert len(w.members[0].pool.idle) == 1

    run(main)


@both_loops
def test_interim_responses_reach_clients_that_know_them(run: Run) -> None:
    async def main() -> None:
        for minor, told in ((1, ["interim 103", "head 200", "end", "finished"]), (0, ["head 200", "end", "finished"])):
            async with world(Endpoint()) as w:
                asker = Asker(w)
                asker.ask(b"GET / HTTP/1.%d\r\nHost: a\r\n\r\n" % minor)
                await (await take(w)).serve(b"HTTP/1.1 103 Early\r\n\r\n" + OK_EMPTY)
                await w.ends()
                assert asker.told == told

    run(main)


@both_loops
def test_an_early_answer_is_whole_and_its_channel_is_not_reused(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(PUT % 100 + b"abc")
            endpoint = await take(w)
            await endpoint.through(b"abc")
            await endpoint.send(ok(b"early"))
            await w.ends()
            assert (asker.body, exchange.outcome, w.members[0].pool.idle) == (b"early", OK, [])
            assert await endpoint.ended() == b""

    run(main)


# ---- answers of the proxy's own

@both_loops
@pytest.mark.parametrize(("route", "status", "outcome"), [
    (respond("hi"), 200, OK),
    (model.Route("r", redirect=model.Redirect(scheme="https")), 308, OK),
    (respond(host=("b",)), 404, Outcome("no_route", Phase.ROUTE)),
    (model.Route("r", service=(model.WeightedService("back", 0),)), 500, Outcome("no_weight", Phase.ROUTE)),
], ids=["respond", "redirect", "no route", "no weight"])
def test_local_answers(run: Run, route: model.Route, status: int, outcome: Outcome) -> None:
    async def main() -> None:
        place = Endpoint()
        async with World((place,), (route,)) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            assert asker.told == [f"reply {status}", "finished"] and w.logged == [exchange]
            assert (exchange.status, exchange.outcome) == (status, outcome)

    run(main)


class Closed(Gate):
    def __init__(self, verdict: Reply | ProxyError | None) -> None:
        self.verdict = verdict

    def check(self, head: RequestHead) -> Reply | ProxyError | None:
        assert head.host == "a"
        return self.verdict


@both_loops
def test_the_listeners_gate_is_asked_before_the_routes(run: Run) -> None:
    async def main() -> None:
        place = Endpoint()
        async with World((place,), (respond("routed"),)) as w:
            for verdict, told, outcome in (
                    (Reply(308, ((b"Location", b"https://a/"),), b""), "reply 308", OK),
                    (ProxyError(Kind.MISDIRECTED, "no"), "reply 421", Outcome("misdirected", Phase.ROUTE)),
                    (None, "reply 200", OK)):
                asker = Asker(w)
                asker.peer.gate = Closed(verdict)
                exchange = asker.ask(GET)
                assert asker.told == [told, "finished"] and exchange.outcome == outcome

    run(main)


@both_loops
def test_a_grpc_client_is_told_200_and_the_log_what_it_was(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            asker = Asker(w)
            exchange = asker.ask(POST[:-2] + b"Content-Type: application/grpc\r\n\r\n")
            assert asker.told == ["reply 200", "finished"] and asker.reply is not None
            assert dict(asker.reply.fields)[b"grpc-status"] == b"14"
            assert (exchange.status, exchange.outcome.cause) == (503, "unavailable")

    run(main)


@both_loops
def test_no_endpoint_is_ready(run: Run) -> None:
    async def main() -> None:
        async with world() as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            assert asker.told == ["reply 503", "finished"] and exchange.outcome.cause == "unavailable"

    run(main)


# ---- acquire fails

@both_loops
def test_a_refused_connect_goes_to_another_endpoint_whatever_the_method(run: Run) -> None:
    async def main() -> None:
        for request in (GET, POST):
            async with world(Refusing(), Endpoint(), retry=retry("connect")) as w:
                for _ in range(2):  # round robin: one of the two meets the refusing one
                    asker = Asker(w)
                    asker.ask(request)
                    ends = asyncio.ensure_future(w.ends(len(w.logged) + 1))
                    if not w.places[1].accepted:  # type: ignore[union-attr]
                        await (await take(w, 1)).serve()
                    else:
                        await w.places[1].accepted[0].serve()  # type: ignore[union-attr]
                    await ends
                    assert asker.told == ["head 200", "end", "finished"]
                refused = ((w.members[0].address, "connect_refused"),)
                assert refused in [x.attempts for x in w.logged] and {x.attempts for x in w.logged} <= {(), refused}

    run(main)


@both_loops
@pytest.mark.parametrize(("place", "kind"), [(Refusing, Kind.CONNECT_REFUSED), (Silent, Kind.CONNECT_TIMEOUT)])
def test_nobody_can_be_reached(run: Run, place: type[Place], kind: Kind) -> None:
    async def main() -> None:
        timeouts = model.ServiceTimeouts(connect=0.05)
        async with world(place(), service={"timeouts": timeouts}, retry=retry("connect", attempts=2)) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            await w.ends()
            assert asker.told == [f"reply {kind.status}", "finished"]
            assert exchange.outcome == (kind.word, Phase.CONNECT)
            assert exchange.attempts == ((w.members[0].address, kind.word),) * 2, "one more try, at the only endpoint"
            assert asker.reply is not None and w.members[0].address.encode() not in asker.reply.body

    run(main)


# ---- the channel fails before the response

async def dies(endpoint: Talk) -> None:
    await endpoint.head()
    endpoint.close()


@both_loops
@pytest.mark.parametrize(("request_bytes", "again"), [
    (GET, True), (POST, False), (POST[:-2] + b"Idempotency-Key: 7\r\n\r\n", True),
])
def test_a_stale_channel_is_retried_once_on_a_fresh_one(run: Run, request_bytes: bytes, again: bool) -> None:
    async def main() -> None:
        async with world(Endpoint(), retry=retry()) as w:  # no word in `when` is asked for
            endpoint = await warm(w)
            asker = Asker(w)
            exchange = asker.ask(request_bytes)
            await dies(endpoint)
            if not again:
                await w.ends()
                assert asker.told == ["reply 502", "finished"] and exchange.outcome == ("stale", Phase.WAIT)
                return
            assert (await (await take(w)).serve()).start == request_bytes.decode().split("\r\n")[0]
            await w.ends()
            assert asker.told == ["head 200", "end", "finished"]
            assert exchange.attempts == ((w.members[0].address, "stale"),) and not exchange.reused
            assert w.members[0].failures == [], "a closed idle connection says nothing about the endpoint"

    run(main)


@both_loops
def test_a_stale_channel_goes_to_a_fresh_one_and_not_to_the_next_stale_one(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint()) as w:
            askers = [Asker(w) for _ in range(3)]
            for asker in askers:
                asker.ask(GET)
            endpoints = [await take(w) for _ in askers]
            for endpoint in endpoints:
                await endpoint.serve()
            await w.ends(3)
            asker = Asker(w)
            asker.ask(GET)
            await dies(endpoints[2])
            await (await take(w)).serve()
            assert (await w.ends(4)).outcome == OK and asker.told[0] == "head 200"

    run(main)


@both_loops
@pytest.mark.parametrize(("request_bytes", "when", "again"), [
    (GET, ("reset",), True), (GET, ("connect",), False), (POST, ("reset",), False),
    (POST[:-2] + b"Idempotency-Key: 7\r\n\r\n", ("reset",), True),
])
def test_a_reset_before_the_response(run: Run, request_bytes: bytes, when: tuple[str, ...], again: bool) -> None:
    async def main() -> None:
        async with world(Endpoint(), Endpoint(), retry=retry(*when)) as w:
            asker = Asker(w)
            exchange = asker.ask(request_bytes)
            first, second = (0, 1) if exchange.endpoint == w.members[0].address else (1, 0)
            await dies(await take(w, first))
            if again:
                await (await take(w, second)).serve()
            await w.ends()
            assert exchange.outcome == (OK if again else ("reset", Phase.WAIT))
            assert exchange.attempts == ((w.members[first].address, "reset"),)

    run(main)


@both_loops
@pytest.mark.parametrize("again", [True, False])
def test_a_silent_endpoint(run: Run, again: bool) -> None:
    async def main() -> None:
        async with world(Endpoint(), timeouts=model.RouteTimeouts(response=0.05),
                         retry=retry(*(("timeout",) if again else ()), attempts=2)) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            endpoint = await take(w)
            await endpoint.request()
            if again:
                await (await take(w)).serve()
            await w.ends()
            assert asker.told[0] == ("head 200" if again else "reply 504")
            assert exchange.outcome == (OK if again else ("response_timeout", Phase.WAIT))
            assert await endpoint.ended() == b""

    run(main)


@both_loops
@pytest.mark.parametrize(("method", "when", "again"), [
    (b"GET", (503,), True), (b"GET", (502,), False), (b"POST", (503,), False), (b"PUT", (503,), True),
])
def test_a_status_that_asks_for_another_try(run: Run, method: bytes, when: tuple[int, ...], again: bool) -> None:
    async def main() -> None:
        busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
        async with world(Endpoint(), Endpoint(), retry=retry(*when)) as w:
            asker = Asker(w)
            exchange = asker.ask(GET.replace(b"GET", method))
            first, second = (0, 1) if exchange.endpoint == w.members[0].address else (1, 0)
            await (await take(w, first)).serve(busy)
            if again:
                await (await take(w, second)).serve(ok(b"fine"))
            await w.ends()
            assert (exchange.status, asker.body) == ((200, b"fine") if again else (503, b"busy"))
            assert exchange.attempts == (((w.members[first].address, "503"),) if again else ())
            assert len(w.members[first].pool.idle) == 1, "its answer was whole: the channel is kept"

    run(main)


@both_loops
def test_the_last_answer_is_given_when_the_tries_are_over(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint(), retry=retry(503, attempts=3)) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            endpoint = await take(w)
            for number in range(3):
                await endpoint.serve(b"HTTP/1.1 503 Busy\r\nContent-Length: 1\r\n\r\n%d" % number)
            await w.ends()
            assert (exchange.status, asker.body, len(exchange.attempts)) == (503, b"2", 2)

    run(main)


@both_loops
def test_a_broken_response_is_not_tried_again(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint(), Endpoint(), retry=retry("connect", "reset", "timeout", 502)) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            await (await take(w, 0 if exchange.endpoint == w.members[0].address else 1)).serve(b"garbage\r\n\r\n")
            await w.ends()
            assert asker.told == ["reply 502", "finished"] and exchange.outcome == ("response_broken", Phase.WAIT)

    run(main)


@both_loops
def test_the_budget_bounds_retries(run: Run) -> None:
    async def main() -> None:
        async with world(Refusing(), retry=retry("connect", attempts=100)) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            await w.ends()
            assert len(exchange.attempts) == 4, "three retries in a second always, and no share of one request"
            assert asker.told == ["reply 502", "finished"]

    run(main)


# ---- bodies and tries

@both_loops
@pytest.mark.parametrize("size", [10, 65536])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_kept_goes_out_again(run: Run, size: int, chunked: bool) -> None:
    async def main() -> None:
        async with world(Endpoint(), Endpoint()) as w:
            body = bytes(range(256)) * 256
            body = body[:size]
            asker = Asker(w)
            half = size // 2
            if chunked:
                exchange = asker.ask(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n"
                                     % (half, body[:half]))
            else:
                exchange = asker.ask(PUT % size + body[:half])
            first, second = (0, 1) if exchange.endpoint == w.members[0].address else (1, 0)
            endpoint = await take(w, first)
            await endpoint.head()
            asker.more(b"%x\r\n%b\r\n0\r\nX-T: 1\r\n\r\n" % (size - half, body[half:]) if chunked else body[half:])
            endpoint.close()
            assert (await (await take(w, second)).serve()).body == body
            await w.ends()
            assert (exchange.outcome, exchange.bytes_in) == (OK, size)

    run(main)


@both_loops
def test_a_body_over_the_limit_is_not_sent_again(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint(), Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(PUT % 65537 + b"x" * 65536)
            endpoint = await take(w, 0 if exchange.endpoint == w.members[0].address else 1)
            await endpoint.head()
            await endpoint.receive(65536)
            asker.more(b"x")
            await endpoint.receive(1)
            endpoint.close()
            await w.ends()
            assert asker.told[-2:] == ["reply 502", "finished"] and len(exchange.attempts) == 1

    run(main)


@both_loops
def test_a_client_waits_while_nobody_takes_its_body(run: Run) -> None:
    async def main() -> None:
        async with world(Silent(), service={"timeouts": model.ServiceTimeouts(connect=0.1)}, retry=retry()) as w:
            asker = Asker(w)
            asker.ask(PUT % 1_000_000 + b"x" * 60_000)
            assert "pause" not in asker.told
            asker.more(b"x" * 6_000)
            assert asker.told == ["pause"]
            await w.ends()
            assert asker.told == ["pause", "reply 504", "finished"]

    run(main)


@both_loops
def test_an_endpoint_that_does_not_read_stops_the_client(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(PUT % 100_000_000)
            endpoint = await take(w)
            await endpoint.head()
            sent = 0
            while "pause" not in asker.told:
                asker.more(b"x" * 65536)
                sent += 65536
                await asyncio.sleep(0)
            assert "resume" not in asker.told[asker.told.index("pause"):]
            await endpoint.receive(sent)
            await until(lambda: "resume" in asker.told[asker.told.index("pause"):])
            exchange.client_gone()
            assert await endpoint.reset_after() == b""

    run(main)


@both_loops
def test_a_client_that_does_not_read_stops_the_endpoint_alone(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(PUT % 6)
            endpoint = await take(w)
            await endpoint.head()
            await endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            await asker.hears("head 200")
            exchange.client_full()
            sending = asyncio.create_task(endpoint.send(b"x" * 100_000_000))
            asker.more(b"abcdef")  # the other direction goes on
            assert await endpoint.receive(6) == b"abcdef"
            assert len(asker.body) < 1 << 20
            exchange.client_ready()
            await until(lambda: len(asker.body) > 1 << 20)
            exchange.client_gone()
            with pytest.raises(ConnectionError):
                await sending

    run(main)


# ---- time

@both_loops
@pytest.mark.parametrize(("stage", "told", "phase"), [
    ("queue", ["reply 504", "finished"], Phase.QUEUE), ("connect", ["reply 504", "finished"], Phase.CONNECT),
    ("send", ["resume", "reply 504", "finished"], Phase.SEND), ("wait", ["reply 504", "finished"], Phase.WAIT),
    ("body", ["head 200", "cut"], Phase.BODY),
])
def test_the_total_time_ends_every_stage(run: Run, stage: str, told: list[str], phase: Phase) -> None:
    async def main() -> None:
        place: Place = Silent() if stage == "connect" else Endpoint()
        limits = model.ServiceLimits(1, 5, 60.0)
        async with world(place, service={"limits": limits}, timeouts=model.RouteTimeouts(total=0.1)) as w:
            if stage == "queue":
                w.service.enter(w.members[0])
            asker = Asker(w)
            exchange = asker.ask(PUT % 10 + b"abc" if stage == "send" else GET)
            if stage in ("send", "wait", "body"):
                endpoint = await take(w)
                await endpoint.head()
                if stage == "body":
                    await endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
                await w.ends()
                assert await endpoint.reset_after() is not None
            await w.ends()
            assert (asker.told, exchange.outcome) == (told, ("total_timeout", phase))
            if stage == "queue":
                w.service.leave(w.members[0])

    run(main)


@both_loops
def test_a_client_that_sends_slowly_is_not_the_endpoints_fault(run: Run) -> None:
    """`timeouts.response` runs from the request's last byte: before that the endpoint has nothing to answer."""
    async def main() -> None:
        async with world(Endpoint(), timeouts=model.RouteTimeouts(response=0.1),
                         service={"eject": model.Eject(3)}) as w:
            asker = Asker(w)
            exchange = asker.ask(PUT % 6 + b"abc")
            endpoint = await take(w)
            await endpoint.through(b"abc")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(endpoint.more(), 0.3)
            asker.more(b"def")
            await endpoint.receive(3)
            await endpoint.send(OK_EMPTY)
            await w.ends()
            assert exchange.outcome == OK and w.members[0].failures == []

    run(main)


# ---- the client leaves

@both_loops
@pytest.mark.parametrize(("stage", "phase"), [("queue", Phase.QUEUE), ("connect", Phase.CONNECT), ("send", Phase.SEND),
                                              ("wait", Phase.WAIT), ("body", Phase.BODY)])
def test_a_client_that_leaves_takes_everything_along(run: Run, stage: str, phase: Phase) -> None:
    async def main() -> None:
        place: Place = Silent() if stage == "connect" else Endpoint()
        service = {"limits": model.ServiceLimits(1, 5, 60.0), "eject": model.Eject(1)}
        async with world(place, service=service) as w:
            member = w.members[0]
            if stage == "queue":
                w.service.enter(member)
            asker = Asker(w)
            exchange = asker.ask(PUT % 10 + b"abc" if stage == "send" else GET)
            endpoint = None
            if stage in ("send", "wait", "body"):
                endpoint = await take(w)
                await endpoint.head()
                if stage == "body":
                    await endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
                    await asker.hears("head 200")
            told = list(asker.told)
            exchange.client_gone()
            exchange.client_gone()
            assert w.logged == [exchange] and asker.told == told, "nobody is there to be told"
            assert exchange.status == (200 if stage == "body" else 499)
            if endpoint is not None:
                assert await endpoint.reset_after() is not None
            if stage == "queue":
                w.service.leave(member)
            assert (member.active, member.failures, member.pool.idle) == (0, [], [])
            assert exchange.outcome == ("client_gone", phase)

    run(main)


@both_loops
def test_a_client_that_breaks_the_rules_in_its_body(run: Run) -> None:
    async def main() -> None:
        for begun in (False, True):
            async with world(Endpoint(), service={"eject": model.Eject(3)}) as w:
                asker = Asker(w)
                exchange = asker.ask(PUT % 10 + b"abc")
                endpoint = await take(w)
                await endpoint.head()
                if begun:
                    await endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
                    await asker.hears("head 200")
                exchange.request_failed(ProxyError(Kind.BAD_REQUEST, "bad chunk"))
                exchange.request_failed(ProxyError(Kind.BAD_REQUEST, "bad chunk"))
                assert asker.told[-1] == ("cut" if begun else "finished")
                assert exchange.outcome == ("bad_request", Phase.BODY if begun else Phase.SEND)
                assert await endpoint.reset_after() == b"abc"
                assert w.members[0].failures == [] and w.logged == [exchange]

    run(main)


# ---- the upstream fails in the body

@both_loops
@pytest.mark.parametrize(("data", "cause"), [(b"Content-Length: 9\r\n\r\nabc", "response_cut"),
                                             (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "response_broken")])
def test_a_body_that_fails_cuts_the_client(run: Run, data: bytes, cause: str) -> None:
    async def main() -> None:
        async with world(Endpoint(), Endpoint(), retry=retry("reset", "timeout", 502)) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            endpoint = await take(w, 0 if exchange.endpoint == w.members[0].address else 1)
            await endpoint.serve(b"HTTP/1.1 200 OK\r\n" + data)
            await asker.hears("head 200")
            if cause == "response_broken":
                await endpoint.send(b"xyz\r\n")
            else:
                endpoint.close()
            await w.ends()
            assert asker.told == ["head 200", "cut"] and exchange.outcome == (cause, Phase.BODY)
            assert (exchange.status, exchange.attempts) == (200, ())

    run(main)


# ---- places

@both_loops
def test_the_queue_gives_places_in_order(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint(), service={"limits": model.ServiceLimits(1, 2, 60.0)}) as w:
            askers = [Asker(w) for _ in range(4)]
            exchanges = [asker.ask(GET.replace(b" / ", b" /%d " % n)) for n, asker in enumerate(askers)]
            assert exchanges[3].outcome == ("queue_full", Phase.QUEUE) and askers[3].told == ["reply 503", "finished"]
            endpoint = await take(w)
            for number in range(3):
                assert (await endpoint.serve()).start == f"GET /{number} HTTP/1.1"
            await w.ends(4)
            assert all(x.outcome == OK for x in exchanges[:3])
            assert exchanges[0].queue_s < 0 <= min(exchanges[1].queue_s, exchanges[2].queue_s)

    run(main)


@both_loops
def test_a_queue_that_takes_too_long(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint(), service={"limits": model.ServiceLimits(1, 2, 0.05)}) as w:
            w.service.enter(w.members[0])
            asker = Asker(w)
            exchange = asker.ask(GET)
            await w.ends()
            assert asker.told == ["reply 503", "finished"] and exchange.outcome == ("queue_timeout", Phase.QUEUE)
            assert exchange.queue_s >= 0.04
            w.service.leave(w.members[0])

    run(main)


@both_loops
def test_a_retry_does_not_take_a_place_twice(run: Run) -> None:
    """`per_endpoint` is a promise to the endpoint: a second try must not overtake it by giving its place up first."""
    async def main() -> None:
        async with world(Endpoint(), service={"limits": model.ServiceLimits(1, 5, 60.0)}) as w:
            endpoint = await warm(w)
            first, second = Asker(w), Asker(w)
            first.ask(GET)
            second.ask(GET)
            most = 0
            await dies(endpoint)
            fresh = await take(w)
            most = max(most, w.members[0].active)
            assert most == 1, "two exchanges at an endpoint that takes one"
            await fresh.serve()
            await w.ends(1)
            await fresh.serve()
            await w.ends(2)

    try:
        run(main)
    except TimeoutError as error:
        raise AssertionError("the exchanges did not end") from error


# ---- evidence

@both_loops
@pytest.mark.parametrize(("answer", "counts"), [(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", 0),
                                                (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 1),
                                                (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", 0)])
def test_which_statuses_count_against_an_endpoint(run: Run, answer: bytes, counts: int) -> None:
    async def main() -> None:
        async with world(Endpoint(), service={"eject": model.Eject(3)}) as w:
            Asker(w).ask(GET)
            await (await take(w)).serve(answer)
            await w.ends()
            assert len(w.members[0].failures) == counts

    run(main)


@both_loops
def test_an_endpoint_that_refuses_is_left_out_after_a_while(run: Run) -> None:
    async def main() -> None:
        async with world(Refusing(), Endpoint(), service={"eject": model.Eject(1)}) as w:
            for number in range(4):
                Asker(w).ask(GET)
                place = w.places[1]
                assert isinstance(place, Endpoint)
                talk = place.accepted[0] if place.accepted else await take(w, 1)
                await talk.serve()  # type: ignore[attr-defined]
                await w.ends(number + 1)
            assert sum(len(x.attempts) for x in w.logged) == 1
            assert not w.members[0].ready

    run(main)


# ---- upgrades

@both_loops
def test_an_upgrade_gives_the_connection_to_the_session(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(UPGRADE)
            endpoint = await take(w)
            await endpoint.serve(SWITCH + b"first")
            await asker.hears("upgrade")
            assert (asker.surplus, exchange.status, w.logged, w.members[0].active) == (b"first", 101, [], 1)
            assert asker.tunnel_over is not None and asker.upstream is not None
            asker.tunnel_over(Outcome("ok", Phase.DONE), 10, 20)
            assert (w.logged, exchange.outcome, exchange.bytes_in, exchange.bytes_out) == ([exchange], OK, 10, 20)
            asker.upstream.abort()
            assert await endpoint.ended() == b""

    run(main)


@both_loops
def test_101_before_the_end_of_the_request(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(UPGRADE.replace(b"GET", b"PUT")[:-2] + b"Content-Length: 5\r\n\r\nab")
            endpoint = await take(w)
            await endpoint.through(b"ab")
            await endpoint.send(SWITCH)
            await w.ends()
            assert asker.told[-2:] == ["reply 502", "finished"] and exchange.outcome.cause == "response_broken"

    run(main)


# ---- what goes out

@both_loops
def test_rewrites_and_edits(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint(), path=model.PathMatch("prefix", "/old"),
                         rewrite=model.Rewrite(prefix="/new", host="h.example"),
                         request_headers=model.HeaderEdits(set=(("x-env", "prod"),), remove=("x-debug",))) as w:
            asker = Asker(w)
            asker.ask(b"GET /old/a?b HTTP/1.1\r\nHost: a\r\nX-Debug: 1\r\n\r\n")
            request = await (await take(w)).serve()
            assert request.start == "GET /new/a?b HTTP/1.1"
            assert (request["host"], request["x-env"], request["x-debug"]) == ("h.example", "prod", "")
            await w.ends()

    run(main)


@both_loops
def test_a_1_0_request_without_host_has_the_endpoints(run: Run) -> None:
    async def main() -> None:
        async with world(Endpoint()) as w:
            Asker(w).ask(b"GET / HTTP/1.0\r\n\r\n")
            assert (await (await take(w)).serve())["host"] == w.members[0].address
            await w.ends()

    run(main)


@both_loops
def test_a_post_is_not_sent_on_a_channel_that_was_closed_a_moment_ago(run: Run) -> None:
    """It could not be sent twice: so its channel is looked at first."""
    async def main() -> None:
        async with world(Endpoint()) as w:
            endpoint = await warm(w)
            endpoint.finish()
            endpoint.sock.shutdown(socket.SHUT_RDWR)
            exchange = Asker(w).ask(POST)
            assert re.match("POST", (await (await take(w)).serve()).start)
            await w.ends()
            assert exchange.outcome == OK and exchange.attempts == ()

    run(main)
