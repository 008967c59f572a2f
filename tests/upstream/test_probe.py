"""Probes of each kind: what they send, what they make of an answer, and that they leave nothing open."""
from __future__ import annotations

import asyncio
import resource
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeproxy import __version__
from edgeproxy.codec.grpc import encode_check
from edgeproxy.codec.proxyproto import LOCAL_V1, LOCAL_V2
from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.upstream import probe
from fakes import accepted, ok
from net.rig import Endpoint, Refusing, Run, Silent, both_loops, open_descriptors, reset, until
from upstream.probeplace import Asking

OK_FIELDS = b"HTTP/1.1 200 OK\r\n"


def http(**parts: Any) -> model.HttpProbe:
    return model.HttpProbe("/healthz", **parts)


# ---- tcp

@both_loops
def test_a_connection_is_enough_and_no_program_wakes_up_for_it(run: Run) -> None:
    async def main() -> None:
        async with Asking(Endpoint(), tcp=True) as a:
            a.ask()
            assert await a.result() == ""
            place = a.places[0]
            assert isinstance(place, Endpoint)
            assert select.select([place.sock], [], [], 0)[0] == [], "there is something to accept"

    run(main)


@both_loops
def test_nobody_listens(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        for kind in ({"tcp": True}, {}):
            async with Asking(Refusing(), **kind) as a:
                a.ask()
                assert await a.result() == "connection refused"
            gone = Endpoint(str(tmp_path / "gone"))
            (tmp_path / "gone").unlink()
            async with Asking(gone, **kind) as a:
                a.ask()
                assert await a.result() == "nobody listens on the socket"

    run(main)


@both_loops
def test_a_unix_socket(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Asking(Endpoint(str(tmp_path / "a")), tcp=True) as a:
            a.ask()
            assert await a.result() == ""
        async with Asking(Endpoint(str(tmp_path / "b"))) as a:
            a.ask()
            request = await (await accepted(a.places[0])).serve()
            assert await a.result() == "" and request["host"] == "localhost"

    run(main)


@both_loops
@pytest.mark.parametrize("kind", [{"tcp": True}, {}])
def test_no_connection_in_time(run: Run, kind: dict[str, Any]) -> None:
    async def main() -> None:
        async with Asking(Silent(), timeout=0.05, **kind) as a:
            a.ask()
            assert await a.result() == "no connection within 0.05 s"

    run(main)


@both_loops
@pytest.mark.parametrize(("version", "header"), [("v1", LOCAL_V1), ("v2", LOCAL_V2)])
@pytest.mark.parametrize("tcp", [True, False])
def test_a_proxy_header_that_speaks_of_nobody_goes_first(run: Run, version: Any, header: bytes, tcp: bool) -> None:
    async def main() -> None:
        async with Asking(Endpoint(), tcp=tcp, send_proxy_protocol=version) as a:
            a.ask()
            talk = await accepted(a.places[0])
            assert await talk.receive(len(header)) == header
            if tcp:
                assert await talk.rest() == b""
            else:
                assert (await talk.serve()).start == "GET /healthz HTTP/1.1"
            assert await a.result() == ""

    run(main)


# ---- http

@both_loops
def test_the_request_and_a_good_answer(run: Run) -> None:
    async def main() -> None:
        async with Asking(Endpoint()) as a:
            a.ask()
            talk = await accepted(a.places[0])
            request = await talk.serve(ok(b"fine"))
            assert await a.result() == ""
            assert request.start == "GET /healthz HTTP/1.1"
            assert request.fields == {"host": a.places[0].address.address, "accept": "*/*", "connection": "close",
                                      "user-agent": f"edgeproxy/{__version__} (health probe)"}
            assert await talk.ended() == b""

    run(main)


@both_loops
def test_what_is_configured_is_sent(run: Run) -> None:
    asked = model.HttpProbe("/x?y=1", "POST", "a.example:81", (("X-Probe", "1"), ("user-agent", "me")))

    async def main() -> None:
        async with Asking(Endpoint(), http=asked) as a:
            a.ask()
            request = await (await accepted(a.places[0])).serve()
            assert await a.result() == ""
            assert request.start == "POST /x?y=1 HTTP/1.1"
            assert request.fields == {"host": "a.example:81", "accept": "*/*", "connection": "close", "x-probe": "1",
                                      "user-agent": "me", "content-length": "0"}

    run(main)


@pytest.mark.parametrize(("parts", "endpoint", "host"), [
    ({}, ("10.0.0.1", 8080, ""), "10.0.0.1:8080"), ({}, ("10.0.0.1", 80, ""), "10.0.0.1"), ({}, ("::1", 8080, ""), "[::1]:8080"),
    ({}, ("10.0.0.1", 8080, "web.svc."), "web.svc:8080"), ({}, ("10.0.0.1", 80, "web.svc"), "web.svc"),
    ({"external_name": model.ExternalName("www.example.com")}, ("10.0.0.1", 80, "cname.example"), "www.example.com"),
    ({"external_name": model.ExternalName("www.example.com", 8080)}, ("10.0.0.1", 8080, ""), "www.example.com:8080"),
    ({"external_name": model.ExternalName("www.example.com"), "host": "pass"}, ("10.0.0.1", 80, ""), "www.example.com"),
    ({"health": model.Health(http=model.HttpProbe(host="b"))}, ("10.0.0.1", 80, "c"), "b")])
def test_the_host(parts: dict[str, Any], endpoint: tuple[str, int, str], host: str) -> None:
    async def main() -> None:
        async with Asking(**parts) as a:
            where, port, name = endpoint
            assert a.questions.host(probe.Endpoint(f"{where}:{port}", where, port, "", name)) == host

    asyncio.run(main())


@both_loops
@pytest.mark.parametrize(("answer", "why"), [
    (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
    (b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", ""),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + ok(b""), ""),
    (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "status 500, wanted 200-399"),
    (b"HTTP/1.1 404 No\r\nContent-Length: 900\r\n\r\n", "status 404, wanted 200-399"),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "status 503, wanted 200-399"),
    (OK_FIELDS + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", ""),
    (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "broken answer: malformed status line"),
    (b"\x15\x03\x01\x00\x02\x02\x46", "broken answer: the endpoint answered with TLS; is its protocol https?")])
def test_answers(run: Run, answer: bytes, why: str) -> None:
    async def main() -> None:
        async with Asking(Endpoint()) as a:
            a.ask()
            talk = await accepted(a.places[0])
            await talk.head()
            await talk.send(answer)
            assert await a.result() == why

    run(main)


@both_loops
@pytest.mark.parametrize(("sent", "why"), [
    (b"", "no answer: closed before the response"), (b"HTTP/1.1 2", "broken answer: closed within the response's head"),
    (OK_FIELDS + b"Content-Length: 9\r\n\r\nhalf", "broken answer: closed within the response's body")])
@pytest.mark.parametrize("abrupt", [True, False])
def test_an_endpoint_that_goes_away(run: Run, sent: bytes, why: str, abrupt: bool) -> None:
    async def main() -> None:
        async with Asking(Endpoint()) as a:
            a.ask()
            talk = await accepted(a.places[0])
            await talk.head()
            if sent:
                await talk.send(sent)
            if abrupt and not sent:
                reset(talk.sock)
            else:
                talk.close()
            assert await a.result() == why

    run(main)


@both_loops
@pytest.mark.parametrize(("sent", "why"), [
    (b"", "no answer within 0.1 s"), (b"HTTP/1.1 100 Continue\r\n\r\n", "no answer within 0.1 s"),
    (OK_FIELDS + b"Content-Length: 9\r\n\r\nhalf", "no end of the answer within 0.1 s")])
def test_one_time_for_all_of_it(run: Run, sent: bytes, why: str) -> None:
    async def main() -> None:
        async with Asking(Endpoint(), timeout=0.1) as a:
            a.ask()
            talk = await accepted(a.places[0])
            await talk.head()
            if sent:
                await talk.send(sent)
            assert await a.result() == why
            await talk.ended()

    run(main)


@both_loops
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("body", [b"ok", b"all is okay", b"x" * 70 + b"ok" + b"y" * 70])
def test_a_text_in_the_body_however_it_comes(run: Run, piece: int, body: bytes) -> None:
    async def main() -> None:
        async with Asking(Endpoint(), http=http(body="ok")) as a:
            a.ask()
            talk = await accepted(a.places[0])
            await talk.head()
            answer = ok(body)
            try:
                for at in range(0, len(answer), piece):
                    await talk.send(answer[at:at + piece])
                    await asyncio.sleep(0)
            except OSError:
                pass  # it has read enough
            assert await a.result() == ""

    run(main)


@both_loops
@pytest.mark.parametrize(("before", "why"), [(65536 - 2, ""), (65536 - 1, 'body lacks "ok"'), (10**6, 'body lacks "ok"')])
def test_a_text_within_the_first_64_kib_and_no_more_is_read(run: Run, before: int, why: str) -> None:
    async def main() -> None:
        async with Asking(Endpoint(), http=http(body="ok")) as a:
            a.ask()
            talk = await accepted(a.places[0])
            await talk.head()
            try:
                await talk.send(OK_FIELDS + b"\r\n" + b"x" * before + b"ok" + b"x" * 10**5)
            except OSError:
                pass
            assert await a.result() == why

    run(main)


@both_loops
def test_a_body_without_the_text(run: Run) -> None:
    async def main() -> None:
        async with Asking(Endpoint(), http=http(body="ok")) as a:
            for number, answer in enumerate((ok(b"o k"), ok(b""), OK_FIELDS + b"\r\nno"), 1):
                a.ask()
                talk = await accepted(a.places[0])
                await talk.serve(answer)
                talk.close()
                assert await a.result(number) == 'body lacks "ok"'

    run(main)


@both_loops
def test_an_endless_answer_is_no_fault(run: Run) -> None:
    async def main() -> None:
        async with Asking(Endpoint()) as a:
            a.ask()
            talk = await accepted(a.places[0])
            await talk.head()
            try:
                await talk.send(OK_FIELDS + b"\r\n" + b"x" * 10**6)
            except OSError:
                pass
            assert await a.result() == ""

    run(main)


@both_loops
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_other_methods(run: Run, method: str) -> None:
    async def main() -> None:
        async with Asking(Endpoint(), http=model.HttpProbe("/h", method)) as a:
            a.ask()
            request = await (await accepted(a.places[0])).serve(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" if method == "HEAD" else ok(b"hello"))
            assert request.start == f"{method} /h HTTP/1.1"
            assert await a.result() == ""

    run(main)


# ---- the proxy's own faults, and what is left behind

@both_loops
@pytest.mark.parametrize("kind", [{"tcp": True}, {}])
def test_the_proxy_has_no_descriptor_left(run: Run, kind: dict[str, Any]) -> None:
    async def main() -> None:
        async with Asking(Refusing(), **kind) as a:
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            try:
                a.ask()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert await a.result() is None
            a.ask()
            assert await a.result(2) == "connection refused"

    run(main)


@both_loops
@pytest.mark.parametrize("kind", [{"tcp": True}, {}])
def test_cancelled_at_every_stage_it_leaves_nothing(run: Run, kind: dict[str, Any]) -> None:
    async def main() -> None:
        async with Asking(Silent(), Endpoint(), Refusing(), **kind) as a:
            await asyncio.sleep(0)
            before = open_descriptors()
            for number in range(3):
                a.ask(number).cancel()  # at once
            for turns in range(6):  # on its way
                asked = [a.ask(number) for number in range(3)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for each in asked:
                    each.cancel()
                    each.cancel()
            await until(lambda: open_descriptors() == before)
            for sent in (b"", b"HTTP", OK_FIELDS + b"Content-Length: 9\r\n\r\nhalf") if not kind else ():
                asked = [a.ask(1)]
                talk = await accepted(a.places[1])
                while True:  # past those that were given up
                    try:
                        await talk.head()
                        break
                    except (AssertionError, OSError):
                        talk = await accepted(a.places[1])
                await talk.send(sent)
                for _ in range(3):
                    await asyncio.sleep(0)
                asked[0].cancel()
                await talk.ended()
                talk.close()
            assert [r for r in a.results if r not in ("", "connection refused")] == []
            place = a.places[1]
            assert isinstance(place, Endpoint)
            for peer in place.accepted:
                peer.close()
            await until(lambda: open_descriptors() == before)

    run(main)


@both_loops
def test_a_hundred_probes_leave_nothing(run: Run) -> None:
    async def main() -> None:
        async with Asking(Endpoint(), http=http(body="ok")) as a:
            before = open_descriptors()
            for number in range(1, 101):
                a.ask()
                talk = await accepted(a.places[0])
                await talk.serve(ok(b"ok") if number % 2 else ok(b"no"))
                await a.result(number)
                talk.close()
            await until(lambda: open_descriptors() == before)

    run(main)


# ---- words

def test_every_reason_has_words() -> None:
    endpoint = probe.Endpoint("10.0.0.1:80", "10.0.0.1", 80)
    for kind in Kind:
        assert probe.words(ProxyError(kind), endpoint)


# ---- a real server of gRPC: see test_probe_h2.py for scripted ones

@pytest.fixture
def health_server() -> Iterator[Any]:
    grpc = pytest.importorskip("grpc")
    from concurrent.futures import ThreadPoolExecutor
    states = {b"": b"\x08\x01", encode_check("down")[5:]: b"\x08\x02"}
    seen: list[tuple[bytes, dict[str, str]]] = []

    def check(request: bytes, call: Any) -> bytes:
        seen.append((request, dict(call.invocation_metadata())))
        if request not in states:
            call.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return states[request]

    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port, seen
    server.stop(None).wait()


class At:
    """Where a server is that is nobody's to close."""

    def __init__(self, port: int) -> None:
        self.address = model.EndpointAddress("127.0.0.1", port)

    def close(self) -> None:
        pass


@both_loops
@pytest.mark.parametrize(("service", "why"), [("", ""), ("down", "grpc: NOT_SERVING"),
                                              ("x", 'grpc: NOT_FOUND (the server knows no service "x")')])
def test_a_server_by_grpcio(run: Run, health_server: Any, service: str, why: str) -> None:
    port, seen = health_server

    async def main() -> None:
        place: Any = At(port)
        async with Asking(place, grpc=model.GrpcProbe(service), protocol="h2c") as a:
            a.ask()
            assert await a.result() == why
        request, fields = seen[-1]
        assert request == encode_check(service)[5:]
        assert fields["user-agent"].startswith("edgeproxy/")

    run(main)


@both_loops
def test_a_server_by_grpcio_without_a_health_service(run: Run) -> None:
    grpc = pytest.importorskip("grpc")
    from concurrent.futures import ThreadPoolExecutor
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    async def main() -> None:
        place: Any = At(port)
        async with Asking(place, grpc=model.GrpcProbe(), protocol="h2c") as a:
            a.ask()
            assert await a.result() == "grpc: UNIMPLEMENTED (the server has no health service)"

    try:
        run(main)
    finally:
        server.stop(None).wait()


def test_no_thread_is_left() -> None:
    """Probes need none; a blocking connect would show here."""
    async def main() -> None:
        before = threading.active_count()
        with socket.create_server(("127.0.0.1", 0)) as server:
            place: Any = At(server.getsockname()[1])
            async with Asking(place, tcp=True) as a:
                a.ask()
                await a.result()
        assert threading.active_count() == before

    asyncio.run(main())


