"""Expect: 100-continue is forwarded, and what the endpoint says to it is obeyed; interim responses in general."""
from __future__ import annotations

import subprocess
from pathlib import Path

from e2e.backends import Nginx, StartStage
from e2e.program import StartEdge, free_port, web
from e2e.wire import Dial, End

POST = "POST /up HTTP/1.1\r\nHost: x.invalid\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"


def test_the_body_waits_for_100(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(POST)
    channel = endpoint.accept()
    assert channel.request(body=False).get("expect") == "100-continue"
    assert client.quiet(), "the proxy does not promise in the endpoint's name"
    channel.send("HTTP/1.1 100 Continue\r\n\r\n")
    assert client.response().status == 100
    client.send("body")
    assert channel.exactly(4) == b"body"
    channel.answer(b"done")
    assert client.response().text == "done"
    client.get("/next")
    assert channel.request().target == "/next", "both connections go on"
    channel.answer(b"next")
    assert client.response().text == "next"


def test_a_refusal_instead_of_100(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(POST)
    channel = endpoint.accept()
    channel.request(body=False)
    channel.answer(b"no", "417 Expectation Failed")
    answer = client.response()
    assert (answer.status, answer.get("connection")) == (417, "close"), "whether the body comes is anybody's guess"
    assert client.ending() == (b"", End.FIN)
    assert channel.ending()[0] == b"", "and no body went to the endpoint"


def test_a_client_that_does_not_wait(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.send(POST + "body")
    channel = endpoint.accept()
    assert channel.request().body == b"body"
    channel.answer(b"done")
    assert client.response().text == "done"


def test_an_unknown_expectation_is_417(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get("/", "x.invalid", "Expect: wonders")
    assert client.response().status == 417
    assert endpoint.untouched()


def test_curl_through_nginx(edge: StartEdge, nginx: Nginx, tmp_path: Path) -> None:
    port = free_port()
    edge(web(port, nginx["a"]))
    body = tmp_path / "body"
    body.write_bytes(b"x" * 100_000)
    done = subprocess.run(["curl", "-sv", "--max-time", "5", "--expect100-timeout", "4", "-H", "Expect: 100-continue",
                           "--data-binary", f"@{body}", f"http://127.0.0.1:{port}/"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "HTTP/1.1 100 " in done.stderr, "nginx's own 100 came through"
    assert done.stdout == "a\n"


def test_several_interim_responses(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
    hints = client.response()
    assert (hints.status, hints.get("link")) == (103, "</a.css>")
    assert client.response().status == 102
    channel.send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
    assert client.response().status == 103
    assert client.response().text == "done"


def test_endless_interim_responses_are_502(edge: StartEdge, stage: StartStage, dial: Dial) -> None:
    endpoint, port = stage(), free_port()
    edge(web(port, endpoint.port))
    client = dial(port)
    client.get()
    channel = endpoint.accept()
    channel.request()
    channel.send("HTTP/1.1 103 Early Hints\r\n\r\n" * 200)
    statuses = []
    while (answer := client.response()).status == 103:
        statuses.append(103)
    assert answer.status == 502
    assert len(statuses) < 100
