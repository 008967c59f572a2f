"""Exchanges with HTTP/2 endpoints: an HTTP/1 client's requests on a scripted endpoint's streams."""
from __future__ import annotations

import asyncio
from typing import Any

import hpack
import pytest

from edgeproxy.codec.h2 import H2Limits
from edgeproxy.config import model
from edgeproxy.errors import OK, Phase
from fakes import Asker, accepted, back
from net.rig import Endpoint, Refusing, Run, Silent, both_loops, until
from upstream.h2place import CANCEL, REFUSED_STREAM, H2World, engine, frame, goaway, h2_accepted

__all__ = ["engine"]

GET = b"GET /p?q HTTP/1.1\r\nHost: a.example\r\nConnection: close, x\r\nX: 1\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
CHUNKS = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def retry(*when: Any, attempts: int = 3) -> model.Retry:
    return model.Retry(attempts, when)


# ---- the good end

@both_loops
def test_a_request_and_its_response(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(GET)
            talk = await h2_accepted(w.places[0])
            asked = await talk.serve(0, b"hello", server="x")
            assert asked.pairs[:4] == [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"),
                                       (b":path", b"/p?q")]
            names = [name for name, _ in asked.pairs]
            assert b"connection" not in names and b"host" not in names and b"x" not in names
            assert asked["x-request-id"] == "id-1" and asked["x-forwarded-proto"] == "http"
            assert await w.ends() is exchange
            assert (asker.told, asker.body) == (["head 200", "end", "finished"], b"hello")
            assert (exchange.outcome, exchange.status, exchange.bytes_out) == (OK, 200, 5)
            assert not exchange.reused and exchange.connect_s >= 0 and exchange.first_byte_s >= 0
            second = Asker(w).ask(GET)
            await talk.serve(1)
            await w.ends(2)
            assert second.reused and second.connect_s < 0 and len(w.connections()) == 1
            assert asker.head is not None and asker.head.length == -1, "of unknown length: chunked to an HTTP/1.1 client"

    run(main)


@both_loops
def test_many_at_once_share_one_dial_and_one_connection(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            askers = [Asker(w) for _ in range(100)]
            for number, asker in enumerate(askers):
                asker.ask(GET.replace(b"/p", b"/%d" % number))
            assert len(w.shared().dials) == 1
            talk = await h2_accepted(w.places[0])
            await talk.until(lambda: len(talk.asked) == 100)
            for asked in reversed(talk.asked):
                await talk.answer(asked.stream, asked[":path"].encode())
            await w.ends(100)
            assert [a.body for a in askers] == [b"/%d?q" % n for n in range(100)]
            assert len(w.connections()) == 1 and not w.shared().dials

    run(main)


@both_loops
def test_more_than_the_endpoint_allows_get_other_connections(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            askers = [Asker(w) for _ in range(5)]
            for asker in askers:
                asker.ask(GET)
            served = 0
            while served < 5:
                talk = await h2_accepted(w.places[0], H2Limits(streams=2))
                wanted = min(2, 5 - served)
                await talk.until(lambda talk=talk, wanted=wanted: len(talk.asked) == wanted)
                for asked in talk.asked:
                    await talk.answer(asked.stream, b"x")
                served += wanted
            await w.ends(5)
            assert {x.outcome for x in w.logged} == {OK} and len(w.connections()) == 3

    run(main)


@both_loops
def test_a_hundred_and_one_need_a_second_dial(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            for _ in range(101):
                Asker(w).ask(GET)
            assert [len(dial.seats) for dial in w.shared().dials] == [100, 1]
            for count in (100, 1):
                talk = await h2_accepted(w.places[0])
                for number in range(count):
                    await talk.serve(number)
            await w.ends(101)

    run(main)


@both_loops
def test_bodies_both_ways_with_trailers(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(CHUNKS + b"3\r\nabc\r\n")
            talk = await h2_accepted(w.places[0])
            asked = await talk.request(whole=False)
            await talk.until(lambda: asked.body == b"abc")
            await talk.head(asked.stream)
            await talk.body(asked.stream, b"he")
            await asker.hears("head 200")
            asker.more(b"3\r\ndef\r\n0\r\nX-Sum: 6\r\n\r\n")
            await talk.request()
            assert (asked.body, asked.trailers) == (b"abcdef", [(b"x-sum", b"6")])
            await talk.body(asked.stream, b"llo")
            await talk.tail(asked.stream, x_sum="5")
            await w.ends()
            assert (asker.body, asker.trailers) == (b"hello", b"x-sum: 5\r\n")
            assert (exchange.bytes_in, exchange.bytes_out, exchange.outcome) == (6, 5, OK)
            assert talk.asked[0].reset is None and w.connections()[0].codec.open == 0

    run(main)


@both_loops
@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 300_000])
def test_a_body_of_known_length(run: Run, size: int) -> None:
    async def main() -> None:
        body = bytes(range(256)) * (size // 256 + 1)
        body = body[:size]
        async with H2World(Endpoint()) as w:
            asker = Asker(w)
            asker.ask(PUT % size + body[:50_000])
            for at in range(50_000, size, 50_000):
                asker.more(body[at:at + 50_000])
            talk = await h2_accepted(w.places[0])
            asked = await talk.serve(0, body, content_length=str(size))
            assert asked["content-length"] == str(size) and asked.body == body
            await talk.during(w.ends())
            assert asker.body == body and asker.head is not None and asker.head.length == size

    run(main)


@both_loops
def test_head_204_and_304_have_no_body(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            talk = None
            for number, (request, status) in enumerate([(GET.replace(b"GET", b"HEAD"), 200), (GET, 204), (GET, 304)]):
                asker = Asker(w)
                asker.ask(request)
                talk = talk or await h2_accepted(w.places[0])
                fields = {"content_length": "5"} if status != 204 else {}
                await talk.serve(number, b"", status, **fields)
                await w.ends(number + 1)
                assert asker.told == [f"head {status}", "end", "finished"] and asker.body == b""
            assert [x.outcome for x in w.logged] == [OK] * 3

    run(main)


@both_loops
def test_interim_responses_and_a_body_that_waits_for_them(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            talk = await h2_accepted(w.places[0])
            asked = await talk.request(whole=False)
            assert asked["expect"] == "100-continue"
            await talk.interim(asked.stream, 103)
            await talk.interim(asked.stream, 100)
            await asker.hears("interim 100")
            asker.more(b"abc")
            await talk.serve(0, b"ok")
            await w.ends()
            assert exchange.outcome == OK and exchange.continued and asker.body == b"ok"
            assert [t for t in asker.told if t.startswith("interim")] == ["interim 103", "interim 100"]

    run(main)


@both_loops
def test_a_refused_expectation_resets_the_stream_alone(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker = Asker(w)
            asker.ask(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            talk = await h2_accepted(w.places[0])
            asked = await talk.request(whole=False)
            await talk.answer(asked.stream, status=417)
            await w.ends()
            await talk.until(lambda: asked.reset is not None)
            assert asker.told[-3:] == ["head 417", "end", "finished"] and len(w.connections()) == 1

    run(main)


@both_loops
def test_the_status_of_a_grpc_answer_is_known(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            talk = None
            for number, (fields, trailers, status) in enumerate([
                    ({}, {"x": "1", "grpc-status": "5", "grpc-message": "grpc-status: 3"}, 5), ({}, {"grpc-status": "0"}, 0),
                    ({"grpc-status": "12"}, {}, 12), ({}, {}, -1), ({}, {"x-grpc-status": "5"}, -1),
                    ({}, {"grpc-status": "of no use"}, -1), ({"grpc-status": "-1"}, {}, -1)]):
                exchange = Asker(w).ask(POST)
                talk = talk or await h2_accepted(w.places[0])
                asked = await talk.request(number)
                await talk.head(asked.stream, 200, not trailers, **fields)
                if trailers:
                    await talk.body(asked.stream, b"abc")
                    await talk.tail(asked.stream, **trailers)
                await w.ends(number + 1)
                assert (exchange.status, exchange.outcome, exchange.grpc_status) == (200, OK, status)
        async with H2World(Refusing()) as w:
            exchange = Asker(w).ask(POST.replace(b"Host", b"Content-Type: application/grpc\r\nHost"))
            await w.ends()
            assert (exchange.status, exchange.grpc_status) == (502, 14), "one that the proxy says itself"

    run(main)


@both_loops
def test_an_early_answer_is_whole(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(PUT % 100 + b"abc")
            talk = await h2_accepted(w.places[0])
            asked = await talk.request(whole=False)
            await talk.answer(asked.stream, b"early")
            await w.ends()
            assert (asker.body, exchange.outcome) == (b"early", OK)
            await talk.until(lambda: asked.reset == CANCEL)
            Asker(w).ask(GET)
            await talk.serve(1)
            assert (await w.ends(2)).reused, "the connection is as good as before"

    run(main)


@both_loops
def test_an_upgrade_goes_out_as_a_plain_request(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker = Asker(w)
            asker.ask(GET.replace(b"close, x", b"upgrade")[:-2] + b"Upgrade: chat\r\n\r\n")
            talk = await h2_accepted(w.places[0])
            asked = await talk.serve(0, b"plain")
            assert asked["upgrade"] == ""
            await w.ends()
            assert asker.told == ["head 200", "end", "finished"]

    run(main)


@both_loops
def test_an_endpoint_whose_bytes_come_one_by_one(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker = Asker(w)
            exchange = asker.ask(CHUNKS + b"3\r\nabc\r\n0\r\n\r\n")
            talk = await h2_accepted(w.places[0], piece=1)
            asked = await talk.request()
            await talk.interim(asked.stream, 103)
            await talk.head(asked.stream, server="x")
            await talk.body(asked.stream, b"hello")
            await talk.tail(asked.stream, x_sum="5")
            await w.ends()
            assert asker.told == ["interim 103", "head 200", "end", "finished"]
            assert (asker.body, asker.trailers, exchange.outcome) == (b"hello", b"x-sum: 5\r\n", OK)

    run(main)


# ---- failures

async def first(w: H2World, request: bytes = GET, limits: H2Limits | None = None) -> Any:
    asker = Asker(w)
    exchange = asker.ask(request)
    number = 0 if exchange.endpoint == w.members[0].address else 1
    talk = await h2_accepted(w.places[number], limits)
    return asker, exchange, talk, number


@both_loops
@pytest.mark.parametrize("how", ["refused", "goaway"])
@pytest.mark.parametrize("request_bytes", [GET, POST, PUT % 3 + b"abc", PUT % 6 + b"abc"])
def test_a_request_that_was_not_looked_at_is_sent_again_whatever_the_method(run: Run, how: str, request_bytes: bytes
                                                                           ) -> None:
    async def main() -> None:
        async with H2World(Endpoint(), Endpoint(), retry=retry("connect")) as w:
            asker, exchange, talk, number = await first(w, request_bytes)
            asked = await talk.request(whole=False)
            if how == "refused":
                await talk.reset_stream(asked.stream, REFUSED_STREAM)
            else:
                await talk.raw(goaway(0))
            other = await h2_accepted(w.places[1 - number])
            again = await other.request(whole=False)
            if b" 6\r\n" in request_bytes:
                await until(lambda: "resume" in asker.told)
                asker.more(b"def")
            await other.serve()
            await w.ends()
            assert again.body == request_bytes.partition(b"\r\n\r\n")[2] + (b"def" if b" 6\r\n" in request_bytes else b"")
            word = "not_processed" if how == "refused" else "goaway"
            assert exchange.outcome == OK and exchange.attempts == ((w.members[number].address, word),)
            assert w.members[number].failures == []
            if how == "goaway":
                assert w.connections(number) == []
                await talk.ended()

    run(main)


@both_loops
def test_what_is_lost_cannot_be_sent_again_even_if_it_was_not_looked_at(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint(), Endpoint(), retry=retry("connect")) as w:
            asker, exchange, talk, _ = await first(w, PUT % 100_000 + b"x" * 60_000)
            asked = await talk.request(whole=False)
            await talk.until(lambda: len(asked.body) == 60_000)
            asker.more(b"x" * 30_000)
            await talk.until(lambda: len(asked.body) == 90_000)
            await talk.reset_stream(asked.stream, REFUSED_STREAM)
            await w.ends()
            assert asker.told[-2:] == ["reply 502", "finished"] and exchange.outcome.cause == "not_processed"

    run(main)


@both_loops
def test_goaway_lets_what_is_under_way_finish(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker, exchange, talk, _ = await first(w)
            asked = await talk.request()
            await talk.raw(goaway(2**31 - 1))
            await talk.raw(goaway(asked.stream))
            await until(lambda: w.connections() == [])
            Asker(w).ask(GET)
            other = await h2_accepted(w.places[0])
            await other.serve()
            await talk.answer(asked.stream, b"late")
            await w.ends(2)
            assert asker.body == b"late" and exchange.outcome == OK
            await talk.ended()

    run(main)


@both_loops
@pytest.mark.parametrize(("when", "method", "again"), [(("reset",), GET, True), ((), GET, False),
                                                       (("reset",), POST, False)])
@pytest.mark.parametrize("how", ["stream", "fin", "rst"])
def test_a_reset_before_the_response(run: Run, when: tuple[Any, ...], method: bytes, again: bool, how: str) -> None:
    async def main() -> None:
        async with H2World(Endpoint(), Endpoint(), retry=retry(*when)) as w:
            asker, exchange, talk, number = await first(w, method)
            asked = await talk.request()
            if how == "stream":
                await talk.reset_stream(asked.stream, CANCEL)
            elif how == "fin":
                talk.close()
            else:
                talk.reset()
            if again:
                await (await h2_accepted(w.places[1 - number])).serve()
            await w.ends()
            assert exchange.outcome == (OK if again else ("reset", Phase.WAIT))
            assert exchange.attempts == ((w.members[number].address, "reset"),)

    run(main)


@both_loops
def test_a_connection_that_dies_as_it_is_reused_is_stale(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint(), retry=retry()) as w:
            _, _, talk, _ = await first(w)
            await talk.serve()
            await w.ends()
            askers = [Asker(w) for _ in range(3)]
            exchanges = [asker.ask(GET) for asker in askers]
            await talk.request(3)
            talk.close()
            fresh = await h2_accepted(w.places[0])
            for number in range(3):
                await fresh.serve(number)
            await w.ends(4)
            assert {x.attempts for x in exchanges} == {((w.members[0].address, "stale"),)}
            assert w.members[0].failures == [] and [x.outcome for x in exchanges] == [OK] * 3

    run(main)


@both_loops
def test_a_post_is_not_sent_on_a_connection_that_was_closed_a_moment_ago(run: Run) -> None:
    """It could not be sent twice: so an idle connection is looked at first."""
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            _, _, talk, _ = await first(w)
            await talk.serve()
            await w.ends()
            assert w.connections()[0].idle
            talk.close()
            exchange = Asker(w).ask(POST)
            await (await h2_accepted(w.places[0])).serve()
            await w.ends(2)
            assert exchange.outcome == OK and exchange.attempts == ()

    run(main)


@both_loops
@pytest.mark.parametrize("how", ["stream", "fin", "rst", "garbage", "goaway"])
def test_a_cut_body_never_looks_complete(run: Run, how: str) -> None:
    async def main() -> None:
        async with H2World(Endpoint(), retry=retry("reset", "connect")) as w:
            asker, exchange, talk, _ = await first(w)
            asked = await talk.request()
            await talk.head(asked.stream)
            await talk.body(asked.stream, b"abc")
            await asker.hears("head 200")
            if how == "stream":
                await talk.reset_stream(asked.stream, 2)
            elif how == "fin":
                talk.close()
            elif how == "rst":
                talk.reset()
            elif how == "goaway":
                await talk.raw(goaway(0))
            else:
                await talk.raw(b"\xff" * 100)
            await w.ends()
            assert asker.told == ["head 200", "cut"] and exchange.outcome == ("response_cut", Phase.BODY)

    run(main)


@both_loops
@pytest.mark.parametrize(("fields", "body"), [
    ({"content_length": "5"}, b"abc"), ({"content_length": "2"}, b"abc"), ({"content_length": "5"}, b""),
], ids=["short", "long", "none"])
def test_a_body_of_another_length_than_announced(run: Run, fields: dict[str, str], body: bytes) -> None:
    async def main() -> None:
        async with H2World(Endpoint(), retry=retry("reset", "connect")) as w:
            asker, exchange, talk, _ = await first(w)
            asked = await talk.request()
            await talk.head(asked.stream, ended=not body, **fields)
            if body:
                await talk.body(asked.stream, body, True)
            await w.ends()
            assert "end" not in asker.told and exchange.outcome.cause in ("response_broken", "response_cut")
            assert len(asker.body) < int(fields["content_length"]) or len(asker.body) <= 2

    run(main)


@both_loops
def test_a_body_where_none_may_be(run: Run) -> None:
    async def main() -> None:
        for request, status in ((GET.replace(b"GET", b"HEAD"), 200), (GET, 204), (GET, 304)):
            async with H2World(Endpoint()) as w:
                asker, exchange, talk, _ = await first(w, request)
                asked = await talk.request()
                await talk.head(asked.stream, status)
                await talk.body(asked.stream, b"HTTP/1.1 200 OK\r\n\r\n", True)
                await w.ends()
                assert asker.body == b"" and exchange.outcome.cause in ("response_broken", "response_cut")

    run(main)


@both_loops
@pytest.mark.parametrize("fields", [{"Upper": "x"}, {"connection": "close"}, {"transfer_encoding": "chunked"},
                                    {"a b": "c"}])
def test_a_malformed_head(run: Run, fields: dict[str, str]) -> None:
    async def main() -> None:
        async with H2World(Endpoint(), retry=retry("reset", "connect")) as w:
            asker, exchange, talk, _ = await first(w)
            asked = await talk.request()
            pairs = [(b":status", b"200"), *((n.replace("_", "-").encode(), v.encode()) for n, v in fields.items())]
            await talk.raw(frame(1, 5, asked.stream, hpack.Encoder().encode(pairs)))
            await w.ends()
            assert asker.told == ["reply 502", "finished"] and exchange.outcome.cause == "response_broken"

    run(main)


@both_loops
def test_endless_interim_responses(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker, exchange, talk, _ = await first(w)
            asked = await talk.request()
            for _ in range(40):
                talk.codec.respond_interim(asked.stream, [(b":status", b"102")])
            await talk.say()
            await w.ends()
            assert exchange.outcome.cause == "response_broken"
            await talk.until(lambda: asked.reset is not None)

    run(main)


@both_loops
@pytest.mark.parametrize(("place", "cause"), [(Refusing, "connect_refused"), (Silent, "connect_timeout")])
def test_nobody_can_be_reached(run: Run, place: Any, cause: str) -> None:
    async def main() -> None:
        timeouts = model.ServiceTimeouts(connect=0.05)
        async with H2World(place(), service={"timeouts": timeouts}, retry=retry()) as w:
            askers = [Asker(w) for _ in range(3)]
            exchanges = [asker.ask(GET) for asker in askers]
            await w.ends(3)
            assert {x.outcome.cause for x in exchanges} == {cause} and not w.shared().dials

    run(main)


@both_loops
@pytest.mark.parametrize(("says", "cause"), [(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "response_broken"),
                                             (b"", "connect_timeout"), (None, "connect_failed")])
def test_an_endpoint_that_does_not_speak_http2(run: Run, says: bytes | None, cause: str) -> None:
    async def main() -> None:
        timeouts = model.ServiceTimeouts(connect=0.1)
        place = Endpoint()
        async with H2World(place, service={"timeouts": timeouts}, retry=retry()) as w:
            asker = Asker(w)
            exchange = asker.ask(POST)
            peer = await place.accept()
            if says:
                await peer.send(says)
            elif says is None:
                peer.close()
            await w.ends()
            assert exchange.outcome == (cause, Phase.CONNECT) and asker.told[-1] == "finished"
            assert w.connections() == [] and w.shared().dials == []

    run(main)


# ---- flow

@both_loops
def test_an_endpoint_that_opens_no_window_stops_its_client_alone(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker, exchange, talk, _ = await first(w, PUT % 10_000_000 + b"")
            talk.greedy = False
            asked = await talk.request(whole=False)
            sent = 0
            while "pause" not in asker.told:
                asker.more(b"x" * 16_384)
                sent += 16_384
                await asyncio.sleep(0)
                assert sent < 1_000_000
            await talk.until(lambda: len(asked.body) == 65_535 or len(asked.body) == 65_536)
            assert sent <= 65_536 * 3
            other = Asker(w)
            other.ask(GET)
            await talk.serve(1, b"the others go on")
            await other.hears("finished")
            assert "resume" not in asker.told[asker.told.index("pause"):]
            talk.greedy = True
            talk.codec.consumed(asked.stream, len(asked.body))
            await talk.until(lambda: len(asked.body) == sent)
            await until(lambda: "resume" in asker.told[asker.told.index("pause"):])
            exchange.client_gone()
            await talk.until(lambda: asked.reset == CANCEL)

    run(main)


@both_loops
def test_a_client_that_does_not_read_stops_its_stream_alone(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker, exchange, talk, _ = await first(w)
            asked = await talk.request()
            await talk.head(asked.stream)
            await asker.hears("head 200")
            exchange.client_full()
            talk.codec.send(asked.stream, b"x" * 1_000_000, True)
            await talk.say()
            for number in range(1, 30):  # far more than the connection's window could hold if it were shared
                other = Asker(w)
                other.ask(GET)
                answered = await talk.request(number)
                await talk.head(answered.stream)
                await talk.body(answered.stream, b"y" * 60_000, True)
                await talk.during(other.hears("finished"))
            assert len(asker.body) <= 65_536, "its window is all that comes"
            exchange.client_ready()
            await talk.during(w.ends(30))
            assert len(asker.body) == 1_000_000

    run(main)


@both_loops
def test_many_slow_clients_do_not_hold_up_the_rest(run: Run) -> None:
    """Fifty streams that nobody reads hold 3.2 MiB: more than a window of 1 MiB for all would leave to others."""
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            slow = [Asker(w) for _ in range(50)]
            for asker in slow:
                asker.ask(GET)
            talk = await h2_accepted(w.places[0])
            await talk.until(lambda: len(talk.asked) == 50)
            for asked in talk.asked:
                await talk.head(asked.stream)
            await until(lambda: all("head 200" in a.told for a in slow))
            for asker in slow:
                asker.exchange.client_full()
            for asked in talk.asked:
                talk.codec.send(asked.stream, b"x" * 100_000, True)
            await talk.say()
            await until(lambda: all(len(a.body) == 65_536 for a in slow))
            quick = Asker(w)
            quick.ask(GET)
            await talk.serve(50, b"y" * 60_000)
            await quick.hears("finished")
            for asker in slow:
                asker.exchange.client_gone()
            await until(lambda: len(w.logged) == 51)

    run(main)


# ---- time

@both_loops
def test_each_stream_has_its_own_time(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint(), timeouts=model.RouteTimeouts(response=0.4), retry=retry(attempts=1)) as w:
            asker, exchange, talk, _ = await first(w)
            asked = await talk.request()
            await talk.head(asked.stream)
            await asker.hears("head 200")
            quiet = Asker(w)
            silent = quiet.ask(GET)
            await talk.request(1)
            for _ in range(6):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), 0.1)
                await talk.body(asked.stream, b"x")
            await w.ends(1)
            assert silent.outcome == ("response_timeout", Phase.WAIT) and quiet.told == ["reply 504", "finished"]
            await talk.until(lambda: talk.asked[1].reset == CANCEL)
            await talk.body(asked.stream, b"", True)
            await w.ends(2)
            assert exchange.outcome == OK and len(w.connections()) == 1

    run(main)


@both_loops
def test_a_connection_that_has_gone_dumb_is_used_no_more(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint(), timeouts=model.RouteTimeouts(response=0.5), retry=retry(attempts=1)) as w:
            _, _, talk, _ = await first(w)
            await talk.serve()
            await w.ends()
            Asker(w).ask(GET)
            await w.ends(2)
            assert w.connections() == []
            Asker(w).ask(GET)
            await (await h2_accepted(w.places[0])).serve()
            assert (await w.ends(3)).outcome == OK

    run(main)


@both_loops
def test_an_idle_connection_closes_in_time(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint(), service={"timeouts": model.ServiceTimeouts(idle=0.05)}) as w:
            _, _, talk, _ = await first(w)
            await talk.serve()
            await w.ends()
            await talk.ended()
            assert talk.gone and w.connections() == []

    run(main)


# ---- leaving

@both_loops
@pytest.mark.parametrize("stage", ["dial", "send", "wait", "body"])
def test_a_client_that_leaves_takes_only_its_stream_along(run: Run, stage: str) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            asker, other = Asker(w), Asker(w)
            exchange = asker.ask(PUT % 10 + b"abc" if stage == "send" else GET)
            other.ask(GET)
            if stage == "dial":
                exchange.client_gone()
                talk = await h2_accepted(w.places[0])
                await talk.serve()
            else:
                talk = await h2_accepted(w.places[0])
                asked = await talk.request(0, whole=stage != "send")
                if stage == "body":
                    await talk.head(asked.stream)
                    await asker.hears("head 200")
                exchange.client_gone()
                await talk.until(lambda: asked.reset == CANCEL)
                await talk.serve(1)
            await w.ends(2)
            assert exchange.outcome.cause == "client_gone" and other.told[0] == "head 200"
            assert w.connections()[0].streams == {} and w.connections()[0].codec.open == 0

    run(main)


@both_loops
def test_the_last_one_who_waits_takes_the_dial_along(run: Run) -> None:
    async def main() -> None:
        async with H2World(Silent()) as w:
            exchanges = [Asker(w).ask(GET) for _ in range(2)]
            exchanges[0].client_gone()
            assert len(w.shared().dials) == 1
            exchanges[1].client_gone()
            assert w.shared().dials == []

    run(main)


@both_loops
def test_an_endpoint_that_leaves_the_service_drains(run: Run) -> None:
    async def main() -> None:
        place, other = Endpoint(), Endpoint()
        async with H2World(place, other) as w:
            w.service.apply(back(place, protocol="h2c"))
            asker, _, talk, _ = await first(w)
            asked = await talk.request()
            w.service.apply(back(other, protocol="h2c"))
            await talk.answer(asked.stream, b"still")
            await w.ends()
            assert asker.body == b"still"
            await talk.ended()

    run(main)


@both_loops
def test_another_protocol_by_reload(run: Run) -> None:
    async def main() -> None:
        place = Endpoint()
        async with H2World(place) as w:
            _, _, talk, _ = await first(w)
            await talk.serve()
            await w.ends()
            w.service.apply(back(place, protocol="http"))
            await talk.ended()
            Asker(w).ask(GET)
            one = await accepted(place)
            await one.serve()
            await w.ends(2)
            w.service.apply(back(place, protocol="h2c"))
            assert await one.ended() == b""
            Asker(w).ask(GET)
            await (await h2_accepted(place)).serve()
            assert (await w.ends(3)).outcome == OK

    run(main)


@both_loops
def test_no_idle_connection_is_kept_without_a_pool(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint(), service={"pool": model.PoolLimits(0)}) as w:
            _, _, talk, _ = await first(w)
            await talk.serve()
            await w.ends()
            await talk.ended()
            assert w.connections() == []

    run(main)


class Faulty(Asker):
    def respond(self, *_: Any) -> None:
        raise RuntimeError("a fault of the session")


@both_loops
def test_a_fault_of_one_exchange_is_its_own(run: Run) -> None:
    async def main() -> None:
        async with H2World(Endpoint()) as w:
            bad, good = Faulty(w), Asker(w)
            failed = bad.ask(GET)
            good.ask(GET)
            talk = await h2_accepted(w.places[0])
            await talk.serve(0, b"x")
            await talk.serve(1, b"fine")
            await w.ends(2)
            assert failed.outcome == ("internal", Phase.BODY) and bad.told == ["cut"] and good.body == b"fine"
            assert w.members[0].failures == [] and len(w.alarm.lines) == 1
            w.alarm.lines.clear()

    run(main)
