"""One HTTP/2 connection and the clock: idle, slow and silent clients, draining. Times are told to `look`, not waited
for; only where a deadline itself is the matter is it a short one."""
from __future__ import annotations

from time import monotonic

import pytest

from edgeproxy.config import model
from edgeproxy.errors import Phase
from fakes import Talk, World, accepted, ok, respond, to_back
from net.rig import Endpoint, Run, both_loops, until
from session.h2talk import CANCEL, HEADERS, NO_ERROR, H2Web, engine, frame, head, quiet

__all__ = ["engine"]
pytestmark = pytest.mark.usefixtures("engine")


def short(**times: float) -> model.ListenerTimeouts:
    return model.ListenerTimeouts(**times)


async def place(web: World) -> Talk:
    endpoint = web.places[0]
    assert isinstance(endpoint, Endpoint)
    return await accepted(endpoint)


def look(web: H2Web, *after: float) -> None:
    """Let the connection look at itself so many seconds from now, one after the other."""
    now = monotonic()
    for seconds in after:
        web.session.look(now + seconds)


# ---- idle

@both_loops
def test_an_idle_connection_is_told_and_closed(run: Run) -> None:
    async def main() -> None:
        async with H2Web(timeouts=short(idle=0.1), routes=(respond("hi"),)) as web:
            client = await web.opened_talk()
            assert (await client.answer(await client.ask())).body == b"hi"
            assert await client.goaway() == (1, NO_ERROR)
            await client.over()
            client.close()
            await quiet(web)

    run(main)


@both_loops
@pytest.mark.parametrize("preface", [False, True])
def test_a_first_request_that_does_not_come(run: Run, preface: bool) -> None:
    async def main() -> None:
        async with H2Web(timeouts=short(header=0.1), routes=(respond("hi"),)) as web:
            client = web.talk()
            if preface:
                await client.open()
            assert await client.goaway() == (0, NO_ERROR)
            await client.over()
            client.close()
            await quiet(web)

    run(main)


@both_loops
def test_pings_are_no_progress_and_streams_are(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            stream = await client.ask()
            endpoint = await place(web)
            look(web, 80, 200)  # no idle time while a stream is open
            await endpoint.serve(ok(b"x"))
            await client.answer(stream)
            await client.pong()
            look(web, 74)
            await client.pong()
            assert client.goaways == []
            look(web, 76)
            assert await client.goaway() == (1, NO_ERROR)

    run(main)


@both_loops
def test_a_header_block_that_does_not_end(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            await client.ask()
            endpoint = await place(web)
            await endpoint.request()
            payload = client.headers(head())[9:]
            await client.send(frame(HEADERS, 1, 3, payload[:5]))
            await until(lambda: web.session.codec.in_head)
            look(web, 9)
            assert not web.logged
            look(web, 11)
            await quiet(web)
            assert (await web.ends()).outcome.cause == "client_gone"
            await endpoint.ended()

    run(main)


# ---- requests that come slowly

@both_loops
def test_a_body_that_stops_coming_is_408(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint(), timeouts=short(body=0.1)) as web:
            client = await web.opened_talk()
            stream = await client.ask("/", "POST", ended=False)
            await client.data(stream, b"abc")
            endpoint = await place(web)
            answer = await client.answer(stream)
            assert (answer.status, answer.ended) == (408, True)
            assert await client.was_reset_stream(stream) == NO_ERROR
            await endpoint.ended()
            assert (await web.ends()).outcome.cause == "request_timeout"
            await client.pong()

    run(main)


@both_loops
def test_a_body_of_a_byte_now_and_then_is_too_slow(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            slow = await client.ask("/slow", "POST", ended=False)
            await place(web)
            good = await client.ask("/good", "POST", ended=False)
            await place(web)
            now = monotonic()
            for seconds in range(5, 36, 5):
                await client.data(slow, b"x")
                await client.data(good, b"x" * 4000)
                await client.pong()
                web.session.look(now + seconds)
            assert (await client.answer(slow)).status == 408
            assert client.streams[good].reset is None and len(web.logged) == 1

    run(main)


@both_loops
def test_silence_that_was_asked_for_is_not_the_clients_fault(run: Run) -> None:
    """The endpoint does not read, or 100 was not said yet."""
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            waits = await client.ask("/", "POST", [("expect", "100-continue"), ("content-length", "3")], ended=False)
            await place(web)
            stream = await client.ask("/", "POST", ended=False)
            web.session.streams[stream].pause_request()
            look(web, 5, 100)
            assert not web.logged
            web.session.streams[stream].resume_request()
            look(web, 100, 129)
            assert not web.logged
            look(web, 131)
            assert (await client.answer(stream)).status == 408
            await client.reset_stream(waits)
            await web.ends(2)

    run(main)


@both_loops
def test_a_stream_open_both_ways_may_be_silent_for_long(run: Run) -> None:
    """gRPC: once the answer has begun, only silence in both directions counts."""
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            stream = await client.ask("/", "POST", ended=False)
            endpoint = await place(web)
            await endpoint.head()
            await endpoint.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await client.begun(stream)
            look(web, 5, 1000, 3590)
            await client.data(stream, b"x")
            assert await endpoint.chunk() == b"x"
            look(web, 3700)
            await endpoint.send(b"1\r\ny\r\n")
            while client.streams[stream].body != b"y":
                await client.frame()
            look(web, 7200, 10_700)
            assert not web.logged
            look(web, 10_900)
            assert await client.was_reset_stream(stream) == CANCEL
            assert (await web.ends()).outcome == ("idle_timeout", Phase.BODY)
            await endpoint.ended()

    run(main)


# ---- answers that are not taken

@both_loops
@pytest.mark.parametrize("whole", [True, False], ids=["the exchange is over", "it runs"])
def test_an_answer_that_is_not_taken(run: Run, whole: bool) -> None:
    async def main() -> None:
        async with H2Web(Endpoint(), routes=(to_back(path=model.PathMatch("prefix", "/up")), respond("hi"))) as web:
            client = await web.opened_talk(1000)
            stream = await client.ask("/up")
            endpoint = await place(web)
            await endpoint.request()
            await endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (5000 if whole else 100_000) + b"x" * 5000)
            answer = await client.begun(stream)
            while len(answer.body) < 1000:
                await client.frame()
            await client.pong()
            look(web, 5, 34)
            await client.pong()
            assert answer.reset is None
            look(web, 36)
            assert await client.was_reset_stream(stream) == CANCEL
            assert (await web.ends()).outcome == (("ok", Phase.DONE) if whole else ("client_gone", Phase.BODY))
            assert (await client.answer(await client.ask())).body == b"hi"

    run(main)


@both_loops
def test_an_answer_that_is_taken_slowly_but_steadily(run: Run) -> None:
    async def main() -> None:
        async with H2Web(routes=(respond("x" * 60_000),)) as web:
            client = await web.opened_talk(1000)
            stream = await client.ask()
            now = monotonic()
            for seconds in range(0, 100, 5):
                await client.grant(stream, 2900)
                await client.pong()
                web.session.look(now + seconds)
            await client.grant(stream, 60_000)
            assert (await client.answer(stream)).body == b"x" * 60_000

    run(main)


@both_loops
def test_a_client_that_takes_nothing_from_its_socket(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk(1 << 30)
            await client.ask()
            endpoint = await place(web)
            await endpoint.request()
            await endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
            while not web.session.full:
                await endpoint.send(b"x" * 65536)
            look(web, 20)
            assert not web.logged
            look(web, 31)
            assert (await web.ends()).outcome == ("client_gone", Phase.BODY)
            await quiet(web)
            await endpoint.ended()

    run(main)


# ---- draining

@both_loops
def test_draining_in_two_steps(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            running = await client.ask()
            endpoint = await place(web)
            web.front.drain()
            assert await client.goaway() == ((1 << 31) - 1, NO_ERROR)
            late = await client.ask()  # on its way when draining began
            other = await place(web)
            look(web, 1)
            assert await client.goaway(2) == (3, NO_ERROR)
            await client.ask()  # not served
            await endpoint.serve(ok(b"one"))
            await other.serve(ok(b"two"))
            assert ((await client.answer(running)).body, (await client.answer(late)).body) == (b"one", b"two")
            await client.over()
            client.close()
            await quiet(web)
            assert len(web.logged) == 2

    run(main)


@both_loops
def test_an_idle_connection_that_is_drained(run: Run) -> None:
    async def main() -> None:
        async with H2Web(routes=(respond(),)) as web:
            client = await web.opened_talk()
            await client.pong()
            web.front.drain()
            assert await client.goaway() == ((1 << 31) - 1, NO_ERROR)
            assert await client.goaway(2) == (0, NO_ERROR)  # half a second later
            await client.over()
            client.close()
            await quiet(web)

    run(main)


@both_loops
def test_a_connection_that_begins_while_draining(run: Run) -> None:
    async def main() -> None:
        async with H2Web(routes=(respond("hi"),)) as web:
            web.front.drain()
            client = await web.opened_talk()
            assert (await client.answer(await client.ask())).body == b"hi"
            assert await client.goaway() == ((1 << 31) - 1, NO_ERROR)
            assert await client.goaway(2) == (1, NO_ERROR)

    run(main)


@both_loops
def test_cut_ends_everything_now(run: Run) -> None:
    async def main() -> None:
        async with H2Web(Endpoint()) as web:
            client = await web.opened_talk()
            stream = await client.ask()
            endpoint = await place(web)
            await endpoint.request()
            web.front.cut()
            assert (await web.ends()).outcome.cause == "draining"
            assert (await client.goaway())[1] == NO_ERROR
            await client.over()
            assert not client.streams[stream].ended
            await endpoint.ended()
            await quiet(web)

    run(main)


@both_loops
def test_who_does_not_close_after_the_last_word(run: Run) -> None:
    async def main() -> None:
        async with H2Web(routes=(respond("hi"),), timeouts=short(idle=0.1)) as web:
            client = await web.opened_talk()
            await client.answer(await client.ask())
            await client.over()
            await client.ask()  # dropped
            look(web, 3)
            await quiet(web)
            assert len(web.logged) == 1

    run(main)
