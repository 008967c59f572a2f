"""h2load: ten thousand streams over TLS and over h2c, to each kind of endpoint, and not one fails."""
from __future__ import annotations

import pytest

from e2e.backends import Nginx
from e2e.certs import Authority
from e2e.program import StartEdge, addresses, free_port
from e2e.tlspeers import NAME, ORIGIN, h2load, https

ALL = {"total": 10_000, "done": 10_000, "succeeded": 10_000, "failed": 0, "errored": 0, "timeout": 0, "2xx": 10_000}
ENGINES = ["ngh2", "h2"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("front", ["https", "h2c"])
def test_ten_thousand(edge: StartEdge, nginx: Nginx, authority: Authority, front: str, engine: str) -> None:
    port = free_port()
    listener = https(port, [authority.server(NAME)]) if front == "https" else \
        f"{{bind: '127.0.0.1:{port}', protocol: http}}"
    proxy = edge(f"listeners: {{front: {listener}}}\nroutes: [{{service: app}}]\n"
                 f"services: {{app: {{endpoints: {addresses(nginx['a'], nginx['b'])}}}}}\n", {"EDGEPROXY_H2": engine})
    options = ("-n10000", "-c16", "-m16", f"--connect-to=127.0.0.1:{port}")
    counted = h2load(f"{'https' if front == 'https' else 'http'}://{NAME}:{port}/", *options)
    assert {key: counted.get(key) for key in ALL} == ALL, counted
    proxy.logged(10_000, lambda line: line["status"] == 200 and line["outcome"] == "ok")


@pytest.mark.parametrize("back", ["h2c", "h2"])
def test_to_endpoints_that_speak_http_2(edge: StartEdge, origin: Nginx, authority: Authority, back: str) -> None:
    port = free_port()
    tls = f", tls: {{ca: '{authority.pem}', server_name: {ORIGIN}}}" if back == "h2" else ""
    edge(f"listeners: {{front: {https(port, [authority.server(NAME)])}}}\nroutes: [{{service: app}}]\n"
         f"services: {{app: {{endpoints: {addresses(origin[back])}, protocol: {back}{tls}}}}}\n")
    counted = h2load(f"https://{NAME}:{port}/", "-n10000", "-c16", "-m16", f"--connect-to=127.0.0.1:{port}")
    assert {key: counted.get(key) for key in ALL} == ALL, counted


@pytest.mark.parametrize("back", ["http", "h2c"])
def test_bodies_of_a_mebibyte(edge: StartEdge, origin: Nginx, authority: Authority, back: str) -> None:
    port = free_port()
    target = origin.file("mebibyte", 1 << 20)
    proxy = edge(f"listeners: {{front: {https(port, [authority.server(NAME)])}}}\nroutes: [{{service: app}}]\n"
                 f"services: {{app: {{endpoints: {addresses(origin['plain' if back == 'http' else back])}, "
                 f"protocol: {back}}}}}\n")
    before = proxy.memory
    counted = h2load(f"https://{NAME}:{port}{target}", "-n400", "-c4", "-m10", f"--connect-to=127.0.0.1:{port}")
    assert (counted["succeeded"], counted["2xx"]) == (400, 400), counted
    assert proxy.peak_memory - before < 64 << 20
