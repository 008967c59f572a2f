"""An http listener that only sends its clients to https: same host, same path, same method."""
from __future__ import annotations

import pytest

from e2e.backends import Nginx, StartStage
from e2e.certs import Authority
from e2e.program import StartEdge, addresses, free_port, web
from e2e.tlspeers import NAME, curl, https
from e2e.wire import Dial, ask


@pytest.mark.parametrize(("host", "target", "expected"), [
    ("edge.test", "/", "https://edge.test/"),
    ("edge.test:8080", "/a/b%20c?d=e&f", "https://edge.test/a/b%20c?d=e&f"),
    ("[::1]:8080", "/x", "https://[::1]/x"),
    ("192.0.2.1", "/x?", "https://192.0.2.1/x?"),
])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_same_host_and_path(edge: StartEdge, stage: StartStage, host: str, target: str, expected: str,
                            method: str) -> None:
    port, endpoint = free_port(), stage()
    proxy = edge(web(port, endpoint.port, listener="redirect_to_https: true"))
    answer = ask(port, target, host, method=method)
    assert (answer.status, answer.get("location")) == (308, expected)
    assert endpoint.untouched()
    assert proxy.entry()["status"] == 308


def test_to_a_port(edge: StartEdge, nginx: Nginx) -> None:
    port = free_port()
    edge(web(port, nginx["a"], listener="redirect_to_https: 8443"))
    assert ask(port, "/x", "edge.test:80").get("location") == "https://edge.test:8443/x"


def test_also_where_there_is_no_route(edge: StartEdge, nginx: Nginx) -> None:
    port = free_port()
    edge(web(port, nginx["a"], listener="redirect_to_https: true", route="host: only.test"))
    assert ask(port, "/x", "other.test").status == 308


def test_bad_hosts_lead_nowhere(edge: StartEdge, nginx: Nginx, dial: Dial) -> None:
    """A Location must not be made of what is no host."""
    port = free_port()
    edge(web(port, nginx["a"], listener="redirect_to_https: true"))
    for host in ("evil.test/path", "user@evil.test", "a b", ""):
        client = dial(port)
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
        assert client.response().status == 400, host


def test_curl_follows(edge: StartEdge, nginx: Nginx, authority: Authority) -> None:
    port, plain = free_port(), free_port()
    edge(f"listeners:\n  secure: {https(port, [authority.server(NAME)])}\n"
         f"  web: {{bind: '127.0.0.1:{plain}', protocol: http, redirect_to_https: {port}}}\n"
         f"routes: [{{service: app}}]\nservices: {{app: {{endpoints: {addresses(nginx['a'])}}}}}\n")
    answer = curl(f"http://{NAME}:{plain}/", authority, "--location", "--http2")
    assert (answer.status, answer.version, answer.body) == (200, "2", "a\n")
    assert answer.facts["num_redirects"] == 1 and answer.facts["url_effective"] == f"https://{NAME}:{port}/"
