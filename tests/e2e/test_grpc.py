"""gRPC through the proxy by grpcio on both sides: all four kinds of calls, deadlines, metadata, errors, cancellations."""
from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest

from e2e.certs import Authority
from e2e.grpcs import MEBIBYTE, Feed, Service, Stub, open_channel, still
from e2e.h2peers import H2Client
from e2e.program import Edge, StartEdge, addresses, free_port
from e2e.tlspeers import NAME, ORIGIN, https
from e2e.waiting import eventually
from e2e.wire import Dial, refused

ENDS = ["tls-h2c", "h2c-h2c", "tls-tls", "h2c-tls"]


@dataclass
class Line:
    """A client and a server with the proxy between them."""

    port: int
    proxy: Edge
    service: Service
    channel: grpc.Channel
    stub: Stub


def config(front: str, port: int, authority: Authority, endpoint: int, back: str) -> str:
    listener = https(port, [authority.server(NAME)], listener="limits: {body: 0}") if front == "tls" else \
        f"{{bind: '127.0.0.1:{port}', protocol: http, limits: {{body: 0}}}}"
    tls = f", protocol: h2, tls: {{ca: '{authority.pem}', server_name: {ORIGIN}}}" if back == "tls" else ", protocol: h2c"
    return (f"listeners: {{front: {listener}}}\nroutes: [{{service: app, retry: {{attempts: 1}}}}]\n"
            f"services: {{app: {{endpoints: {addresses(endpoint)}{tls}, eject: {{failures: 0}}}}}}\n")


@pytest.fixture(params=ENDS)
def line(request: pytest.FixtureRequest, edge: StartEdge, authority: Authority) -> Iterator[Line]:
    front, back = request.param.split("-")
    service = Service(authority.server(ORIGIN) if back == "tls" else None)
    port = free_port()
    proxy = edge(config(front, port, authority, service.port, back))
    channel = open_channel(port, authority if front == "tls" else None)
    yield Line(port, proxy, service, channel, Stub(channel))
    channel.close()
    service.stop()


def test_unary(line: Line) -> None:
    for size in (0, 1, 100, 16_384, 70_000, 3 * MEBIBYTE):
        assert line.stub.unary(b"x" * size, timeout=20) == b"x" * size
    logged = line.proxy.logged(6)
    assert {(entry["status"], entry["outcome"], entry["protocol"], entry["grpc_status"]) for entry in logged} == {
        (200, "ok", "HTTP/2.0", 0)}


def test_metadata_both_ways(line: Line) -> None:
    sent = (("x-one", "1"), ("x-two", "a, b"), ("x-many", "1"), ("x-many", "2"), ("x-blob-bin", bytes(range(256))))
    _, call = line.stub.unary.with_call(b"", timeout=10, metadata=sent)
    first = [(name, value) for name, value in call.initial_metadata() if name.startswith("x-")]
    assert ("x-first", "head") in first
    assert [item for item in first if item[0] in dict(sent)] == list(sent)
    last = [(name, value) for name, value in call.trailing_metadata() if name.startswith("x-")]
    assert sorted(last) == [("x-last", "tail"), ("x-raw-bin", b"\0\xff\x80")]
    seen = dict(line.service.call("Unary").metadata)
    assert str(seen["x-forwarded-for"]) == "127.0.0.1" and "edgeproxy" in str(seen["via"])


def test_client_streaming(line: Line) -> None:
    assert line.stub.sum((b"%d" % n for n in range(1000)), timeout=20) == b"499500"


def test_server_streaming(line: Line) -> None:
    assert list(line.stub.count(b"1000", timeout=20)) == [b"%d" % n for n in range(1000)]
    assert list(line.stub.count(b"0", timeout=20)) == [], "no message, only trailers"


def test_both_ways_message_by_message(line: Line) -> None:
    """Each message is passed on when it comes: the next one is sent only after its echo."""
    feed = Feed()
    answers = line.stub.echo(feed, timeout=20)
    for number in range(100):
        feed.put(b"%d" % number)
        assert next(answers) == b"%d" % number
    feed.end()
    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK


def test_many_calls_at_once(line: Line) -> None:
    calls = [line.stub.unary.future(b"%d" % number, timeout=20) for number in range(300)]
    assert [call.result() for call in calls] == [b"%d" % number for number in range(300)]


def test_a_deadline_is_passed_on(line: Line) -> None:
    call = line.stub.wait.future(b"", timeout=0.5)
    seen = line.service.call("Wait")
    assert seen.remaining is not None and seen.remaining <= 0.5
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert seen.over.wait(5), "the server notices"


@pytest.mark.parametrize("what", ["unary", "stream"])
def test_a_cancellation_is_seen_by_the_server(line: Line, what: str) -> None:
    if what == "unary":
        call, method = line.stub.wait.future(b""), "Wait"
    else:
        feed = Feed()
        call, method = line.stub.hold(feed), "Hold"
        feed.put(b"hello")
        assert next(call) == b"hello"
    seen = line.service.call(method)
    assert not seen.over.is_set()
    call.cancel()
    assert seen.over.wait(5)
    assert line.proxy.entry()["outcome"] == "client_gone"
    assert line.stub.unary(b"next", timeout=5) == b"next", "the connection is still good"


def test_an_error_of_the_server(line: Line) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        line.stub.fail(b"", timeout=10)
    error = caught.value
    assert isinstance(error, grpc.Call)
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no “such” thing: 100 %")
    assert ("x-why", "because") in [(name, value) for name, value in error.trailing_metadata()]


def test_an_unknown_method(line: Line) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        line.channel.unary_unary("/test.Bytes/Nothing")(b"", timeout=10)
    assert isinstance(caught.value, grpc.Call) and caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert line.proxy.entry()["grpc_status"] == 12, "without trailers: in the head"


def test_big_messages_and_a_slow_reader(line: Line) -> None:
    """The client takes one message and then none: the server stands still, and the proxy holds little."""
    before = line.proxy.memory
    answers = line.stub.big(b"32", timeout=60)
    assert len(next(answers)) == 4 * MEBIBYTE
    seen = line.service.call("Big")
    assert still(lambda: seen.sent, "the server") < 16, "it was stopped"
    assert line.proxy.memory - before < 12 * MEBIBYTE
    rest = [(len(message), set(message)) for message in answers]
    assert rest == [(4 * MEBIBYTE, {number}) for number in range(1, 32)]


def test_big_messages_to_a_slow_server(line: Line) -> None:
    before, feed = line.proxy.memory, Feed()
    for _ in range(32):
        feed.put(bytes(4 * MEBIBYTE))
    feed.end()
    call = line.stub.take.future(feed, timeout=60)
    line.service.call("Take")
    assert still(lambda: feed.taken, "the client") < 16, "it was stopped"
    assert line.proxy.memory - before < 12 * MEBIBYTE
    line.service.go.set()
    assert call.result() == b"%d" % (32 * 4 * MEBIBYTE)


@pytest.mark.parametrize("front", ["tls", "h2c"])
def test_no_endpoint_is_unavailable(edge: StartEdge, authority: Authority, front: str) -> None:
    port = free_port()
    proxy = edge(config(front, port, authority, free_port(), "h2c"))
    channel = open_channel(port, authority if front == "tls" else None)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            Stub(channel).unary(b"", timeout=10)
    finally:
        channel.close()
    error = caught.value
    assert isinstance(error, grpc.Call)
    assert error.code() is grpc.StatusCode.UNAVAILABLE, (error.code(), error.details())
    assert proxy.entry()["outcome"] == "connect_refused"


def test_no_route_is_unimplemented(edge: StartEdge, authority: Authority) -> None:
    """404 as a grpc-status, as the gRPC specification maps it."""
    port = free_port()
    text = config("h2c", port, authority, free_port(), "h2c")
    edge(text.replace("{service: app,", "{service: app, path: /elsewhere,"))
    channel = open_channel(port)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            Stub(channel).unary(b"", timeout=10)
    finally:
        channel.close()
    assert isinstance(caught.value, grpc.Call) and caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_server_that_dies_within_a_stream(line: Line) -> None:
    feed = Feed()
    answers = line.stub.echo(feed, timeout=20)
    feed.put(b"hello")
    assert next(answers) == b"hello"
    line.service.stop()
    with pytest.raises(grpc.RpcError):
        next(answers)
    assert answers.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL,
                              grpc.StatusCode.UNKNOWN)
    feed.end()


def test_trailers_only_stays_trailers_only(edge: StartEdge, authority: Authority, dial: Dial) -> None:
    """One HEADERS frame that ends the stream, with status and grpc-status in it; seen on the wire."""
    service, port = Service(), free_port()
    edge(config("h2c", port, authority, service.port, "h2c"))
    try:
        client = H2Client(dial(port), NAME, "http")
        fields = [("content-type", "application/grpc"), ("te", "trailers")]
        answer = client.ask("/test.Bytes/Nothing", "POST", fields, bytes(5))
    finally:
        service.stop()
    assert (answer.status, answer.get("grpc-status"), answer.bodiless) == (200, "12", True)
    assert (answer.get("content-type") or "").startswith("application/grpc")


@pytest.mark.parametrize(("status", "expected"), [("refused", "14"), ("no route", "12")])
def test_an_error_of_the_proxy_on_the_wire(edge: StartEdge, authority: Authority, dial: Dial, status: str,
                                           expected: str) -> None:
    port = free_port()
    text = config("h2c", port, authority, free_port(), "h2c")
    edge(text if status == "refused" else text.replace("{service: app,", "{service: app, path: /elsewhere,"))
    client = H2Client(dial(port), NAME, "http")
    answer = client.ask("/test.Bytes/Unary", "POST", [("content-type", "application/grpc+proto"), ("te", "trailers")],
                        bytes(5))
    assert (answer.status, answer.get("grpc-status"), answer.bodiless) == (200, expected, True), answer
    assert answer.get("grpc-message") and "application/grpc" in (answer.get("content-type") or "")
    plain = client.ask("/test.Bytes/Unary", "POST", [("content-type", "application/json")], bytes(5))
    assert plain.status in (502, 404) and plain.get("grpc-status") is None, "only gRPC is answered so"


def test_draining_lets_calls_finish(line: Line) -> None:
    feed = Feed()
    answers = line.stub.echo(feed, timeout=20)
    feed.put(b"before")
    assert next(answers) == b"before"
    line.proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(line.port), "no new connections")
    for number in range(10):
        feed.put(b"%d" % number)
        assert next(answers) == b"%d" % number
    feed.end()
    assert list(answers) == [] and answers.code() is grpc.StatusCode.OK
    assert line.proxy.wait(10) == 0


def test_time(line: Line) -> None:
    """Nothing on the way waits for more to come (Nagle, delayed acknowledgements, batches)."""
    line.stub.unary(b"", timeout=10)
    began = time.monotonic()
    for _ in range(100):
        line.stub.unary(b"x" * 100, timeout=10)
    assert time.monotonic() - began < 2.0
