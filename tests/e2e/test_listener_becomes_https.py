"""A listener's protocol is changed by a reload while connections of the old one are under way."""
from __future__ import annotations

import pytest

from e2e.backends import Nginx
from e2e.certs import Authority
from e2e.program import StartEdge, free_port
from e2e.tlspeers import NAME, secure
from e2e.wire import Dial

PLAIN = "listeners: {{secure: {{bind: '127.0.0.1:{port}', protocol: http{more}}}}}\n" \
        "routes: [{{service: app}}]\nservices: {{app: {{endpoints: ['127.0.0.1:{endpoint}']}}}}\n"


@pytest.mark.parametrize("when", ["idle", "within a head"])
def test_no_old_connection_gets_round_client_certificates(edge: StartEdge, nginx: Nginx, authority: Authority,
                                                          dial: Dial, when: str) -> None:
    port = free_port()
    proxy = edge(PLAIN.format(port=port, endpoint=nginx["a"], more=""))
    client = dial(port)
    client.get("/", NAME)
    assert client.response().status == 200
    head = f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
    sent = 20 if when == "within a head" else 0
    client.send(head[:sent])
    proxy.write(secure(port, [authority.server(NAME)], nginx["a"], tls=f"client_auth: {{ca: '{authority.pem}'}}"))
    proxy.reload()
    client.send(head[sent:])
    assert client.response().status == 421


def test_a_connection_whose_header_is_awaited_meanwhile(edge: StartEdge, nginx: Nginx, authority: Authority,
                                                        dial: Dial) -> None:
    """It began as one of an https listener, which is gone when its PROXY header is there: closed, without a fault."""
    port = free_port()
    announced = "proxy_protocol: {from: ['127.0.0.1/32']}"
    proxy = edge(secure(port, [authority.server(NAME)], nginx["a"], listener=announced))
    client = dial(port)
    client.send(b"PROXY TCP4 192.0.2.1 ")
    proxy.write(PLAIN.format(port=port, endpoint=nginx["a"], more=f", {announced}"))
    proxy.reload()
    client.send(b"192.0.2.2 1 443\r\n")
    client.ending()
    line = proxy.entry()
    assert (line["outcome"], line["client"]) == ("draining", "192.0.2.1")
