"""What listeners ask of requests before they are routed."""
from __future__ import annotations

import pytest

from edgeproxy.codec._leaf import RequestHead, parse_request
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.session.gates import RedirectGate
from edgeproxy.session.reply import Reply


def request(target: str, host: str | None = "a.test", version: str = "1.1") -> RequestHead:
    field = f"Host: {host}\r\n" if host is not None else ""
    head = parse_request(f"GET {target} HTTP/{version}\r\n{field}\r\n".encode(), 65536, 100)
    assert head is not None
    return head


def goes_to(answer: Reply | ProxyError | None) -> str:
    assert isinstance(answer, Reply) and answer.status == 308
    return dict(answer.fields)[b"Location"].decode()


@pytest.mark.parametrize("target, location", [
    ("/", "https://a.test/"),
    ("/x/%2e/y?q=1&r", "https://a.test/x/%2e/y?q=1&r"),
    ("//evil.test/", "https://a.test//evil.test/"),
    ("http://a.test/x?y", "https://a.test/x?y"),
    ("http://a.test", "https://a.test/"),
    ("http://a.test?y=/z", "https://a.test/?y=/z"),
])
def test_the_same_host_and_path_with_https(target: str, location: str) -> None:
    assert goes_to(RedirectGate(443).check(request(target))) == location


def test_the_port_is_not_the_one_that_was_asked_but_that_of_https() -> None:
    assert goes_to(RedirectGate(443).check(request("/x", "a.test:8080"))) == "https://a.test/x"
    assert goes_to(RedirectGate(8443).check(request("/x", "a.test:8080"))) == "https://a.test:8443/x"
    assert goes_to(RedirectGate(443).check(request("/x", "[::1]:8080"))) == "https://[::1]/x"


def test_without_a_host_there_is_no_place_to_go() -> None:
    answer = RedirectGate(443).check(request("/", None, "1.0"))
    assert isinstance(answer, ProxyError) and answer.kind is Kind.BAD_REQUEST
