"""Load of full TLS handshakes: a program that makes a connection for each request and never resumes a session.

wrk and h2load make connections as well, but both offer the session of the connection before; `openssl s_time` does not,
but it sends no request that all proxies take. Run as `python handshakes.py PORT SECONDS PROCESSES NAMES`: so many
processes ask one request after the other, over TLS 1.3 if the proxy has it; with NAMES above 1 each connection is to
another of `h00000.example.com`, …. The result is one line like that of wrk's script in templates/result.lua.

Certificates are not verified: that would cost the load's CPU, not the proxy's.
"""
from __future__ import annotations

import json
import multiprocessing
import socket
import ssl
import sys
import time
from collections import Counter
from pathlib import Path

TEMPLATES = Path(__file__).resolve().parent / "templates"
HOST = "bench.example.com"


def fields() -> list[tuple[str, str]]:
    """A browser's fields, from the script for wrk: the one list of them."""
    lines = (TEMPLATES / "headers.lua").read_text().splitlines()
    pairs = [line.removeprefix('wrk.headers["').removesuffix('"').partition('"]="') for line in lines
             if line.startswith("wrk.headers")]
    return [(name, value) for name, _, value in pairs]


def request() -> tuple[bytes, bytes]:
    """What comes before the host in a request, and what behind it."""
    lines = ["", *(f"{name}: {value}" for name, value in fields()), "Connection: close", "", ""]
    return b"GET / HTTP/1.1\r\nHost: ", "\r\n".join(lines).encode()


def ask(port: int, seconds: float, first: int, names: int) -> tuple[list[int], Counter[str]]:
    """One process's connections, one after the other: microseconds of each, and what went wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    hosts = [HOST] if names <= 1 else [f"h{number:05}.example.com" for number in range(names)]
    before, behind = request()
    taken: list[int] = []
    errors: Counter[str] = Counter()
    at, over = first * 7919 % len(hosts), time.monotonic() + seconds
    while (began := time.monotonic()) < over:
        at = (at + 7919) % len(hosts)   # an order that caches do not like
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as raw:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with context.wrap_socket(raw, server_hostname=hosts[at]) as client:
                    client.sendall(before + hosts[at].encode() + behind)
                    head = client.recv(65536)
                    while client.recv(65536):
                        pass
        except ssl.SSLError:
            errors["connect"] += 1
            continue
        except OSError:
            errors["read"] += 1
            continue
        errors["status"] += not head.startswith(b"HTTP/1.1 200 ")
        taken.append(int((time.monotonic() - began) * 1e6))
    return taken, errors


def main() -> None:
    port, seconds, processes, names = (int(argument) for argument in sys.argv[1:5])
    began = time.monotonic()
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        results = pool.starmap(ask, [(port, seconds, number, names) for number in range(processes)])
    micros = int((time.monotonic() - began) * 1e6)
    taken = sorted(value for some, _ in results for value in some) or [0]
    errors = sum((some for _, some in results), Counter())
    print("RESULT " + json.dumps({
        "requests": len(taken), "bytes": 0, "micros": micros, "p50": taken[len(taken) // 2],
        "p99": taken[int((len(taken) - 1) * 0.99)],
        **{name: errors[name] for name in ("connect", "read", "write", "status", "timeout")}}))


if __name__ == "__main__":
    main()
