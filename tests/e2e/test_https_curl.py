"""curl over TLS, HTTP/1.1 and HTTP/2, through to a real nginx."""
from __future__ import annotations

import hashlib
import subprocess
import threading
from pathlib import Path

import pytest

from e2e.backends import Nginx, StartStage
from e2e.certs import Authority
from e2e.program import StartEdge, free_port
from e2e.tlspeers import NAME, curl, curl_try, secure

VERSIONS = [("--http1.1", "1.1", "HTTP/1.1"), ("--http2", "2", "HTTP/2.0")]


@pytest.mark.parametrize(("option", "version", "logged"), VERSIONS)
def test_a_request(edge: StartEdge, nginx: Nginx, authority: Authority, option: str, version: str, logged: str) -> None:
    port = free_port()
    proxy = edge(secure(port, [authority.server(NAME)], nginx["a"]))
    answer = curl(f"https://{NAME}:{port}/", authority, option)
    assert (answer.status, answer.version, answer.body) == (200, version, "a\n")
    assert answer.get("x-server") == "a"
    line = proxy.entry()
    assert (line["protocol"], line["host"], line["status"], line["outcome"]) == (logged, NAME, 200, "ok")
    assert (line["tls"], line["sni"], line["listener"]) == ("TLSv1.3", NAME, "secure")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_both_versions_of_tls(edge: StartEdge, nginx: Nginx, authority: Authority, version: str) -> None:
    port = free_port()
    proxy = edge(secure(port, [authority.server(NAME)], nginx["a"]))
    answer = curl(f"https://{NAME}:{port}/", authority, f"--tlsv{version}", "--tls-max", version, "--http2")
    assert (answer.status, answer.version) == (200, "2")
    assert proxy.entry()["tls"] == f"TLSv{version}"


@pytest.mark.parametrize(("option", "version", "_"), VERSIONS)
def test_a_large_answer(edge: StartEdge, nginx: Nginx, authority: Authority, tmp_path: Path, option: str,
                                version: str, _: str) -> None:
    port, size = free_port(), 50_000_000
    edge(secure(port, [authority.server(NAME)], nginx["a"], listener="limits: {body: 0}"))
    target = nginx.file("large-over-tls", size)
    got = tmp_path / "got"
    answer = curl(f"https://{NAME}:{port}{target}", authority, option, "-o", got)
    assert (answer.status, answer.version, got.stat().st_size) == (200, version, size)
    with got.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == hashlib.sha256(bytes(size)).hexdigest()


@pytest.mark.parametrize(("option", "version", "_"), VERSIONS)
def test_a_body_arrives_whole(edge: StartEdge, stage: StartStage, authority: Authority, tmp_path: Path,
                              option: str, version: str, _: str) -> None:
    port, endpoint = free_port(), stage()
    edge(secure(port, [authority.server(NAME)], endpoint.port, listener="limits: {body: 0}"))
    sent = tmp_path / "sent"
    sent.write_bytes(bytes(range(256)) * 30_000)
    done: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: done.append(curl_try(
        f"https://{NAME}:{port}/upload", authority, option, "-H", "Expect:", "--data-binary", f"@{sent}",
        "-H", "Content-Type: application/octet-stream")))
    thread.start()
    channel = endpoint.accept()
    request = channel.request()
    channel.answer(b"thanks")
    thread.join(20)
    assert done[0].stdout == "thanks", done
    assert request.body == sent.read_bytes()
    assert (request.get("x-forwarded-proto"), request.get("x-forwarded-port")) == ("https", str(port))
    assert (request.get("x-forwarded-host") or "").startswith(NAME)
    assert request.get("via") == ("2.0 edgeproxy" if version == "2" else "1.1 edgeproxy")
    assert (request.get("host") or "").startswith(NAME)


def test_many_requests_on_one_connection(edge: StartEdge, nginx: Nginx, authority: Authority) -> None:
    port = free_port()
    proxy = edge(secure(port, [authority.server(NAME)], nginx["a"], nginx["b"]))
    done = curl_try(f"https://{NAME}:{port}/[1-200]", authority, "--http2", "--parallel", "--parallel-max", "50",
                    "--parallel-immediate")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("a\n") + done.stdout.count("b\n") == 200
    lines = proxy.logged(200)
    assert {line["status"] for line in lines} == {200}


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "DELETE"])
def test_methods_over_http2(edge: StartEdge, nginx: Nginx, authority: Authority, method: str) -> None:
    port = free_port()
    edge(secure(port, [authority.server(NAME)], nginx["a"]))
    option = ["--head"] if method == "HEAD" else ["-X", method]
    answer = curl(f"https://{NAME}:{port}/", authority, "--http2", *option)
    assert answer.version == "2" and answer.status in (200, 405)
    if method == "HEAD":
        assert answer.get("content-length") == "2"
