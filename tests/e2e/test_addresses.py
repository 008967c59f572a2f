"""Where one can listen and connect to: every address, IPv6, unix sockets, several at once."""
from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from e2e.backends import StartActor, answering
from e2e.program import StartEdge, free_port, web
from e2e.waiting import eventually
from e2e.wire import Response, Wire

HAS_V6 = Path("/proc/net/if_inet6").exists() and "00000000000000000000000000000001" in \
    Path("/proc/net/if_inet6").read_text()


def _ask(family: socket.AddressFamily, address: str | tuple[str, int]) -> Response:
    with Wire(socket.socket(family)) as wire:
        wire.sock.connect(address)
        wire.get("/", "x.invalid", "Connection: close")
        return wire.response()


def test_every_address(edge: StartEdge, actor: StartActor) -> None:
    port = free_port()
    proxy = edge(web(port, actor(answering("x")).port).replace("127.0.0.1:" + str(port), f":{port}"))
    assert _ask(socket.AF_INET, ("127.0.0.1", port)).text == "x"
    assert proxy.entry()["client"] == "127.0.0.1", "not ::ffff:127.0.0.1"
    if HAS_V6:
        assert _ask(socket.AF_INET6, ("::1", port)).text == "x"
        assert proxy.logged(2)[1]["client"] == "::1"


@pytest.mark.skipif(not HAS_V6, reason="this machine has no IPv6")
def test_ipv6_listener_and_endpoint(edge: StartEdge) -> None:
    back, front = free_port(), free_port()
    edge(f"listeners: {{web: {{bind: '[::1]:{back}', protocol: http}}}}\nroutes: [{{respond: {{body: six}}}}]\n")
    edge(f"listeners: {{web: {{bind: '[::1]:{front}', protocol: http}}}}\nroutes: [{{service: app}}]\n"
         f"services: {{app: {{endpoints: ['[::1]:{back}']}}}}\n")
    assert _ask(socket.AF_INET6, ("::1", front)).text == "six"


def test_unix_sockets_both_ways(edge: StartEdge, tmp_path: Path) -> None:
    back, port = tmp_path / "back.sock", free_port()
    inner = edge(f"listeners: {{web: {{bind: ['unix:{back}'], protocol: http}}}}\nroutes: [{{respond: {{body: unix}}}}]\n")
    eventually(back.exists, "the socket is there")
    assert stat.S_IMODE(back.stat().st_mode) == 0o660
    assert _ask(socket.AF_UNIX, str(back)).text == "unix"
    edge(f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\nroutes: [{{service: app}}]\n"
         f"services: {{app: {{endpoints: ['unix:{back}']}}}}\n")
    assert _ask(socket.AF_INET, ("127.0.0.1", port)).text == "unix"
    inner.stop()
    assert not back.exists(), "removed at the end"


def test_a_stale_unix_socket_is_no_obstacle(edge: StartEdge, tmp_path: Path) -> None:
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    edge(f"listeners: {{web: {{bind: 'unix:{path}', protocol: http}}}}\nroutes: [{{respond: {{body: unix}}}}]\n")

    def answered() -> bool:
        try:
            return _ask(socket.AF_UNIX, str(path)).text == "unix"
        except ConnectionRefusedError:
            return False

    eventually(answered, "it listens in the old place")


def test_several_addresses_of_one_listener(edge: StartEdge) -> None:
    one, two = free_port(), free_port()
    proxy = edge(f"listeners: {{web: {{bind: ['127.0.0.1:{one}', '127.0.0.2:{two}'], protocol: http}}}}\n"
                 "routes: [{respond: {body: here}}]\n")
    assert _ask(socket.AF_INET, ("127.0.0.1", one)).text == "here"
    assert _ask(socket.AF_INET, ("127.0.0.2", two)).text == "here"
    with pytest.raises(ConnectionRefusedError):
        _ask(socket.AF_INET, ("127.0.0.1", two))
    assert f"127.0.0.1:{one} " in proxy.errors and f"127.0.0.2:{two} " in proxy.errors
