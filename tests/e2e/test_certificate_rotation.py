"""Certificates renewed under load: new handshakes see the new one, and no request notices."""
from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from e2e.backends import Nginx
from e2e.certs import Authority, Pair
from e2e.h2peers import H2Client
from e2e.load import Load
from e2e.program import Edge, StartEdge, free_port
from e2e.tlspeers import NAME, client_context, connect_tls, secure, shown
from e2e.waiting import eventually

WATCHED = 15.0
"""Seconds in which a changed file has been seen: "within seconds"."""


@pytest.fixture
def site(authority: Authority, tmp_path: Path) -> Pair:
    """Files of its own for the test to replace."""
    pair = Pair(tmp_path / "site.crt", tmp_path / "site.key")
    pair.replace(authority.fresh(NAME))
    return pair


def seen(port: int, context: ssl.SSLContext) -> int:
    with connect_tls(port, context) as wire:
        return shown(wire)


@pytest.mark.patience(600)  # the long version: a watched file takes more than a second
@pytest.mark.parametrize("way", ["files", "reload"])
def test_under_load(edge: StartEdge, nginx: Nginx, authority: Authority, site: Pair, long: bool, way: str) -> None:
    rounds = 100 if long else 5
    port = free_port()
    text = secure(port, [site], nginx["a"])
    proxy = edge(text)
    context = client_context(authority, "http/1.1")
    old = H2Client(connect_tls(port, client_context(authority, "h2")))
    with (Load(port, clients=4, tls=context, name=NAME) as keeping,
          Load(port, clients=2, new_connections=True, tls=context, name=NAME) as connecting):
        for _ in range(rounds):
            renewed = authority.fresh(NAME)
            site.replace(renewed)
            if way == "reload":
                assert "configuration reloaded" in proxy.reload(text)
                assert seen(port, context) == renewed.serial, "from the reload on"
            else:
                eventually(lambda: seen(port, context) == renewed.serial, "the new certificate", seconds=WATCHED)  # noqa: B023
            assert old.ask().status == 200, "a connection from before the first renewal"
        old.wire.close()
    assert keeping.tally.failed == [] and connecting.tally.failed == []
    assert (keeping.tally.refused, connecting.tally.refused, keeping.tally.closed) == (0, 0, 0)
    assert keeping.tally.good > 100 and connecting.tally.good > 20
    assert {line["outcome"] for line in proxy.lines()} <= {"ok", "client_gone"}


def test_a_broken_pair_changes_nothing_and_is_told(edge: StartEdge, nginx: Nginx, authority: Authority,
                                                   site: Pair) -> None:
    port = free_port()
    proxy = edge(secure(port, [site], nginx["a"]))
    context = client_context(authority)
    before = seen(port, context)
    good = site.key.read_bytes()
    site.key.write_bytes(authority.fresh(NAME).key.read_bytes())
    eventually(lambda: str(site.cert) in proxy.errors or str(site.key) in proxy.errors, "a word about it", seconds=WATCHED)
    assert seen(port, context) == before
    site.cert.write_text("no certificate\n")
    assert "refused" in proxy.reload() or "failed" in proxy.reload()
    assert seen(port, context) == before
    renewed = authority.fresh(NAME)
    site.key.write_bytes(good)
    site.replace(renewed)
    eventually(lambda: seen(port, context) == renewed.serial, "what is whole again is taken", seconds=WATCHED)


def test_certificate_first_then_key(edge: StartEdge, nginx: Nginx, authority: Authority, site: Pair) -> None:
    """Renewal programs write one file after the other: in between the old pair goes on being shown."""
    port = free_port()
    edge(secure(port, [site], nginx["a"]))
    context = client_context(authority)
    before, renewed = seen(port, context), authority.fresh(NAME)
    site.cert.write_bytes(renewed.cert.read_bytes())
    assert seen(port, context) == before
    site.key.write_bytes(renewed.key.read_bytes())
    eventually(lambda: seen(port, context) == renewed.serial, "the new pair", seconds=WATCHED)


def test_one_of_many(edge: StartEdge, nginx: Nginx, authority: Authority, site: Pair) -> None:
    port = free_port()
    edge(secure(port, [authority.server("one.test"), site, authority.server("two.test")], nginx["a"]))
    context, renewed = client_context(authority), authority.fresh(NAME)
    site.replace(renewed)
    eventually(lambda: seen(port, context) == renewed.serial, "the new certificate", seconds=WATCHED)
    for name in ("one.test", "two.test"):
        with connect_tls(port, context, name) as wire:
            assert shown(wire) == authority.server(name).serial


def _links(folder: Path, pair: Pair, name: str) -> None:
    """As a mounted secret is laid out: the files are links through a link that is replaced."""
    (folder / name).mkdir()
    for source, file in ((pair.cert, "tls.crt"), (pair.key, "tls.key")):
        (folder / name / file).write_bytes(source.read_bytes())
    (folder / "..new").symlink_to(name)
    (folder / "..new").replace(folder / "..data")


def test_a_mounted_secret(edge: StartEdge, nginx: Nginx, authority: Authority, tmp_path: Path) -> None:
    folder, port = tmp_path / "secret", free_port()
    folder.mkdir()
    _links(folder, authority.fresh(NAME), "first")
    for file in ("tls.crt", "tls.key"):
        (folder / file).symlink_to(Path("..data") / file)
    proxy: Edge = edge(secure(port, [Pair(folder / "tls.crt", folder / "tls.key")], nginx["a"]))
    context, renewed = client_context(authority), authority.fresh(NAME)
    _links(folder, renewed, "second")
    eventually(lambda: seen(port, context) == renewed.serial, "the new certificate", seconds=WATCHED)
    assert proxy.alive
