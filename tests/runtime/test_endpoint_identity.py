"""`tls.ca` and `tls.client_cert` of a service change in their files while the program runs."""
from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from e2e.certs import Authority, Pair
from edgeproxy.config import model
from edgeproxy.config.certificates import read_certificate
from fakes import Message, Talk
from net.rig import Endpoint, Run, both_loops, soon
from runtime.inprocess import Invented, Program
from upstream.tlsplace import H2TlsTalk, TlsTalk, h2_tls_accepted, server_context, tls_accepted

NAME = "site.test"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("first"), "first")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("second"), "second")


def put(file: Path, content: bytes) -> None:
    """By one rename, as a renewal does it."""
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.replace(file)


class Place(Endpoint):
    """An endpoint of the service: each of its connections is of the protocol that the story is about."""

    def __init__(self, protocol: str) -> None:
        super().__init__()
        self.multiplexed = protocol == "h2"
        self.served: dict[object, int] = {}

    def context(self, by: Authority, clients: Path | None = None) -> ssl.SSLContext:
        pair = by.server(NAME)
        return server_context(str(pair.cert), str(pair.key), "h2" if self.multiplexed else "http/1.1",
                              client_ca=str(clients or ""))

    async def secured(self, context: ssl.SSLContext) -> TlsTalk | H2TlsTalk:
        return await (h2_tls_accepted(self, context) if self.multiplexed else tls_accepted(self, context))

    async def serve(self, talk: TlsTalk | H2TlsTalk) -> None:
        """The next request on that connection."""
        number = self.served.get(talk, 0)
        self.served[talk] = number + 1
        if isinstance(talk, H2TlsTalk):
            await talk.serve(number)
        else:
            await talk.serve()


class Story:
    """The program with one service, whose authorities and client certificate are files of the test's own."""

    def __init__(self, folder: Path, first: Authority, protocol: str) -> None:
        self.ca = folder / "ca.pem"
        self.shown = Pair(folder / "client.crt", folder / "client.key")
        self.ca.write_bytes(first.pem.read_bytes())
        self.shown.replace(first.client("before"))
        for file in (self.ca, self.shown.cert, self.shown.key):
            os.utime(file, (1e9, 1e9))  # long before the program was started
        self.clock = Invented(time.time())
        (folder / "s").mkdir()
        self.program = Program(folder / "s", self.clock)
        self.place = Place(protocol)
        named = model.CertificatePair(str(self.shown.cert), str(self.shown.key))
        service = model.Service("back", (self.place.address,), protocol=protocol,  # type: ignore[arg-type]
                                tls=model.ServiceTls(ca=str(self.ca), server_name=NAME, client_cert=named))
        route = model.Route("r", service=(model.WeightedService("back"),), retry=model.Retry(1, ()))
        self.program.set({"web": "a"}, {}, (route,))
        self.program.config = replace(
            self.program.config, services={"back": service},
            certificates={(named.cert, named.key): read_certificate(named.cert, named.key, None)})
        self.client: Talk

    def said(self, *words: str) -> list[str]:
        return [line for line in self.program.lines if all(word in line for word in words)]

    async def asks(self, talk: TlsTalk | H2TlsTalk) -> Message:
        """A request that comes on the connection `talk`."""
        await self.client.send(GET)
        await self.place.serve(talk)
        return await self.client.answer()

    async def connects(self, context: ssl.SSLContext) -> TlsTalk | H2TlsTalk:
        """A request for which a connection is made."""
        await self.client.send(GET)
        talk = await self.place.secured(context)
        await self.place.serve(talk)
        assert (await self.client.answer()).status == 200
        return talk

    async def refuses(self, context: ssl.SSLContext) -> None:
        """A request for which no connection can be made, because of the endpoint's certificate."""
        await self.client.send(GET)
        with pytest.raises((ssl.SSLError, AssertionError)):  # in TLS 1.3 the endpoint may believe it is done
            talk = await self.place.secured(context)
            await (talk.request() if isinstance(talk, H2TlsTalk) else talk.head())
        answer = await self.client.answer()
        assert answer.status == 502 and "tls_certificate_error" in answer["proxy-status"]


Play = Callable[[Run, str, Callable[[Story], Any]], None]


@pytest.fixture
def play(tmp_path: Path, first: Authority) -> Play:
    def run_story(run: Run, protocol: str, story: Callable[[Story], Any]) -> None:
        async def main() -> None:
            told = Story(tmp_path, first, protocol)
            try:
                async with told.program:
                    told.client = await told.program.client("a")
                    await story(told)
            finally:
                told.place.close()

        run(main)

    return run_story


def serial(talk: TlsTalk | H2TlsTalk) -> int:
    """Of the certificate that the proxy has shown."""
    certificate = talk.tls.getpeercert()
    assert certificate
    return int(str(certificate["serialNumber"]), 16)


both_protocols = pytest.mark.parametrize("protocol", ["https", "h2"])


@both_loops
@both_protocols
def test_new_authorities_are_believed_and_the_old_ones_no_longer(run: Run, play: Play, first: Authority,
                                                                 second: Authority, protocol: str) -> None:
    async def story(told: Story) -> None:
        former, renewed = told.place.context(first), told.place.context(second)
        talk = await told.connects(former)
        await told.clock.later()
        assert (await told.asks(talk)).status == 200, "nothing has changed: the connection is kept"
        put(told.ca, second.pem.read_bytes())
        await told.clock.later()
        assert told.said("new authorities in", str(told.ca))
        assert await soon(talk.ended()) == b"", "nobody may speak to whom the former authority has vouched for"
        await told.refuses(former)
        talk = await told.connects(renewed)
        await told.clock.later()
        assert (await told.asks(talk)).status == 200

    play(run, protocol, story)


@both_loops
def test_authorities_that_were_written_anew_and_are_the_same_are_not_told(run: Run, play: Play, first: Authority,
                                                                          second: Authority) -> None:
    async def story(told: Story) -> None:
        talk = await told.connects(told.place.context(first))
        await told.clock.later()
        put(told.ca, told.ca.read_bytes())
        await told.clock.later()
        assert told.said("new authorities") == []
        assert (await told.asks(talk)).status == 200, "the connection is kept"
        put(told.ca, second.pem.read_bytes())
        await told.clock.later()
        assert len(told.said("new authorities")) == 1

    play(run, "https", story)


@both_loops
@both_protocols
def test_a_new_client_certificate_is_shown(run: Run, play: Play, first: Authority, protocol: str) -> None:
    async def story(told: Story) -> None:
        context = told.place.context(first, first.pem)
        talk = await told.connects(context)
        assert serial(talk) == first.client("before").serial
        told.shown.replace(first.client("after"))
        await told.clock.later()
        assert told.said("new certificate", str(told.shown.cert))
        assert await soon(talk.ended()) == b"", "what was opened with the former one is used no more"
        talk = await told.connects(context)
        assert serial(talk) == first.client("after").serial
        assert not isinstance(talk, TlsTalk) or not talk.tls.session_reused, "that would be the former one again"

    play(run, protocol, story)


@both_loops
@both_protocols
def test_what_is_under_way_ends_well_and_its_connection_with_it(run: Run, play: Play, first: Authority,
                                                                second: Authority, protocol: str) -> None:
    async def story(told: Story) -> None:
        await told.client.send(GET)
        talk = await told.place.secured(told.place.context(first))
        if isinstance(talk, H2TlsTalk):
            await talk.request()
        put(told.ca, second.pem.read_bytes())
        await told.clock.later()
        assert told.said("new authorities")
        await told.place.serve(talk)
        assert (await told.client.answer()).status == 200
        assert await soon(talk.ended()) == b""
        await told.connects(told.place.context(second))

    play(run, protocol, story)


@both_loops
@pytest.mark.parametrize(("broken", "why"), [("ca", "no certificate"), ("cert", "no certificate"),
                                             ("key", "no private key"), ("gone", "no such file")])
def test_a_broken_file_is_told_once_and_the_old_one_stays(run: Run, play: Play, first: Authority, second: Authority,
                                                          broken: str, why: str) -> None:
    async def story(told: Story) -> None:
        file = {"ca": told.ca, "gone": told.ca, "cert": told.shown.cert, "key": told.shown.key}[broken]
        context, good = told.place.context(first, first.pem), file.read_bytes()
        talk = await told.connects(context)
        if broken == "gone":
            file.unlink()
        else:
            put(file, b"nothing of use\n")
        await told.clock.later()
        assert told.said(str(file)) == [], "its other half may be on its way"
        for _ in range(5):
            await told.clock.later()
        line, = told.said(str(file))
        assert why in line.lower() and "stays in use" in line
        assert (await told.asks(talk)).status == 200, "the connections too"
        talk.close()
        talk = await told.connects(context)
        assert serial(talk) == first.client("before").serial
        put(file, good)
        for _ in range(3):
            await told.clock.later()
        assert (await told.asks(talk)).status == 200, "it is what it was: nothing has changed"
        put(told.ca, first.pem.read_bytes() + second.pem.read_bytes())
        await told.clock.later()
        assert await soon(talk.ended()) == b""
        await told.connects(told.place.context(second, first.pem))

    play(run, "https", story)
