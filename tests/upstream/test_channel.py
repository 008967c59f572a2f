"""The table of `http1.py`, row by row: a real connection, a scripted endpoint on its other end, both loops."""
from __future__ import annotations

import asyncio
from math import inf
from time import monotonic

import pytest

from edgeproxy.codec._leaf import RequestHead, ResponseHead, parse_request
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.net.poller import Poller
from edgeproxy.net.transport import NOBODY, SocketTransport
from edgeproxy.policy.endpoint import Endpoint
from edgeproxy.upstream.http1 import Http1Channel
from edgeproxy.upstream.pool import Member, Pool
from fakes import OK_EMPTY, Talk, ok, socket_pair
from net.rig import Run, both_loops, until


class User:
    """Writes down what the channel tells; releases it at the end of a response if told so."""

    def __init__(self, head: bytes = b"REQUEST\r\n\r\n") -> None:
        self.head = head
        self.told: list[str] = []
        self.body = bytearray()
        self.surplus = b""
        self.error: Kind | None = None
        self.releases: Http1Channel | None = None
        """The channel to give back at the end, as an exchange does."""

    def outbound(self) -> bytes:
        return self.head

    def outbound_fields(self, scheme: bytes) -> list[tuple[bytes, bytes]]:
        raise AssertionError("an HTTP/1 channel asks for bytes")

    def interim(self, head: ResponseHead) -> None:
        self.told.append(f"interim {head.status}")

    def response(self, head: ResponseHead, payload: bytes, done: bool) -> None:
        self.told.append(f"head {head.status}")
        self.response_data(payload, done)

    def response_data(self, payload: bytes, done: bool) -> None:
        self.body += payload
        if done:
            self.told.append("end")
            if self.releases is not None:
                self.releases.release(monotonic(), True)

    def upgraded(self, head: ResponseHead, transport: SocketTransport, rest: bytes) -> None:
        self.told.append("upgraded")
        self.surplus = rest

    def channel_failed(self, error: ProxyError) -> None:
        self.told.append("failed")
        self.error = error.kind

    def channel_full(self) -> None:
        self.told.append("full")

    def channel_ready(self) -> None:
        self.told.append("ready")

    async def hears(self, word: str) -> None:
        await until(lambda: word in self.told)


def request(text: str = "GET / HTTP/1.1", fields: str = "") -> RequestHead:
    head = parse_request(f"{text}\r\nHost: a\r\n{fields}\r\n".encode(), 65536, 100)
    assert head is not None
    return head


class Line:
    """A channel and its endpoint."""

    def __init__(self, limit: int = 4, idle_timeout: float = inf) -> None:
        loop = asyncio.get_running_loop()
        self.poller = Poller(loop)
        self.member = Member(Endpoint("back:1"), 1, False, Pool(limit, idle_timeout))
        near, far = socket_pair()
        self.channel = Http1Channel(loop, self.poller, SocketTransport(loop, self.poller, near, NOBODY),
                                    self.member.pool)
        self.endpoint = Talk(far)

    @property
    def idle(self) -> list[Http1Channel]:
        return self.member.pool.idle

    def send(self, head: RequestHead | None = None, timeout: float = inf, data: bytes = b"REQUEST\r\n\r\n",
             release: bool = True) -> User:
        user = User(data)
        if release:
            user.releases = self.channel
        head = head or request()
        self.channel.send(user, head, b"", head.length == 0, b"", timeout, monotonic())
        return user

    async def idle_channel(self) -> None:
        """One exchange, so that the channel is in its pool."""
        user = self.send()
        await self.endpoint.through(b"\r\n\r\n")
        await self.endpoint.send(OK_EMPTY)
        await user.hears("end")
        assert self.idle == [self.channel] and self.channel.reused

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.channel.close()
        assert self.idle == []
        if self.endpoint.sock.fileno() >= 0:
            await self.endpoint.ended()  # the connection is gone
        self.endpoint.close()
        self.poller.close()


# ---- IDLE

@both_loops
@pytest.mark.parametrize("how", ["byte", "response", "eof", "reset"])
def test_an_idle_channel_that_hears_anything_leaves_the_pool(run: Run, how: str) -> None:
    async def main() -> None:
        async with Line() as line:
            await line.idle_channel()
            if how == "eof":
                line.endpoint.finish()
            elif how == "reset":
                line.endpoint.reset()
            else:
                await line.endpoint.send(b"x" if how == "byte" else OK_EMPTY)
            await until(lambda: not line.idle)

    run(main)


@both_loops
def test_an_idle_channel_leaves_the_pool_when_its_time_is_over(run: Run) -> None:
    async def main() -> None:
        async with Line(idle_timeout=0.05) as line:
            started = monotonic()
            await line.idle_channel()
            await until(lambda: not line.idle)
            assert monotonic() - started >= 0.05
            assert await line.endpoint.ended() == b""

    run(main)


@both_loops
def test_a_channel_carries_many_requests(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            for number in range(5):
                user = line.send(data=b"%d\r\n\r\n" % number)
                line.idle.clear()
                assert await line.endpoint.through(b"\r\n\r\n") == b"%d\r\n\r\n" % number
                await line.endpoint.send(ok(b"answer %d" % number))
                await user.hears("end")
                assert user.told == ["head 200", "end"] and user.body == b"answer %d" % number
                assert line.idle == [line.channel]

    run(main)


@both_loops
@pytest.mark.parametrize("why", ["limit", "close", "surplus", "request unfinished", "http/1.0"])
def test_a_channel_that_cannot_carry_another_is_closed(run: Run, why: str) -> None:
    async def main() -> None:
        async with Line(limit=0 if why == "limit" else 4) as line:
            user = line.send(release=False)
            await line.endpoint.through(b"\r\n\r\n")
            await line.endpoint.send({"close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                                      "http/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
                                      "surplus": OK_EMPTY + b"HTTP/1.1 200 for the next"}.get(why, OK_EMPTY))
            await user.hears("end")
            line.channel.release(monotonic(), why != "request unfinished")
            assert line.idle == []
            assert await line.endpoint.ended() == b""

    run(main)


@both_loops
def test_surplus_bytes_in_another_read_make_a_channel_unusable(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send(release=False)
            await line.endpoint.send(OK_EMPTY)
            await user.hears("end")
            await line.endpoint.send(b"surplus")
            line.channel.transport.resume_reading()
            for _ in range(50):
                await asyncio.sleep(0)
            line.channel.release(monotonic(), True)
            assert line.idle == []

    run(main)


@both_loops
def test_an_endpoint_that_answers_and_closes_without_a_word(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send()
            await line.endpoint.send(OK_EMPTY)
            line.endpoint.finish()
            await user.hears("end")
            await until(lambda: not line.idle)
            assert user.told == ["head 200", "end"]

    run(main)


# ---- WAIT and HEAD

@both_loops
def test_interim_responses_are_told_and_the_final_one_ends(run: Run) -> None:
    async def main() -> None:
        interim = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
        for pieces in ([b"HTTP/1.1 100 Continue\r\n\r\n" + interim * 2 + ok(b"end")],
                       [b"HTTP/1.1 100 Continue\r\n\r\n", interim[:9], interim[9:] + interim + b"HT", ok(b"end")[2:]]):
            async with Line() as line:
                user = line.send()
                for piece in pieces:
                    await line.endpoint.send(piece)
                    for _ in range(10):
                        await asyncio.sleep(0)
                await user.hears("end")
                assert user.told == ["interim 100", "interim 103", "interim 103", "head 200", "end"]
                assert user.body == b"end" and line.idle == [line.channel]

    run(main)


@both_loops
def test_endless_interim_responses_are_a_fault(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send()
            await line.endpoint.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
            await user.hears("failed")
            assert user.error is Kind.RESPONSE_BROKEN

    run(main)


@both_loops
def test_interim_responses_are_counted_for_each_request(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            for _ in range(5):
                user = line.send()
                line.idle.clear()
                await line.endpoint.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 10 + OK_EMPTY)
                await user.hears("end")

    run(main)


UPGRADE = "Connection: upgrade\r\nUpgrade: chat\r\n"
SWITCH = b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n"


@both_loops
def test_101_gives_the_connection_away(run: Run) -> None:
    async def main() -> None:
        async with Line(idle_timeout=0.01) as line:
            user = line.send(request(fields=UPGRADE), timeout=0.05)
            await line.endpoint.send(b"HTTP/1.1 103 E\r\n\r\n" + SWITCH + b"first bytes")
            await user.hears("upgraded")
            assert user.surplus == b"first bytes" and user.told == ["interim 103", "upgraded"]
            assert line.idle == []

    run(main)


@both_loops
def test_101_that_nobody_asked_for_is_a_fault(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send()
            await line.endpoint.send(SWITCH)
            await user.hears("failed")
            assert user.error is Kind.RESPONSE_BROKEN and "upgraded" not in user.told

    run(main)


@both_loops
@pytest.mark.parametrize("reused", [False, True])
@pytest.mark.parametrize("how", ["finish", "reset"])
def test_an_end_before_the_response_is_stale_only_on_a_reused_channel(run: Run, reused: bool, how: str) -> None:
    async def main() -> None:
        async with Line() as line:
            if reused:
                await line.idle_channel()
                line.idle.clear()
            user = line.send()
            await line.endpoint.through(b"\r\n\r\n")
            if how == "finish":
                line.endpoint.finish()
            else:
                line.endpoint.reset()
            await user.hears("failed")
            assert user.error is (Kind.STALE if reused else Kind.RESET)
            assert user.told == ["failed"]

    run(main)


CUTS = {
    "within the head": (b"HTTP/1.1 200 OK\r\nConte", ["failed"]),
    "within a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", ["head 200", "failed"]),
    "within chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", ["head 200", "failed"]),
    "before the trailers' end": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
                                 ["head 200", "failed"]),
    "behind an interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/", ["interim 100", "failed"]),
}


@both_loops
@pytest.mark.parametrize("where", CUTS)
def test_a_cut_response(run: Run, where: str) -> None:
    async def main() -> None:
        data, told = CUTS[where]
        async with Line() as line:
            user = line.send()
            await line.endpoint.send(data)
            line.endpoint.finish()
            await user.hears("failed")
            assert (user.told, user.error) == (told, Kind.RESPONSE_CUT)

    run(main)


@both_loops
def test_a_body_until_close(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send()
            await line.endpoint.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
            await user.hears("head 200")
            await line.endpoint.send(b"def")
            line.endpoint.finish()
            await user.hears("end")
            assert user.body == b"abcdef" and (user.told, line.idle) == (["head 200", "end"], [])

    run(main)


@both_loops
def test_a_body_until_close_that_ends_in_a_reset_is_cut(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send()
            await line.endpoint.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
            await user.hears("head 200")
            line.endpoint.reset()
            await user.hears("failed")
            assert user.error is Kind.RESPONSE_CUT

    run(main)


@both_loops
@pytest.mark.parametrize("data", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
                                  b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"])
def test_a_broken_response_closes_the_channel(run: Run, data: bytes) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send()
            await line.endpoint.send(data)
            await user.hears("failed")
            assert user.error is Kind.RESPONSE_BROKEN
            assert user.told.count("failed") == 1

    run(main)


# ---- time

@both_loops
@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200",
                                    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"],
                         ids=["nothing", "interim", "half a head", "half a body"])
def test_silence_is_a_timeout_in_every_stage(run: Run, before: bytes) -> None:
    async def main() -> None:
        async with Line() as line:
            started = monotonic()
            user = line.send(timeout=0.06)
            if before:
                await line.endpoint.send(before)
            await user.hears("failed")
            assert user.error is Kind.RESPONSE_TIMEOUT
            assert 0.06 <= monotonic() - started < 2.0

    run(main)


@both_loops
def test_a_body_that_goes_on_has_its_time_anew(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send(timeout=0.2)
            await line.endpoint.through(b"\r\n\r\n")
            await line.endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
            for number in range(8):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(line.endpoint.more(), 0.04)
                await line.endpoint.send(b"%d" % number)
            await user.hears("end")
            assert user.body == b"01234567"

    run(main)


@both_loops
def test_the_endpoint_has_its_time_from_the_requests_end_on(run: Run) -> None:
    async def main() -> None:
        for fields in ("Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n"):
            async with Line() as line:
                user = line.send(request("PUT / HTTP/1.1", fields), timeout=0.05)
                line.channel.send_body(b"abc")
                await line.endpoint.through(b"abc")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(user.hears("failed"), 0.15)
                line.channel.send_end(b"")
                await user.hears("failed")
                assert user.error is Kind.RESPONSE_TIMEOUT

    run(main)


@both_loops
def test_an_endpoint_that_takes_no_more_of_the_request_has_its_time(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send(request("PUT / HTTP/1.1", "Content-Length: 99999999\r\n"), timeout=0.1)
            while "full" not in user.told:
                line.channel.send_body(b"x" * 65536)
            await user.hears("failed")
            assert user.error is Kind.RESPONSE_TIMEOUT

    run(main)


# ---- the request's body, and flow

@both_loops
def test_a_body_goes_out_as_the_request_frames_it(run: Run) -> None:
    async def main() -> None:
        for fields, wire in (("Content-Length: 6\r\n", b"abcdef"),
                             ("Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n3\r\ndef\r\n0\r\nX: y\r\n\r\n")):
            async with Line() as line:
                user = line.send(request("PUT / HTTP/1.1", fields), data=b"HEAD\r\n\r\n")
                line.channel.send_body(b"abc")
                line.channel.send_body(b"def")
                line.channel.send_end(b"X: y\r\n" if b"X" in wire else b"")
                assert await line.endpoint.receive(8 + len(wire)) == b"HEAD\r\n\r\n" + wire
                await line.endpoint.send(OK_EMPTY)
                await user.hears("end")

    run(main)


@both_loops
def test_an_endpoint_that_takes_nothing_is_told_as_full_and_as_ready(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send(request("PUT / HTTP/1.1", "Content-Length: 99999999\r\n"))
            sent = 11
            while "full" not in user.told:
                line.channel.send_body(b"x" * 65536)
                sent += 65536
            assert await line.endpoint.receive(sent)
            await user.hears("ready")
            assert user.told == ["full", "ready"]

    run(main)


@both_loops
def test_a_pause_stops_the_endpoint_and_its_clock(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send(timeout=0.1)
            await line.endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: 16000000\r\n\r\nabc")
            await user.hears("head 200")
            line.channel.pause()
            sending = asyncio.create_task(line.endpoint.send(b"x" * (16_000_000 - 3)))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(sending), 0.3)
            assert user.body == b"abc", "nothing comes, and nobody is blamed for the silence"
            line.channel.resume()
            await sending
            await user.hears("end")
            assert len(user.body) == 16_000_000

    run(main)


@both_loops
def test_an_endpoint_that_dies_while_paused_is_noticed_after_it(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send()
            await line.endpoint.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            await user.hears("head 200")
            line.channel.pause()
            await line.endpoint.send(b"de")
            line.endpoint.finish()
            line.channel.resume()
            await user.hears("failed")
            assert user.body == b"abcde" and user.error is Kind.RESPONSE_CUT

    run(main)


# ---- leaving

@both_loops
def test_reset_tells_the_endpoint_that_the_request_is_not_complete(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send()
            await line.endpoint.through(b"\r\n\r\n")
            line.channel.reset()
            assert await line.endpoint.reset_after() == b""
            assert user.told == []

    run(main)


@both_loops
def test_nobody_is_told_after_close(run: Run) -> None:
    async def main() -> None:
        async with Line() as line:
            user = line.send(timeout=0.01)
            line.channel.close()
            line.endpoint.sock.send(OK_EMPTY)
            await line.endpoint.ended()
            assert user.told == []

    run(main)
