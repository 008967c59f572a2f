"""421: a connection is used for a name that its certificate does not cover, while another certificate does."""
from __future__ import annotations

from pathlib import Path

import pytest

from e2e.backends import Nginx
from e2e.certs import Authority
from e2e.h2peers import H2Client
from e2e.program import StartEdge, addresses, free_port
from e2e.tlspeers import client_context, connect_tls, https

ROWS = [  # (SNI, Host, status)
    ("a.test", "a.test", 200),
    ("a.test", "A.Test", 200),
    ("a.test", "b.test", 421),
    ("a.test", "x.wild.test", 421),
    ("x.wild.test", "y.wild.test", 200),
    ("x.wild.test", "x.y.wild.test", 404),
    ("a.test", "nobody.test", 404),
    ("unknown.test", "a.test", 421),
    ("unknown.test", "fallback.test", 200),
    ("a.test", "also-a.test", 200),
]


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_rows(edge: StartEdge, nginx: Nginx, authority: Authority, alpn: str) -> None:
    port = free_port()
    fallback = authority.server("fallback.test")
    pairs = [authority.server("a.test", "also-a.test"), authority.server("b.test"), authority.server("*.wild.test"),
             fallback]
    hosts = ["a.test", "also-a.test", "b.test", "'*.wild.test'", "fallback.test"]
    listener = https(port, pairs, f"default: '{fallback.cert}'")
    edge(f"listeners: {{secure: {listener}}}\nroutes: [{{host: [{', '.join(hosts)}], service: app}}]\n"
         f"services: {{app: {{endpoints: {addresses(nginx['a'])}}}}}\n")
    context = client_context(authority, alpn)
    context.check_hostname = False
    got = []
    for sni, host, _ in ROWS:
        with connect_tls(port, context, sni) as wire:
            if alpn == "h2":
                status = H2Client(wire).ask(authority=f"{host}:{port}").status
            else:
                wire.get("/", f"{host}:{port}")
                status = wire.response().status
        got.append((sni, host, status))
    assert got == ROWS


def test_the_connection_goes_on(edge: StartEdge, nginx: Nginx, authority: Authority) -> None:
    """A client asks again on another connection; this one is still good for its own name (RFC 9110 §15.5.20)."""
    port = free_port()
    listener = https(port, [authority.server("a.test"), authority.server("b.test")])
    proxy = edge(f"listeners: {{secure: {listener}}}\nroutes: [{{service: app}}]\n"
                 f"services: {{app: {{endpoints: {addresses(nginx['a'])}}}}}\n")
    with connect_tls(port, client_context(authority, "h2"), "a.test") as wire:
        client = H2Client(wire)
        assert [client.ask(authority=name).status for name in ("a.test", "b.test", "a.test")] == [200, 421, 200]
    assert [line["status"] for line in proxy.logged(3)] == [200, 421, 200]


def test_a_route_that_needs_client_certificates(edge: StartEdge, nginx: Nginx, authority: Authority,
                                                tmp_path: Path) -> None:
    """Never served over a connection that was not asked for one, even if one certificate covers both names."""
    clients = Authority(tmp_path / "clients", "clients")
    port, strict = free_port(), free_port()
    pair = authority.server("open.test", "strict.test")
    edge(f"listeners:\n  open: {https(port, [pair])}\n"
         f"  strict: {https(strict, [authority.server('strict.test')], f'client_auth: {{ca: {str(clients.pem)!r}}}')}\n"
         "routes:\n  - {host: open.test, service: app}\n  - {host: strict.test, service: app, listeners: [strict]}\n"
         f"services: {{app: {{endpoints: {addresses(nginx['a'])}}}}}\n")
    for alpn in ("h2", "http/1.1"):
        with connect_tls(port, client_context(authority, alpn), "open.test") as wire:
            if alpn == "h2":
                assert H2Client(wire).ask(authority="strict.test").status in (404, 421)
            else:
                wire.get("/", "strict.test")
                assert wire.response().status in (404, 421)
