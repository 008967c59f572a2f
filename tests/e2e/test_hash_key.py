"""hash: the endpoint follows from a header, a cookie, a query parameter or the path, not from the client."""
from __future__ import annotations

from collections.abc import Callable

import pytest

from e2e.backends import Nginx
from e2e.program import StartEdge, free_port, web
from e2e.wire import ask

Ask = tuple[str, tuple[str, ...]]  # target, fields

KEYS: dict[str, Callable[[str], Ask]] = {
    "{header: x-user}": lambda value: ("/", (f"X-User: {value}",)),
    "{cookie: session}": lambda value: ("/", (f"Cookie: theme=dark; session={value}; lang=en",)),
    "{query: user}": lambda value: (f"/?page=1&user={value}", ()),
    "path": lambda value: (f"/{value}?{value}", ()),
}


@pytest.mark.parametrize("key", KEYS)
def test_the_same_value_reaches_the_same_endpoint(edge: StartEdge, nginx: Nginx, key: str) -> None:
    port = free_port()
    edge(web(port, nginx["a"], nginx["b"], nginx["c"], service=f"balance: {{hash: {key}}}"))

    def where(source: str) -> dict[str, str]:
        found = {}
        for value in (f"user{n}" for n in range(30)):
            target, fields = KEYS[key](value)
            found[value] = ask(port, target, "x.invalid", *fields, source=source).text.strip()
        return found

    first = where("127.0.2.1")
    assert set(first.values()) == {"a", "b", "c"}
    assert where("127.0.2.2") == first


def test_without_the_value_the_client_decides(edge: StartEdge, nginx: Nginx) -> None:
    port = free_port()
    edge(web(port, nginx["a"], nginx["b"], nginx["c"], service="balance: {hash: {header: x-user}}"))
    for client in ("127.0.2.1", "127.0.2.2", "127.0.2.3"):
        assert len({ask(port, f"/{n}", source=client).text for n in range(5)}) == 1
