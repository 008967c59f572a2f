"""Who speaks TLS with the proxy: openssl, curl and h2load as programs, Python's ssl as a wire; and an https listener's text.

Programs are asked once and have a deadline; what they print is given back whole, so that a failing test shows it.
"""
from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from e2e.certs import Authority, Pair
from e2e.program import addresses, free_port
from e2e.waiting import PATIENCE
from e2e.wire import Wire

NAME = "edge.test"
"""What the proxy is called where a test needs only one name."""
_SECONDS = 30.0


def secure(port: int, certificates: Sequence[Pair], *endpoints: int | str, tls: str = "", listener: str = "",
           route: str = "", service: str = "", more: str = "") -> str:
    """One https listener, one route, one service; `more` are further listeners, each with its comma in front."""
    return (f"listeners: {{secure: {https(port, certificates, tls, listener)}{more}}}\n"
            f"routes: [{{service: app{_and(route)}}}]\n"
            f"services: {{app: {{endpoints: {addresses(*endpoints)}{_and(service)}}}}}\n")


def https(port: int, certificates: Sequence[Pair], tls: str = "", listener: str = "") -> str:
    """The value of one https listener."""
    pairs = ", ".join(pair.yaml for pair in certificates)
    return (f"{{bind: '127.0.0.1:{port}', protocol: https, tls: {{certificates: [{pairs}]{_and(tls)}}}"
            f"{_and(listener)}}}")


def _and(more: str) -> str:
    return f", {more}" if more else ""


# --- a connection in the test's hand --------------------------------------------------------------------------------

def client_context(authority: Authority, *alpn: str, pair: Pair | None = None, version: str = "") -> ssl.SSLContext:
    """Trusts the authority; shows `pair`; `version` is "1.2" or "1.3", else both."""
    made = ssl.create_default_context(cafile=str(authority.pem))
    if alpn:
        made.set_alpn_protocols(alpn)
    if pair is not None:
        made.load_cert_chain(pair.cert, pair.key)
    if version:
        made.minimum_version = made.maximum_version = ssl.TLSVersion[f"TLSv{version.replace('.', '_')}"]
    return made


def connect_tls(port: int, context: ssl.SSLContext, name: str = NAME, seconds: float = PATIENCE) -> Wire:
    """Shake hands; raises ssl.SSLError. The wire's socket is an `ssl.SSLSocket`."""
    sock = socket.create_connection(("127.0.0.1", port), seconds)
    try:
        return Wire(context.wrap_socket(sock, server_hostname=name), seconds)
    except BaseException:
        sock.close()
        raise


class DialTls(Protocol):
    """The fixture `dial_tls`."""

    def __call__(self, port: int, *alpn: str) -> Wire: ...


def tls_of(wire: Wire) -> ssl.SSLSocket:
    assert isinstance(wire.sock, ssl.SSLSocket)
    return wire.sock


def shown(wire: Wire) -> int:
    """The serial number of the certificate that the proxy showed."""
    told = tls_of(wire).getpeercert()
    assert told
    return int(str(told["serialNumber"]), 16)


# --- programs -------------------------------------------------------------------------------------------------------

def program(name: str, package: str) -> str:
    found = shutil.which(name)
    assert found, f"the end-to-end tests need {name} (Debian: apt-get install {package})"
    return found


@dataclass(frozen=True)
class Said:
    """What a program printed, both streams, and its exit status."""

    status: int
    text: str

    def find(self, pattern: str) -> str:
        """The first group of the pattern, "" if it is nowhere."""
        found = re.search(pattern, self.text, re.MULTILINE)
        return found[1].strip() if found else ""


def s_client(port: int, *options: str, send: str = "", seconds: float = _SECONDS) -> Said:
    """`openssl s_client`; with `send` it speaks and waits for the proxy to close, without it only shakes hands."""
    command = [program("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{port}", *options]
    if send:
        command.append("-ign_eof")
    done = subprocess.run(command, input=send.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=seconds, check=False)
    return Said(done.returncode, done.stdout.decode(errors="replace"))


@dataclass(frozen=True)
class Curled:
    """What curl got; `facts` are its own (`--write-out %{json}`)."""

    body: str
    facts: dict[str, Any]
    fields: dict[str, list[str]]

    @property
    def status(self) -> int:
        return int(self.facts["response_code"])

    @property
    def version(self) -> str:
        return str(self.facts["http_version"])

    def get(self, name: str) -> str | None:
        values = self.fields.get(name.lower(), [])
        assert len(values) <= 1, values
        return values[0] if values else None


def curl(url: str, authority: Authority, *options: str | Path, name: str = NAME) -> Curled:
    """One request; `name` leads to this machine. Fails if curl does."""
    done = curl_try(url, authority, *options, name=name)
    assert done.returncode == 0, (done.returncode, done.stderr.partition("-- facts")[0])
    facts, _, fields = done.stderr.rpartition("\n-- fields\n")
    return Curled(done.stdout, json.loads(facts.rpartition("-- facts\n")[2]), json.loads(fields))


def curl_try(url: str, authority: Authority, *options: str | Path, name: str = NAME) -> subprocess.CompletedProcess[str]:
    command = [program("curl", "curl"), "-sS", "--cacert", authority.pem, "--connect-to", f"{name}::127.0.0.1:",
               "-w", "%{stderr}-- facts\n%{json}\n-- fields\n%{header_json}", "--max-time", "20", *options, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)


def h2load(url: str, *options: str, seconds: float = 60) -> dict[str, int]:
    """(total, succeeded, failed, errored, timeout) requests, and how many answers were 2xx, as h2load counts them."""
    done = subprocess.run([program("h2load", "nghttp2-client"), *options, url], capture_output=True, text=True,
                          timeout=seconds, check=False)
    found = re.search(r"^requests: (.*)$", done.stdout, re.MULTILINE)
    codes = re.search(r"^status codes: (\d+) 2xx", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and found and codes, done.stdout + done.stderr
    counted = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", found[1])}
    return counted | {"2xx": int(codes[1])}


# --- endpoints ------------------------------------------------------------------------------------------------------

ORIGIN = "origin.test"
"""What the endpoints that speak TLS are called in their certificate."""
_SERVER = """    server {{ listen 127.0.0.1:{port} backlog=8192{options}; root files; {tls}
        add_header X-Server "{name}"; add_header X-Protocol "$server_protocol"; add_header X-Sni "$ssl_server_name";
        add_header X-Client "$ssl_client_s_dn"; add_header X-Connection "$connection:$connection_requests";
        add_header X-Reused "$ssl_session_reused"; add_header X-Host "$host";
        location / {{ return 200 "{name}\\n"; }}
        location /files/ {{ alias files/; }}
    }}
"""


def tls_servers(authority: Authority) -> tuple[str, dict[str, int]]:
    """Servers for an nginx's configuration, and their ports."""
    pair = authority.server(ORIGIN)
    tls = f"ssl_certificate {pair.cert}; ssl_certificate_key {pair.key}; ssl_session_cache shared:{{name}}:1m;"
    strict = f"{tls} ssl_client_certificate {authority.pem}; ssl_verify_client on;"
    kinds = {"tls": (" ssl", tls), "strict": (" ssl", strict), "h2": (" ssl http2", tls), "h2c": (" http2", "")}
    ports = {name: free_port() for name in kinds}
    return "".join(_SERVER.format(name=name, port=ports[name], options=options, tls=text.format(name=name))
                   for name, (options, text) in kinds.items()), ports
