"""Load: the workloads, one run with the CPU time that the proxy spent on it, and the check of answers before.

Generators: wrk (HTTP/1), h2load (HTTP/2) and handshakes.py (full TLS handshakes); their results have one form.

A run is kept only as numbers; what they mean (medians, ratios) is decided in report.py.
"""
from __future__ import annotations

import http.client
import json
import re
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import handshakes, machine
from bench.peers.machine import Cpus, pinned
from bench.peers.processes import Running
from bench.peers.proxies import BIG, REPLY, TEMPLATES

HANDSHAKES = Path(handshakes.__file__)


@dataclass(frozen=True, slots=True)
class Workload:
    key: str
    title: str
    listener: str
    """Which port of the proxy: http, tcp or tls."""
    path: str = "/"
    connections: int = 64
    close: bool = False
    unit: str = "request"
    """What the CPU time is divided by: `request`, `connection` or `MiB`."""
    quiet_rows: bool = False
    """Whether the cost of the log shows, so that rows with the log off tell something."""
    generator: str = "wrk"
    """wrk, h2load or handshakes."""
    streams: int = 1
    """Requests at a time on each connection (h2load)."""
    names: int = 1
    """To how many names in turn (handshakes)."""


WORKLOADS = [
    Workload("h1-keepalive", "HTTP/1.1 keep-alive", "http", quiet_rows=True),
    Workload("h1-close", "HTTP/1.1, a connection per request", "http", close=True, quiet_rows=True),
    Workload("h1-tls", "HTTP/1.1 keep-alive over TLS", "tls"),
    Workload("tls-handshake", "Full TLS handshakes, a request each", "tls", connections=8, close=True,
             generator="handshakes", unit="connection"),
    Workload("h2-tls", "HTTP/2 over TLS, 16 connections × 16 streams", "tls", connections=16, streams=16,
             generator="h2load"),
    Workload("l4-keepalive", "TCP relay, long connections", "tcp"),
    Workload("l4-close", "TCP relay, a connection per request", "tcp", close=True, unit="connection"),
    Workload("l7-1MiB", "HTTP/1.1, 1 MiB bodies", "http", path="/big", connections=16, unit="MiB"),
    Workload("l4-1MiB", "TCP relay, 1 MiB bodies", "tcp", path="/big", connections=16, unit="MiB"),
]


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of the load generator against one proxy."""

    units: float
    """Requests, connections or MiB that were carried."""
    requests: int
    seconds: float
    cpu_ns: int
    user: float
    """Part of cpu_ns outside the kernel."""
    p50_us: int
    p99_us: int
    strangers: float
    """Part of the proxy's CPU that somebody else had meanwhile, 0 to 1."""
    logged: int
    """Bytes written to the access log."""
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """Microseconds of CPU for a unit of work."""
        return self.cpu_ns / 1000 / self.units if self.units else float("inf")

    @property
    def rate(self) -> float:
        return self.units / self.seconds if self.seconds else 0.0

    @property
    def busy(self) -> float:
        """Part of the time that the proxy had its CPU."""
        return self.cpu_ns / 1e9 / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the generators are; `scripts` is the folder for those of wrk."""

    wrk: str
    h2load: str | None
    scripts: Path

    def missing(self, workload: Workload) -> str:
        """Why a workload cannot be run, "" if it can."""
        return "h2load is not installed" if workload.generator == "h2load" and self.h2load is None else ""


class LoadError(Exception):
    """The load generator could not do its work; the message is for the row of the table."""


def write_script(folder: Path, *parts: str) -> Path:
    """One wrk script out of several templates, the one that prints the result last."""
    path = folder / ("-".join(parts) + ".lua")
    path.write_text("".join((TEMPLATES / f"{part}.lua").read_text() for part in (*parts, "result")))
    return path


def run(tools: Tools, workload: Workload, port: int, script: Path, *, seconds: int, cpu: int) -> dict[str, int]:
    """Counters of one run; raises LoadError if the generator fails."""
    if workload.generator == "h2load":
        return _run_h2load(tools, workload, port, seconds=seconds, cpu=cpu)
    if workload.generator == "handshakes":
        command = [sys.executable, str(HANDSHAKES), str(port), str(seconds), str(workload.connections),
                   str(workload.names)]
    else:
        scheme = "https" if workload.listener == "tls" else "http"
        command = [tools.wrk, "-t1", f"-c{workload.connections}", f"-d{seconds}s", "--timeout", "5s", "-s", str(script),
                   f"{scheme}://127.0.0.1:{port}{workload.path}"]
    said = _start(command, seconds, cpu)
    found = re.search(r"^RESULT (.*)$", said, re.MULTILINE)
    if not found:
        raise LoadError(said.strip().replace("\n", " / ")[-200:] or "the load generator said nothing")
    counters: dict[str, int] = json.loads(found[1])
    return counters


def _start(command: list[str], seconds: int, cpu: int) -> str:
    with pinned(cpu):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20, check=False)
        except subprocess.TimeoutExpired as error:
            raise LoadError("the load generator hung") from error
    return done.stdout + done.stderr


def _run_h2load(tools: Tools, workload: Workload, port: int, *, seconds: int, cpu: int) -> dict[str, int]:
    """h2load has no percentiles: they come from its log of requests, a line each."""
    assert tools.h2load is not None
    log = tools.scripts / "h2load.log"
    log.unlink(missing_ok=True)
    headers = [f"--header={name}: {value}" for name, value in handshakes.fields()]
    said = _start([tools.h2load, f"-c{workload.connections}", f"-m{workload.streams}", f"-D{seconds}", "-t1",
                   f"--connect-to=127.0.0.1:{port}", f"--log-file={log}", *headers,
                   f"https://{handshakes.HOST}:{port}{workload.path}"], seconds, cpu)
    done = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    if not done or "Application protocol: h2" not in said:
        raise LoadError(said.strip().replace("\n", " / ")[-200:] or "h2load said nothing")
    good, failed, timeout = int(done[2]), int(done[3]), int(done[5])
    taken = sorted(int(line.rpartition("\t")[2]) for line in log.read_text().splitlines()) or [0]
    return {"requests": good, "bytes": 0, "micros": seconds * 1_000_000, "p50": taken[len(taken) // 2],
            "p99": taken[int((len(taken) - 1) * 0.99)], "connect": 0, "read": max(0, failed - timeout), "write": 0,
            "status": 0, "timeout": timeout}


def measure(tools: Tools, script: Path, proxy: Running, port: int, workload: Workload, *, seconds: int, cpus: Cpus,
            log: Path | None) -> Sample:
    """One run, and what the proxy's processes used from before its first connection to after its last."""
    if not proxy.alive:
        raise LoadError(f"the proxy ended: {proxy.complaint()}")
    size = _size(log)
    busy, before = machine.cpu_busy(cpus.proxy), machine.read_cpu(proxy.pid)
    counters = run(tools, workload, port, script, seconds=seconds, cpu=cpus.load)
    time.sleep(0.05)   # for what the proxy still does about the connections that just went
    after, busy = machine.read_cpu(proxy.pid), machine.cpu_busy(cpus.proxy) - busy
    logged = _size(log) - size
    if log is not None and log.exists():
        _empty(log)
    if not proxy.alive:
        raise LoadError(f"the proxy ended under load: {proxy.complaint()}")
    spent = machine.cpu_between(before, after)
    wall = counters["micros"] / 1e6
    units = counters["bytes"] / BIG if workload.unit == "MiB" else counters["requests"]
    errors = {name: counters[name] for name in ("connect", "read", "write", "status", "timeout") if counters[name]}
    return Sample(units, counters["requests"], wall, spent, machine.user_share(before, after), counters["p50"],
                  counters["p99"], max(0.0, (busy - spent) / 1e9 / wall), logged, errors)


def _empty(log: Path) -> None:
    """Logs are emptied between runs, or a long measurement fills the disk.

    A writer that does not append (HAProxy clears the flag) leaves a hole; blocks, not size, tell what was written.
    """
    with open(log, "r+b") as file:
        file.truncate(0)


def _size(log: Path | None) -> int:
    """Bytes on the disk, to a block."""
    try:
        return log.stat().st_blocks * 512 if log is not None else 0
    except OSError:
        return 0


# --- before anything is measured ------------------------------------------------------------------------------------

def unverified() -> ssl.SSLContext:
    """A client's context that trusts everybody: who the proxies are is known here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def ask(port: int, path: str = "/", timeout: float = 5.0, tls: bool = False) -> tuple[int, bytes]:
    connection = (http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=unverified()) if tls
                  else http.client.HTTPConnection("127.0.0.1", port, timeout=timeout))
    try:
        connection.request("GET", path, headers={"Host": "bench.example.com"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wait_for_answer(running: Running, port: int, patience: float = 15.0, pause: float = 0.005) -> float:
    """Seconds until the first request is answered with 200; raises LoadError."""
    begin = time.monotonic()
    while time.monotonic() - begin < patience:
        if not running.alive:
            raise LoadError(f"does not start: {running.complaint()}")
        try:
            if ask(port, timeout=2.0)[0] == 200:
                return time.monotonic() - begin
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(pause)
    raise LoadError(f"does not answer: {running.complaint()}")


def check(port: int, workload: Workload) -> str | None:
    """What is wrong with this proxy's answer to this workload's request, or None."""
    wanted = bytes(range(256)) * (BIG // 256) if workload.path == "/big" else REPLY.encode()
    try:
        status, body = ask(port, workload.path, tls=workload.listener == "tls")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {type(error).__name__}"
    if status != 200:
        return f"answers {status}"
    return None if body == wanted else f"wrong body, {len(body)} bytes"
