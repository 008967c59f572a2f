"""What certificates ask for by the clock alone: a warning each day before they end, other ticket keys twice a day."""
from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.pems import DAY, NOW, pem
from edgeproxy.codec.clienthello import ClientHello
from edgeproxy.config import model
from edgeproxy.config.certificates import read_certificate
from edgeproxy.runtime.watch import CertificateWatch
from edgeproxy.snapshot import Rules, compile_rules
from net.rig import Run, both_loops
from runtime.inprocess import Invented

HOUR = 3600.0
NAME = "site.test"


class Watched:
    """A watch and what it is about: an https listener with one certificate, a service whose endpoints speak TLS."""

    def __init__(self, folder: Path, days: float) -> None:
        cert, key = pem(NAME, days=days).write(folder, "site")
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(Path(cert).read_bytes())
        for file in (cert, key, str(self.ca)):
            os.utime(file, (NOW - DAY, NOW - DAY))
        tls = model.ListenerTls((model.CertificatePair(cert, key),))
        self.cert = cert
        self.config = model.Config(
            {"web": model.Listener("web", (), "https", tls=tls)}, (),
            {"back": model.Service("back", protocol="https", tls=model.ServiceTls(ca=str(self.ca)))},
            certificates={(cert, key): read_certificate(cert, key, NOW)})
        self.rules = compile_rules(self.config)
        self.clock = Invented(NOW)
        self.renewals = 0

    def renewed(self, old: model.Config, new: model.Config, rules: Rules) -> None:
        self.config, self.rules = new, rules
        self.renewals += 1


@asynccontextmanager
async def watch(folder: Path, days: float) -> Any:
    watched = Watched(folder, days)
    watching = CertificateWatch(asyncio.get_running_loop(), lambda: watched.config, lambda: watched.rules,
                                watched.renewed, watched.clock)
    try:
        await watched.clock.later()  # the first look, a second after the start
        yield watched
    finally:
        watching.stop()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What was said since it was asked the last time."""
    def said() -> list[str]:
        lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        caplog.clear()
        return lines

    with caplog.at_level(logging.INFO, "edgeproxy"):
        yield said


Said = Callable[[], list[str]]


# ---- the warning

@both_loops
def test_what_ends_soon_is_said_at_once_and_then_each_day(run: Run, tmp_path: Path, warnings: Said) -> None:
    async def main() -> None:
        async with watch(tmp_path, days=3.5) as watched:
            assert warnings() == [f"the certificate {watched.cert} expires in 3 days: renew it"]
            for _ in range(23):
                await watched.clock.later(HOUR)
            assert warnings() == []
            for words in ("in 2 days", "in 1 day", "in less than a day"):
                await watched.clock.later(HOUR)
                assert warnings() == [f"the certificate {watched.cert} expires {words}: renew it"]
                for _ in range(23):
                    await watched.clock.later(HOUR)
                assert warnings() == []

    run(main)


@both_loops
def test_the_warning_begins_two_weeks_before_the_end(run: Run, tmp_path: Path, warnings: Said) -> None:
    async def main() -> None:
        async with watch(tmp_path, days=15.5) as watched:
            for _ in range(2):
                assert warnings() == []
                await watched.clock.later(DAY)
            assert warnings() == [f"the certificate {watched.cert} expires in 13 days: renew it"]

    run(main)


@both_loops
def test_a_reload_says_it_again(run: Run, tmp_path: Path, warnings: Said) -> None:
    async def main() -> None:
        async with watch(tmp_path, days=3.5) as watched:
            assert len(warnings()) == 1
            watched.config = replace(watched.config, routes=(model.Route("r", respond=model.Respond(200, "")),))
            await watched.clock.later()
            await watched.clock.later()
            assert len(warnings()) == 1

    run(main)


# ---- the keys of tickets

def shakes(watched: Watched, session: ssl.SSLSession | None, context: ssl.SSLContext) -> tuple[ssl.SSLSession, bool]:
    """A client's handshake with the listener as it is now: the session it gets, and whether its last one was resumed."""
    hello = ClientHello(0x0304)
    hello.sni = NAME
    choice = watched.rules.tls["web"].choose(hello)
    assert not isinstance(choice, int)
    ways = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = choice[1].wrap_bio(ways[0], ways[1], server_side=True)
    client = context.wrap_bio(ways[1], ways[0], server_hostname=NAME, session=session)
    waiting = {client.do_handshake, server.do_handshake}
    while waiting:
        for step in (client.do_handshake, server.do_handshake):
            try:
                step()
                waiting.discard(step)
            except ssl.SSLWantReadError:
                pass
    try:
        client.read(1)  # TLS 1.3 gives tickets behind the handshake
    except ssl.SSLWantReadError:
        pass
    found = client.session
    assert found is not None
    return found, bool(client.session_reused)


def visitor() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@both_loops
def test_tickets_are_taken_for_half_a_day(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with watch(tmp_path, days=90) as watched:
            begun, client = watched.rules, visitor()
            for turn in range(1, 3):
                session, resumed = shakes(watched, None, client)
                assert not resumed
                while watched.clock.passed < turn * 12 * HOUR - HOUR:
                    await watched.clock.later(HOUR)
                assert watched.renewals == turn - 1
                session, resumed = shakes(watched, session, client)
                assert resumed, "the keys are the same until then"
                await watched.clock.later(HOUR)
                assert watched.renewals == turn
                _, resumed = shakes(watched, session, client)
                assert not resumed, "the keys are others now"
            assert watched.rules.tls["web"] is not begun.tls["web"]
            assert watched.rules.endpoints_tls["back"] is begun.endpoints_tls["back"], "of endpoints nothing is renewed"

    run(main)


@both_loops
def test_keys_that_cannot_be_renewed_are_renewed_when_they_can_be(run: Run, tmp_path: Path, warnings: Said) -> None:
    """A file that OpenSSL needs for it is broken at that time."""
    async def main() -> None:
        async with watch(tmp_path, days=90) as watched:
            good = watched.ca.read_bytes()
            watched.ca.write_bytes(b"nothing of use\n")
            await watched.clock.later(12 * HOUR)
            for _ in range(3):
                await watched.clock.later()
            assert watched.renewals == 0
            assert len([line for line in warnings() if "service back" in line]) == 1, "each reason is told once"
            watched.ca.write_bytes(good)
            await watched.clock.later()
            assert watched.renewals == 1

    run(main)


@both_loops
def test_it_looks_once_a_second(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with watch(tmp_path, days=90) as watched:
            for _ in range(5):
                await watched.clock.later()
            assert watched.clock.asked[0] == 1.0 and min(watched.clock.asked) == 1.0

    run(main)
