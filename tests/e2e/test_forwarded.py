"""X-Forwarded-*: added always, believed only from those on the list."""
from __future__ import annotations

import pytest

from e2e.backends import StartStage
from e2e.program import StartEdge, free_port, web
from e2e.wire import Dial, Request

INBOUND = ("X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: public.example",
           "X-Forwarded-Port: 443", "X-Forwarded-Prefix: /x", "Forwarded: for=203.0.113.7;proto=https",
           "X-Real-IP: 203.0.113.7", "X-Request-Id: from-outside", "X_Forwarded_For: 198.51.100.1")


def _through(edge: StartEdge, stage: StartStage, dial: Dial, listener: str, *fields: str,
             source: str = "127.0.0.5") -> tuple[Request, dict[str, object], int]:
    endpoint, port = stage(), free_port()
    proxy = edge(web(port, endpoint.port, listener=listener))
    client = dial(port, source=source)
    client.get("/", "asked.example", *fields)
    channel = endpoint.accept()
    request = channel.request()
    channel.answer()
    client.response()
    return request, proxy.entry(), port


def test_a_plain_request(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    request, line, port = _through(edge, stage, dial, "")
    assert request.get("x-forwarded-for") == "127.0.0.5"
    assert request.get("x-forwarded-proto") == "http"
    assert request.get("x-forwarded-host") == "asked.example"
    assert request.get("x-forwarded-port") == str(port)
    assert request.get("via") == "1.1 edgeproxy"
    assert request.get("host") == "asked.example"
    assert request.get("x-request-id") == line["request_id"]
    assert line["client"] == "127.0.0.5"


def test_nobody_is_believed_by_default(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    request, line, port = _through(edge, stage, dial, "", *INBOUND)
    assert request.get("x-forwarded-for") == "127.0.0.5"
    assert request.get("x-forwarded-proto") == "http"
    assert request.get("x-forwarded-host") == "asked.example"
    assert request.get("x-forwarded-port") == str(port)
    assert request.all("forwarded") == []
    assert request.get("x-real-ip") in (None, "127.0.0.5")
    assert request.get("x-request-id") not in (None, "from-outside")
    assert "203.0.113.7" not in request.raw.decode()
    assert line["client"] == "127.0.0.5"


def test_a_trusted_proxy_is_believed_and_extended(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    request, line, _ = _through(edge, stage, dial, "trusted_proxies: [127.0.0.0/28]", *INBOUND)
    assert request.get("x-forwarded-for") == "203.0.113.7, 127.0.0.5"
    assert request.get("x-forwarded-proto") == "https"
    assert request.get("x-forwarded-host") == "public.example"
    assert request.get("x-forwarded-port") == "443"
    assert request.get("forwarded") == "for=203.0.113.7;proto=https"
    assert request.get("x-real-ip") == "203.0.113.7"
    assert request.get("x-request-id") == "from-outside" == line["request_id"]
    assert line["client"] == "203.0.113.7"


def test_one_beside_the_list_is_not(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    request, line, _ = _through(edge, stage, dial, "trusted_proxies: [127.0.0.0/28]", *INBOUND, source="127.0.0.200")
    assert request.get("x-forwarded-for") == "127.0.0.200"
    assert line["client"] == "127.0.0.200"


@pytest.mark.parametrize(("chain", "client"), [
    ("203.0.113.7, 127.0.0.6", "203.0.113.7"),               # the last one is trusted too
    ("198.51.100.1, 203.0.113.7", "203.0.113.7"),            # what is left of an untrusted one is its claim
    ("1.2.3.4, garbage, 127.0.0.6", "127.0.0.6"),            # nothing beyond what can't be an address
    ("unknown", "127.0.0.5"),
    ("127.0.0.6", "127.0.0.6"),
    ("2001:db8::1", "2001:db8::1"),
])
def test_the_client_is_the_rightmost_that_is_not_trusted(
        edge: StartEdge, stage: StartStage, dial: Dial, chain: str, client: str) -> None:
    request, line, _ = _through(edge, stage, dial, "trusted_proxies: [127.0.0.0/28]", f"X-Forwarded-For: {chain}")
    assert request.get("x-forwarded-for") == f"{chain}, 127.0.0.5"
    assert line["client"] == client


def test_several_fields_are_one_list(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    request, line, _ = _through(edge, stage, dial, "trusted_proxies: [127.0.0.0/28]",
                                "X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 127.0.0.6")
    assert ", ".join(request.all("x-forwarded-for")) == "203.0.113.7, 127.0.0.6, 127.0.0.5"
    assert line["client"] == "203.0.113.7"


def test_via_is_appended(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    request, _, _ = _through(edge, stage, dial, "", "Via: 1.0 cache")
    assert ", ".join(request.all("via")) == "1.0 cache, 1.1 edgeproxy"


def test_traceparent_is_passed_on_and_logged(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    request, line, _ = _through(edge, stage, dial, "", f"traceparent: {trace}", "tracestate: a=b")
    assert (request.get("traceparent"), request.get("tracestate")) == (trace, "a=b")
    assert line["traceparent"] == trace


def test_request_ids_differ(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    seen = set()
    for _ in range(50):
        seen.add(channel.request().get("x-request-id"))
        channel.answer()
        client.response()
        client.get()
    assert len(seen) == 50
