"""The handshake: versions, ciphers, ALPN, resumption, renegotiation, silence and garbage, as openssl sees it."""
from __future__ import annotations

import ssl
import subprocess
import time
from pathlib import Path

import pytest

from e2e.backends import Nginx
from e2e.certs import Authority
from e2e.program import Edge, StartEdge, free_port
from e2e.tlspeers import NAME, Said, client_context, connect_tls, curl, program, s_client, secure, tls_of
from e2e.waiting import eventually
from e2e.wire import Dial, End

REQUEST = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
WEAK = ("-cipher", "ALL:@SECLEVEL=0")


@pytest.fixture
def started(edge: StartEdge, nginx: Nginx, authority: Authority) -> tuple[int, Edge]:
    port = free_port()
    return port, edge(secure(port, [authority.server(NAME)], nginx["a"], listener="timeouts: {handshake: 1s}"))


def ask(port: int, *options: str, send: str = "") -> Said:
    return s_client(port, "-servername", NAME, *options, send=send)


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(started: tuple[int, Edge], version: str) -> None:
    said = ask(started[0], version, *WEAK)
    assert "SSL alert number 70" in said.text, said.text
    assert "Cipher is (NONE)" in said.text


def test_min_version(edge: StartEdge, nginx: Nginx, authority: Authority) -> None:
    port = free_port()
    edge(secure(port, [authority.server(NAME)], nginx["a"], tls="min_version: '1.3'"))
    assert "SSL alert number 70" in ask(port, "-tls1_2").text
    assert ask(port, "-tls1_3").find(r"^New, (TLSv1.3), Cipher is TLS_")


@pytest.mark.parametrize("cipher", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "NULL-SHA256"])
def test_weak_ciphers_are_refused(started: tuple[int, Edge], cipher: str) -> None:
    said = ask(started[0], "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
    assert "Cipher is (NONE)" in said.text and "SSL alert number 40" in said.text, said.text


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
                                    "ECDHE-ECDSA-CHACHA20-POLY1305"])
def test_good_ciphers(started: tuple[int, Edge], cipher: str) -> None:
    assert ask(started[0], "-tls1_2", "-cipher", cipher).find(rf"Cipher is ({cipher})")


@pytest.mark.parametrize(("offered", "chosen"), [
    ("h2,http/1.1", "h2"), ("http/1.1,h2", "h2"), ("http/1.1", "http/1.1"), ("acme,http/1.1", "http/1.1")])
def test_alpn(started: tuple[int, Edge], offered: str, chosen: str) -> None:
    assert ask(started[0], "-alpn", offered).find(r"^ALPN protocol: (\S+)") == chosen


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("offered", ["acme-tls/1", "h3,spdy/3"])
def test_no_overlap_in_alpn_is_refused(started: tuple[int, Edge], offered: str, version: str) -> None:
    said = ask(started[0], "-alpn", offered, version)
    assert "SSL alert number 120" in said.text, said.text
    assert "no peer certificate available" in said.text


def test_a_client_without_alpn_speaks_http_1(started: tuple[int, Edge]) -> None:
    said = ask(started[0], send=REQUEST)
    assert "No ALPN negotiated" in said.text
    assert "HTTP/1.1 200 OK" in said.text, said.text


def test_alpn_of_the_configuration(edge: StartEdge, nginx: Nginx, authority: Authority) -> None:
    port = free_port()
    edge(secure(port, [authority.server(NAME)], nginx["a"], tls="alpn: [http/1.1]"))
    assert ask(port, "-alpn", "h2,http/1.1").find(r"^ALPN protocol: (\S+)") == "http/1.1"
    assert curl(f"https://{NAME}:{port}/", authority, "--http2").version == "1.1"
    assert "SSL alert number 120" in ask(port, "-alpn", "h2").text


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_resumption(started: tuple[int, Edge], tmp_path: Path, version: str) -> None:
    port, _ = started
    session = tmp_path / "session.pem"
    first = ask(port, version, "-sess_out", str(session), send=REQUEST)
    assert first.find(r"^(New), TLSv1\.\d") and "HTTP/1.1 200 OK" in first.text, first.text
    again = ask(port, version, "-sess_in", str(session), send=REQUEST)
    assert again.find(r"^(Reused), TLSv1\.\d") and "HTTP/1.1 200 OK" in again.text, again.text


def test_no_renegotiation(started: tuple[int, Edge]) -> None:
    said = _renegotiate(started[0])
    assert "RENEGOTIATING" in said.text
    assert "no renegotiation" in said.text or "SSL alert number 100" in said.text, said.text


def _renegotiate(port: int) -> Said:
    """The letter R, as long as its input is open, makes openssl ask for it."""
    command = [program("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-servername", NAME, "-tls1_2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as asked:
        assert asked.stdin is not None and asked.stdout is not None
        asked.stdin.write(b"R\n")
        asked.stdin.flush()
        text = b""
        while line := asked.stdout.readline():
            text += line
        return Said(asked.wait(10), text.decode())


def test_no_compression(started: tuple[int, Edge]) -> None:
    assert ask(started[0], "-tls1_2", "-comp").find(r"^Compression: (\S+)") == "NONE"


def test_extended_master_secret_and_secure_renegotiation(started: tuple[int, Edge]) -> None:
    said = ask(started[0], "-tls1_2")
    assert "Secure Renegotiation IS supported" in said.text
    assert said.find(r"Extended master secret: (yes)")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_silence_ends_at_the_deadline(started: tuple[int, Edge], dial: Dial, sent: bytes) -> None:
    port, proxy = started
    bare = proxy.sockets
    client = dial(port)
    began = time.monotonic()
    client.send(sent)
    client.ending()
    assert 0.9 <= time.monotonic() - began < 3
    eventually(lambda: proxy.sockets == bare, "its socket is given back")


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 600, b"SSH-2.0-OpenSSH_9.2p1\r\n",
                                  b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff"])
def test_garbage_is_closed_at_once(started: tuple[int, Edge], authority: Authority, dial: Dial, sent: bytes) -> None:
    port, proxy = started
    client = dial(port)
    began = time.monotonic()
    client.send(sent)
    said, _ = client.ending()
    assert time.monotonic() - began < 0.9, "no deadline was waited for"
    assert not said or said[0] == 0x15, f"nothing but an alert: {said!r}"
    assert curl(f"https://{NAME}:{port}/", authority).status == 200
    assert proxy.alive


def test_a_slow_handshake_is_in_nobodys_way(started: tuple[int, Edge], authority: Authority, dial: Dial) -> None:
    port, _ = started
    clients = [dial(port) for _ in range(200)]
    for client in clients:
        client.send(b"\x16\x03\x01")
    began = time.monotonic()
    assert curl(f"https://{NAME}:{port}/", authority).status == 200
    assert time.monotonic() - began < 0.9


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_close_notify_comes_before_the_end(started: tuple[int, Edge], authority: Authority, version: str) -> None:
    """Without it nobody can tell an end from a cut."""
    port, _ = started
    with connect_tls(port, client_context(authority, "http/1.1", version=version)) as client:
        tls_of(client).suppress_ragged_eofs = False  # an end without close_notify raises
        client.get("/", NAME, "Connection: close")
        assert client.response().status == 200
        try:
            assert client.ending() == (b"", End.FIN)
        except ssl.SSLError as fault:
            raise AssertionError(f"cut without close_notify: {fault}") from None
