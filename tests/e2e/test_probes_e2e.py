"""Active probes: what is asked, what takes an endpoint out and back, and what requests notice of it: nothing."""
from __future__ import annotations

from collections import Counter
from itertools import pairwise
from statistics import median

import pytest

from e2e.backends import BlackHole, Nginx, StartActor, StartStage, answering, echoing
from e2e.certs import Authority
from e2e.grpcs import NAME, open_channel
from e2e.patients import GrpcPatient, Patient, becomes, transitions
from e2e.program import Edge, StartEdge, free_port, tcp, web
from e2e.tlspeers import ORIGIN
from e2e.waiting import eventually
from e2e.wire import Dial, End, ask

FAST = "interval: 50ms, timeout: 200ms, fall: 2, rise: 2"
NEVER_EJECT = "eject: {failures: 0}"


def http(more: str = "path: /health", pace: str = FAST) -> str:
    return f"health: {{http: {{{more}}}, {pace}}}, {NEVER_EJECT}"


def names(port: int, number: int = 12) -> set[str]:
    """Who answers requests."""
    return {ask(port).text for _ in range(number)}


# --- what they ask, and what comes of it ----------------------------------------------------------------------------

def test_tcp_an_endpoint_without_a_listener_is_out_until_it_has_one(edge: StartEdge, actor: StartActor) -> None:
    good, closed, port = actor(answering("good")), free_port(), free_port()
    proxy = edge(web(port, good.port, closed, service=f"health: {{tcp: {{}}, {FAST}}}, {NEVER_EJECT}"))
    assert becomes(proxy, closed, "down") == "down: 2 probes in a row failed: connection refused"
    becomes(proxy, good.port, "up")
    assert good.connections == 0, "a knock wakes nobody up"
    assert names(port) == {"good"}
    assert not any(line["attempts"] for line in proxy.logged(12)), "requests did not try the other one"
    actor(answering("repaired"), closed)
    assert becomes(proxy, closed, "up") == "up: 2 probes in a row passed"
    assert names(port) == {"good", "repaired"}
    assert transitions(proxy, good.port) == ["up: its first probe passed"]
    assert len(transitions(proxy, closed)) == 2, "each transition is told once"


def test_tcp_an_endpoint_that_answers_no_syn(edge: StartEdge, actor: StartActor, black_hole: BlackHole) -> None:
    good, port = actor(answering("good")), free_port()
    proxy = edge(web(port, good.port, black_hole.port, service=f"health: {{tcp: {{}}, {FAST}}}"))
    assert becomes(proxy, black_hole.port, "down") == "down: 2 probes in a row failed: no connection within 0.2 s"
    assert names(port) == {"good"}


@pytest.mark.parametrize(("more", "status", "body", "reason"), [
    ("path: /health", "500 Internal Server Error", b"", "status 500, wanted 200-399"),
    ("path: /health", "404 Not Found", b"", "status 404, wanted 200-399"),
    ("path: /health, status: [200, 201-204]", "302 Found", b"", "status 302, wanted 200, 201-204"),
    ("path: /health, body: 'all is well'", "200 OK", b"not all is bad", 'body lacks "all is well"'),
])
def test_http_what_is_no_good_answer(
        edge: StartEdge, actor: StartActor, more: str, status: str, body: bytes, reason: str) -> None:
    well, ill = Patient("well"), Patient("ill")
    well.body, well.status = b"yes, all is well", "200 OK"
    first, second, port = actor(well), actor(ill), free_port()
    ill.status, ill.body = status, body
    proxy = edge(web(port, first.port, second.port, service=http(more)))
    assert becomes(proxy, second.port, "down") == f"down: 2 probes in a row failed: {reason}"
    assert names(port) == {"well"}
    ill.status, ill.body = "200 OK", b"again all is well"
    becomes(proxy, second.port, "up")
    assert names(port) == {"well", "ill"}
    assert transitions(proxy, first.port) == ["up: its first probe passed"]
    assert [said.split(":")[0] for said in transitions(proxy, second.port)] == ["down", "up"]


def test_http_an_unusual_status_may_be_a_good_one(edge: StartEdge, actor: StartActor) -> None:
    odd, port = Patient("odd"), free_port()
    endpoint = actor(odd)
    odd.status = "404 Not Found"
    proxy = edge(web(port, endpoint.port, service=http("path: /health, status: 404")))
    assert becomes(proxy, endpoint.port, "up") == "up: its first probe passed"


def test_http_what_is_asked(edge: StartEdge, actor: StartActor) -> None:
    plain, named, port, second = Patient("plain"), Patient("named"), free_port(), free_port()
    one, other = actor(plain), actor(named)
    edge(web(port, one.port, service=http("")))
    edge(web(second, other.port, service=http(
        "path: '/ready?deep=1', method: HEAD, host: app.example, headers: {X-Token: secret, User-Agent: 'me (health probe)'}")))
    plain.probed(1)
    named.probed(1)
    request = plain.probes[0][1]
    assert (request.start, request.get("host")) == ("GET / HTTP/1.1", f"127.0.0.1:{one.port}")
    assert (request.get("user-agent") or "").startswith("edgeproxy/")
    assert request.get("connection") == "close", "no connection is kept for the next one"
    request = named.probes[0][1]
    assert (request.start, request.get("host")) == ("HEAD /ready?deep=1 HTTP/1.1", "app.example")
    assert (request.get("x-token"), request.get("user-agent")) == ("secret", "me (health probe)")
    assert not plain.requests and not named.requests


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_an_endpoint_that_accepts_and_is_silent(edge: StartEdge, actor: StartActor, kind: str) -> None:
    good, silent = actor(Patient("good")), Patient("silent")
    silent.awake.clear()
    hanging, port = actor(silent), free_port()
    what = "http: {path: /health}" if kind == "http" else "tcp: {}"
    proxy = edge(web(port, good.port, hanging.port, service=f"health: {{{what}, {FAST}}}, {NEVER_EJECT}"))
    if kind == "http":
        assert becomes(proxy, hanging.port, "down") == "down: 2 probes in a row failed: no answer within 0.2 s"
        assert names(port) == {"good"}
    else:
        assert becomes(proxy, hanging.port, "up") == "up: its first probe passed", "that is all that tcp can tell"
    silent.awake.set()
    becomes(proxy, hanging.port, "up")


@pytest.mark.parametrize(("protocol", "server"), [("https", "tls"), ("h2", "h2")])
@pytest.mark.parametrize("kind", ["http: {path: /}", "tcp: {}"])
def test_https_with_a_private_authority(
        edge: StartEdge, origin: Nginx, authority: Authority, protocol: str, server: str, kind: str) -> None:
    port, second = free_port(), free_port()

    def text(at: int, name: str) -> str:
        return web(at, origin[server], service=f"protocol: {protocol}, health: {{{kind}, {FAST}}}, "
                                               f"tls: {{ca: '{authority.pem}', server_name: {name}}}")

    good, wrong = edge(text(port, ORIGIN)), edge(text(second, "somebody-else.test"))
    assert becomes(good, origin[server], "up") == "up: its first probe passed"
    assert ask(port).text == f"{server}\n"
    reason = becomes(wrong, origin[server], "down")
    assert "certificate" in reason and "hostname mismatch" in reason, reason
    assert ask(second).status == 503, "known to be down, so it is not tried"


@pytest.mark.parametrize("secure", [False, True], ids=["h2c", "h2"])
def test_grpc_serving_and_not_serving(edge: StartEdge, authority: Authority, secure: bool) -> None:
    patient = GrpcPatient(authority.server(ORIGIN) if secure else None)
    port = free_port()
    tls = f", tls: {{ca: '{authority.pem}', server_name: {ORIGIN}}}" if secure else ""
    try:
        proxy = edge(web(port, patient.port, service=f"protocol: {'h2' if secure else 'h2c'}, "
                                                     f"health: {{grpc: {{service: shop}}, {FAST}}}{tls}"))
        assert becomes(proxy, patient.port, "up") == "up: its first probe passed"
        assert set(patient.asked) == {b"\x0a\x04shop"}
        with open_channel(port) as channel:
            unary = channel.unary_unary(f"/{NAME}/Unary")
            assert unary(b"hello", timeout=5) == b"hello"
        patient.state = 2
        assert becomes(proxy, patient.port, "down") == "down: 2 probes in a row failed: grpc: NOT_SERVING"
        patient.state = 1
        becomes(proxy, patient.port, "up")
        assert len(transitions(proxy, patient.port)) == 3
    finally:
        patient.stop()


def test_grpc_a_server_that_says_nothing_of_its_health(edge: StartEdge, origin: Nginx) -> None:
    port = free_port()
    proxy = edge(web(port, origin["h2c"], service=f"protocol: h2c, health: {{grpc: {{}}, {FAST}}}"))
    assert "the answer is no gRPC" in becomes(proxy, origin["h2c"], "down")


# --- all down, none proven ------------------------------------------------------------------------------------------

def sick(name: str) -> Patient:
    patient = Patient(name)
    patient.status = "500 Internal Server Error"
    return patient


def test_all_down_is_503_at_once_and_nobody_is_asked(edge: StartEdge, actor: StartActor) -> None:
    patients = [sick("one"), sick("other")]
    endpoints, port = [actor(patient) for patient in patients], free_port()
    proxy = edge(web(port, *(each.port for each in endpoints), service=http()))
    for each in endpoints:
        becomes(proxy, each.port, "down")
    answers = [ask(port) for _ in range(50)]
    assert {answer.status for answer in answers} == {503}
    assert {answer.get("retry-after") for answer in answers} == {"1"}
    status = answers[0].get("proxy-status") or ""
    assert "error=destination_unavailable" in status and "2 down" in status, status
    assert str(endpoints[0].port) not in answers[0].raw.decode() + answers[0].text, "which endpoints is nobody's business"
    lines = proxy.logged(50)
    assert all(line["outcome"] == "unavailable" and not line["endpoint"] and not line["attempts"] for line in lines)
    assert all(line["queue_ms"] is line["connect_ms"] is None for line in lines), "nothing was waited for"
    assert median(line["duration_ms"] for line in lines) < 50, "less than a millisecond each"
    for endpoint, patient in zip(endpoints, patients, strict=True):
        assert not patient.requests
        assert endpoint.connections <= len(patient.probes) + 1, "no connection but those of probes"
    patients[0].status = "200 OK"
    eventually(lambda: ask(port).status == 200, "it serves again")
    assert names(port) == {"one"}


def test_all_down_on_a_tcp_listener(edge: StartEdge, dial: Dial, actor: StartActor) -> None:
    closed, port = free_port(), free_port()
    proxy = edge(tcp(port, closed, service=f"health: {{tcp: {{}}, {FAST}}}"))
    becomes(proxy, closed, "down")
    client = dial(port)
    client.send(b"hello?")
    assert client.ending() == (b"", End.RESET)
    line = proxy.entry()
    assert (line["outcome"], line["phase"], line["attempts"]) == ("unavailable", "connect", [])
    assert line["queue_ms"] is line["connect_ms"] is None, "nothing was waited for"
    actor(echoing, closed)
    becomes(proxy, closed, "up")
    client = dial(port)
    client.send(b"hello!")
    client.half_close()
    assert client.ending() == (b"hello!", End.FIN)


def test_panic_uses_all_when_all_are_down(edge: StartEdge, actor: StartActor) -> None:
    patients = [sick("one"), sick("other")]
    endpoints, port = [actor(patient) for patient in patients], free_port()
    proxy = edge(web(port, *(each.port for each in endpoints), service=f"{http()}, panic: true"))
    for each in endpoints:
        becomes(proxy, each.port, "down")
    assert Counter(ask(port).text for _ in range(20)) == {"one": 10, "other": 10}
    patients[1].status = "200 OK"
    becomes(proxy, endpoints[1].port, "up")
    assert names(port) == {"other"}, "no panic while somebody is up"


def test_initial_down_waits_for_the_first_good_probe(edge: StartEdge, actor: StartActor) -> None:
    patient, port = Patient("new"), free_port()
    patient.awake.clear()
    endpoint = actor(patient)
    proxy = edge(web(port, endpoint.port, service=http(pace="interval: 100ms, timeout: 20s, initial: down")))
    answer = ask(port)
    assert answer.status == 503 and "1 checking" in (answer.get("proxy-status") or ""), answer.raw
    patient.awake.set()
    assert becomes(proxy, endpoint.port, "up") == "up: its first probe passed"
    assert ask(port).text == "new"


def test_initial_up_serves_at_once(edge: StartEdge, actor: StartActor) -> None:
    patient, port = Patient("new"), free_port()
    patient.awake.clear()
    endpoint = actor(patient)
    proxy = edge(web(port, endpoint.port, service=http(pace="interval: 100ms, timeout: 20s")))
    assert ask(port).text == "new"
    assert transitions(proxy, endpoint.port) == []


# --- when they come, and what they leave alone ----------------------------------------------------------------------

def _gaps(patient: Patient, number: int) -> list[float]:
    patient.probed(number)
    times = [at for at, _ in patient.probes][-number:]
    return [after - before for before, after in pairwise(times)]


def test_they_come_every_interval_and_slower_while_it_stays_down(edge: StartEdge, actor: StartActor) -> None:
    well, ill = Patient("well"), sick("ill")
    first, second, port = actor(well), actor(ill), free_port()
    proxy = edge(web(port, first.port, second.port, service=http(pace="interval: 100ms, timeout: 5s")))
    gaps = _gaps(well, 15)
    assert 0.085 < median(gaps) < 0.13, gaps
    assert min(gaps) > 0.05, gaps
    becomes(proxy, second.port, "down")
    eventually(lambda: _gaps(ill, 2)[-1] > 0.4, "five times as slow", seconds=10)
    ill.status = "503 Service Unavailable"
    eventually(lambda: _gaps(ill, 2)[-1] < 0.3, "another reason: as often as before", seconds=10)
    ill.status = "200 OK"
    becomes(proxy, second.port, "up")
    gaps = _gaps(ill, 8)
    assert 0.085 < median(gaps) < 0.13, gaps
    assert [said.split(":")[0] for said in transitions(proxy, second.port)] == ["down", "up"]
    assert proxy.lines() == [], "probes are not in the access log"
    assert not well.requests and not ill.requests


def test_they_take_no_place_and_no_connection_from_requests(edge: StartEdge, actor: StartActor, dial: Dial) -> None:
    patient, port = Patient("busy"), free_port()
    endpoint = actor(patient)
    proxy = edge(web(port, endpoint.port, service=f"{http()}, limits: {{per_endpoint: 1}}"))
    client = dial(port)
    for _ in range(5):
        patient.probed(1)
        client.get()
        assert client.response().text == "busy"
    assert [line["reused"] for line in proxy.logged(5)] == [False] + [True] * 4
    patient.awake.clear()
    patient.probed(1)
    client.get()
    assert client.response().text == "busy", "while a probe is under way"


# --- reloads --------------------------------------------------------------------------------------------------------

def _ill_and_well(edge: StartEdge, actor: StartActor, port: int) -> tuple[Edge, Patient, tuple[int, int]]:
    ill = sick("ill")
    one, other = actor(Patient("well")), actor(ill)
    proxy = edge(web(port, one.port, other.port, service=http()))
    becomes(proxy, other.port, "down")
    return proxy, ill, (one.port, other.port)


def test_a_reload_keeps_what_is_known(edge: StartEdge, actor: StartActor) -> None:
    port = free_port()
    proxy, ill, (one, other) = _ill_and_well(edge, actor, port)
    more = actor(Patient("more")).port
    for service in (f"{http()}, balance: random", http("path: /other"), http(pace="interval: 80ms, fall: 5, initial: down")):
        proxy.reload(web(port, one, other, more, route="retry: {attempts: 2}", service=service))
        becomes(proxy, more, "up")
        ill.probed(1)
        assert "ill" not in names(port)
    assert [said.split(":")[0] for said in transitions(proxy, other)] == ["down"]
    assert transitions(proxy, one) == transitions(proxy, more) == ["up: its first probe passed"]
    ill.status = "200 OK"
    becomes(proxy, other, "up")
    assert "ill" in names(port)


def test_an_endpoint_that_is_named_again_is_still_down(edge: StartEdge, actor: StartActor) -> None:
    port = free_port()
    proxy, ill, (one, other) = _ill_and_well(edge, actor, port)
    proxy.reload(web(port, one, service=http()))
    proxy.reload(web(port, one, other, service=http()))
    assert names(port) == {"well"}
    ill.status = "200 OK"
    becomes(proxy, other, "up")


def test_without_probes_everything_is_back(edge: StartEdge, actor: StartActor) -> None:
    port = free_port()
    proxy, ill, (one, other) = _ill_and_well(edge, actor, port)
    proxy.reload(web(port, one, other))
    assert names(port) == {"well", "ill"}
    asked = len(ill.probes)
    client_saw = {ask(port).status for _ in range(20)}
    assert client_saw == {200}
    assert len(ill.probes) <= asked + 1, "nobody probes it any more"
    assert transitions(proxy, other)[-1] == "up: not probed any more"
    proxy.reload(web(port, one, other, service=http()))
    assert becomes(proxy, other, "down").startswith("down: 2 probes in a row failed")


@pytest.mark.parametrize("initial", ["up", "down"])
def test_a_reload_that_begins_to_probe_takes_nothing_away(edge: StartEdge, actor: StartActor, initial: str) -> None:
    """Those that have served all along are not new."""
    patient, port = Patient("old"), free_port()
    patient.awake.clear()
    endpoint = actor(patient)
    proxy = edge(web(port, endpoint.port))
    assert ask(port).text == "old"
    proxy.reload(web(port, endpoint.port, service=http(pace=f"interval: 100ms, timeout: 20s, initial: {initial}")))
    eventually(lambda: patient.probes, "its first probe")
    assert ask(port).status == 200, "while its first probe is under way"
    patient.awake.set()
    becomes(proxy, endpoint.port, "up")


def test_a_service_that_a_reload_removes_is_probed_no_more(edge: StartEdge, actor: StartActor, stage: StartStage) -> None:
    port = free_port()
    proxy, ill, _ = _ill_and_well(edge, actor, port)
    ill.probed(1)
    last = stage()
    proxy.reload(web(port, last.port).replace("app", "other"))
    asked = len(ill.probes)
    assert last.untouched(0.4)
    assert len(ill.probes) <= asked + 1
