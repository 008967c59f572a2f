"""Renewals that something stands in the way of: the old certificate serves on, and the new one comes when it can."""
from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from e2e.backends import Nginx
from e2e.certs import Authority, Pair
from e2e.program import StartEdge, free_port
from e2e.tlspeers import NAME, client_context, connect_tls, secure, shown
from e2e.waiting import eventually

WATCHED = 15.0


@pytest.fixture
def site(authority: Authority, tmp_path: Path) -> Pair:
    pair = Pair(tmp_path / "site.crt", tmp_path / "site.key")
    pair.replace(authority.fresh(NAME))
    return pair


def seen(port: int, authority: Authority) -> int:
    with connect_tls(port, client_context(authority, "http/1.1")) as wire:
        return shown(wire)


def too_weak(authority: Authority) -> Pair:
    """What `cryptography` reads and OpenSSL does not take."""
    return authority._make("server", (NAME,), ec.generate_private_key(ec.SECP192R1()), 60)


def test_a_renewal_while_the_bundle_is_broken_comes_when_it_is_repaired(
        edge: StartEdge, nginx: Nginx, authority: Authority, site: Pair, tmp_path: Path) -> None:
    port, bundle = free_port(), tmp_path / "clients.pem"
    bundle.write_bytes(authority.pem.read_bytes())
    proxy = edge(secure(port, [site], nginx["a"], tls=f"client_auth: {{ca: '{bundle}', mode: optional}}"))
    bundle.unlink()
    eventually(lambda: "no such file" in proxy.errors, "the bundle is missed", seconds=WATCHED)
    renewed = authority.fresh(NAME)
    site.replace(renewed)
    eventually(lambda: "stay in use" in proxy.errors, "the renewal is refused", seconds=WATCHED)
    bundle.write_bytes(authority.pem.read_bytes())
    eventually(lambda: seen(port, authority) == renewed.serial, "the new certificate", seconds=WATCHED)
    assert proxy.errors.count("stay in use") == 1, "told once"


def test_what_only_openssl_refuses_keeps_the_old_one_and_holds_up_no_other(
        edge: StartEdge, nginx: Nginx, authority: Authority, site: Pair, tmp_path: Path) -> None:
    port = free_port()
    other = Pair(tmp_path / "other.crt", tmp_path / "other.key")
    other.replace(authority.fresh("other.test"))
    proxy = edge(secure(port, [other, site], nginx["a"]))
    before = site.serial
    site.replace(too_weak(authority))
    eventually(lambda: str(site.cert) in proxy.errors, "the refusal is told", seconds=WATCHED)
    assert "stays in use" in proxy.errors
    renewed = authority.fresh("other.test")
    other.replace(renewed)

    def others() -> int:
        with connect_tls(port, client_context(authority, "http/1.1"), "other.test") as wire:
            return shown(wire)

    eventually(lambda: others() == renewed.serial, "the other renewal", seconds=WATCHED)
    assert seen(port, authority) == before


def test_a_reload_with_what_only_openssl_refuses_is_refused(
        edge: StartEdge, nginx: Nginx, authority: Authority, site: Pair) -> None:
    port = free_port()
    good = authority.server("good.test")
    proxy = edge(secure(port, [good], nginx["a"]))
    site.replace(too_weak(authority))
    assert "reload refused" in proxy.reload(secure(port, [good, site], nginx["a"]))
