"""tls listeners: the service is chosen by the name in the ClientHello, and TLS is between the client and the endpoint."""
from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Callable, Mapping

import pytest

from codec.hellos import message, real, records, server_name
from e2e.backends import Nginx, StartActor, StartStage, answering, echoing
from e2e.certs import Authority
from e2e.program import StartEdge, addresses, free_port
from e2e.tlspeers import ORIGIN, client_context, connect_tls, curl, tls_of
from e2e.waiting import eventually
from e2e.wire import Dial, End, Wire

UNRECOGNIZED_NAME = b"\x15\x03\x03\0\x02\x02\x70"


def passthrough(port: int, names: Mapping[str, int], listener: str = "", service: str = "") -> str:
    """A tls listener that leads each pattern to a port."""
    table = ", ".join(f"'{pattern}': s{to}" for pattern, to in names.items())
    services = ", ".join(f"s{to}: {{endpoints: {addresses(to)}{service}}}" for to in set(names.values()))
    return (f"listeners: {{pass: {{bind: '127.0.0.1:{port}', protocol: tls, sni: {{{table}}}{listener}}}}}\n"
            f"services: {{{services}}}\n")


def asks(wire: Wire) -> dict[str, str]:
    """The fields of an answer over the connection."""
    wire.get("/", ORIGIN)
    return dict(wire.response().fields)


# ---- names

def test_the_name_chooses_the_service(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    exact, wild, rest = (actor(echoing) for _ in range(3))
    port = free_port()
    proxy = edge(passthrough(port, {"a.example": exact.port, "*.example": wild.port, "*": rest.port}))
    for name, endpoint in (("a.example", exact), ("A.Example.", exact), ("b.example", wild), ("a.b.example", rest),
                           ("example", rest), (None, rest), ("x.a.example", rest)):
        said = records(message(server_name(name.encode()))) if name else real(None)
        before = endpoint.connections
        client = dial(port)
        client.send(said)
        client.half_close()
        assert client.ending() == (said, End.FIN), name
        assert endpoint.connections == before + 1, name
    lines = proxy.logged(7)
    assert [line.get("sni", "") for line in lines] == [
        "a.example", "a.example", "b.example", "a.b.example", "example", "", "x.a.example"]
    assert {line["outcome"] for line in lines} == {"ok"}


@pytest.mark.parametrize("name", ["other.test", "a.a.example", "example", None])
def test_a_name_that_nobody_serves_is_refused(edge: StartEdge, stage: StartStage, dial: Dial, name: str | None) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(passthrough(port, {"a.example": endpoint.port, "*.example": endpoint.port}))
    client = dial(port)
    client.send(real(name))
    assert client.ending() == (UNRECOGNIZED_NAME, End.FIN)
    assert endpoint.untouched()
    line = proxy.entry()
    assert (line["outcome"], line["phase"], line["service"], line.get("sni")) == ("no_route", "handshake", "", name)


def test_a_client_s_library_understands_the_refusal(edge: StartEdge, authority: Authority) -> None:
    port = free_port()
    edge(passthrough(port, {"a.example": free_port()}))
    with pytest.raises(ssl.SSLError, match="(?i)unrecognized.name"):
        connect_tls(port, client_context(authority), "b.example")


# ---- TLS to the endpoint

def secured(authority: Authority) -> Callable[[Wire], None]:
    """A script: an endpoint that speaks TLS; it says whether the session was a resumed one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = authority.server(ORIGIN)
    context.load_cert_chain(pair.cert, pair.key)

    def script(wire: Wire) -> None:
        with context.wrap_socket(wire.sock, server_side=True) as tls:
            inner = Wire(tls)
            inner.request()
            inner.answer(b"", "200 OK", f"X-Reused: {tls.session_reused}")
            inner.ending()
    return script


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_tls_is_the_endpoint_s_and_sessions_are_resumed(
        edge: StartEdge, actor: StartActor, authority: Authority, version: str) -> None:
    port = free_port()
    edge(passthrough(port, {ORIGIN: actor(secured(authority)).port}))
    context = client_context(authority, version=version)
    first = connect_tls(port, context, ORIGIN)  # its certificate is checked against that name
    assert asks(first)["X-Reused"] == "False"
    session = tls_of(first).session
    first.close()
    with socket.create_connection(("127.0.0.1", port)) as sock, \
            context.wrap_socket(sock, server_hostname=ORIGIN, session=session) as again:
        assert asks(Wire(again))["X-Reused"] == "True"


def test_nginx_sees_the_name(edge: StartEdge, origin: Nginx, authority: Authority) -> None:
    port = free_port()
    edge(passthrough(port, {"*.test": origin["tls"]}))
    with connect_tls(port, client_context(authority), ORIGIN) as client:
        assert asks(client)["X-Sni"] == ORIGIN


def test_a_large_file_over_tls(edge: StartEdge, origin: Nginx, authority: Authority) -> None:
    port = free_port()
    edge(passthrough(port, {ORIGIN: origin["tls"]}))
    got = curl(f"https://{ORIGIN}:{port}{origin.file('large', 8 << 20)}", authority, "-o", "/dev/null", name=ORIGIN)
    assert (got.status, got.facts["size_download"]) == (200, 8 << 20)


# ---- how it comes

def test_byte_by_byte_and_fragmented(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    """A hello cut into records hides its name from who reads only the first: here it must not come to the rest."""
    right, wrong, port = actor(echoing), actor(echoing), free_port()
    edge(passthrough(port, {"secret.example": right.port, "*": wrong.port}))
    whole = message(server_name(b"secret.example"))
    for said in (real("secret.example"), records(whole, 1), records(whole, 40, 60), records(whole, *range(1, len(whole)))):
        client = dial(port)
        for at in range(len(said)):
            client.send(said[at:at + 1])
        client.half_close()
        assert client.ending() == (said, End.FIN)
    assert (right.connections, wrong.connections) == (4, 0)


def test_a_half_closed_client_gets_all_of_its_answer(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(passthrough(port, {"*": endpoint.port}))
    client, said = dial(port), real("a.example") + b"and more"
    client.send(said)
    client.half_close()
    behind = endpoint.accept()
    assert behind.ending() == (said, End.FIN)
    behind.send(b"a late answer")
    behind.close()
    assert client.ending() == (b"a late answer", End.FIN)
    line = proxy.entry()
    assert (line["kind"], line["bytes_in"], line["bytes_out"], line["sni"]) == ("tcp", len(said), 13, "a.example")


# ---- who is no client

@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\x80\x2e\x01\x03\x01", b"\x16\x03\x01\0\x05zzzzz",
                                  b"\x16\x03\x01\x02\0\x01\0\xff\xff"])
def test_garbage(edge: StartEdge, stage: StartStage, dial: Dial, data: bytes) -> None:
    endpoint, port = stage(), free_port()
    proxy = edge(passthrough(port, {"*": endpoint.port}))
    client = dial(port)
    client.send(data)
    said, _ = client.ending()
    assert said in (b"", b"\x15\x03\x03\0\x02\x02\x32")
    assert endpoint.untouched()
    line = proxy.entry()
    assert (line["outcome"], line["phase"]) == ("bad_client_hello", "handshake") and line["detail"]


def test_silent_clients_give_their_places_back(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    endpoint, port = actor(echoing), free_port()
    proxy = edge(passthrough(port, {"*": endpoint.port}, ", limits: {connections: 3}, timeouts: {handshake: 300ms}"))
    before = proxy.sockets
    silent = [dial(port), dial(port), dial(port)]
    silent[1].send(real("a.example")[:100])
    client = dial(port)  # waits in the kernel's queue for a place
    said = real("a.example")
    client.send(said)
    client.half_close()
    assert client.ending() == (said, End.FIN)
    lines = proxy.logged(3, lambda line: line["outcome"] == "handshake_timeout")
    assert all(250 <= line["duration_ms"] <= 1500 for line in lines)
    assert proxy.logged(1, lambda line: line["outcome"] == "ok")
    eventually(lambda: proxy.sockets == before, "nothing is left open")


def test_clients_that_leave_again(edge: StartEdge, dial: Dial) -> None:
    port = free_port()
    proxy = edge(passthrough(port, {"*": free_port()}))
    before = proxy.sockets
    for way in (Wire.close, Wire.half_close, Wire.reset):
        for said in (b"", real("a.example")[:100]):
            client = dial(port)
            client.send(said)
            way(client)
    assert {line["phase"] for line in proxy.logged(6, lambda line: line["outcome"] == "client_gone")} == {"handshake"}
    eventually(lambda: proxy.sockets == before, "nothing is left open")


# ---- reload and end

def test_a_reload_meets_who_has_not_said_it_all(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    old, new, port = actor(answering("old")), actor(answering("new")), free_port()
    proxy = edge(passthrough(port, {"a.example": old.port}))
    waiting, said = dial(port), real("a.example")
    waiting.send(said[:50])
    assert "reloaded" in proxy.reload(passthrough(port, {"a.example": new.port}))
    waiting.send(said[50:])
    eventually(lambda: new.connections == 1, "the new service gets it")
    assert old.connections == 0


def test_at_the_end_who_has_begun_is_served(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    endpoint, port = actor(echoing), free_port()
    proxy = edge(passthrough(port, {"*": endpoint.port}))
    client, said = dial(port), real("a.example")
    client.send(said[:50])
    proxy.signal(signal.SIGTERM)
    client.send(said[50:])
    client.half_close()
    assert client.ending() == (said, End.FIN)
    assert proxy.wait() == 0
