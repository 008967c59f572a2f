"""Load: the workloads, one run of wrk with the CPU time that the proxy spent on it, and the check of answers before.

A run is kept only as numbers; what they mean (medians, ratios) is decided in report.py.
"""
from __future__ import annotations

import http.client
import json
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import machine
from bench.peers.machine import Cpus, pinned
from bench.peers.processes import Running
from bench.peers.proxies import BIG, REPLY, TEMPLATES


@dataclass(frozen=True, slots=True)
class Workload:
    key: str
    title: str
    listener: str
    """Which port of the proxy: http or tcp."""
    path: str = "/"
    connections: int = 64
    close: bool = False
    unit: str = "request"
    """What the CPU time is divided by: `request`, `connection` or `MiB`."""
    quiet_rows: bool = False
    """Whether the cost of the log shows, so that rows with the log off tell something."""


WORKLOADS = [
    Workload("h1-keepalive", "HTTP/1.1 keep-alive", "http", quiet_rows=True),
    Workload("h1-close", "HTTP/1.1, a connection per request", "http", close=True, quiet_rows=True),
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


class LoadError(Exception):
    """The load generator could not do its work; the message is for the row of the table."""


def write_script(folder: Path, *parts: str) -> Path:
    """One wrk script out of several templates, the one that prints the result last."""
    path = folder / ("-".join(parts) + ".lua")
    path.write_text("".join((TEMPLATES / f"{part}.lua").read_text() for part in (*parts, "result")))
    return path


def run_wrk(wrk: str, script: Path, url: str, *, connections: int, seconds: int, cpu: int) -> dict[str, int]:
    """Counters of one run; raises LoadError if wrk fails."""
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s", "-s", str(script), url]
    with pinned(cpu):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20, check=False)
        except subprocess.TimeoutExpired as error:
            raise LoadError("the load generator hung") from error
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if not found:
        said = (done.stderr or done.stdout).strip().replace("\n", " / ")
        raise LoadError(said[-200:] or "the load generator said nothing")
    counters: dict[str, int] = json.loads(found[1])
    return counters


def measure(wrk: str, script: Path, proxy: Running, port: int, workload: Workload, *, seconds: int, cpus: Cpus,
            log: Path | None) -> Sample:
    """One run, and what the proxy's processes used from before its first connection to after its last."""
    if not proxy.alive:
        raise LoadError(f"the proxy ended: {proxy.complaint()}")
    size = _size(log)
    busy, before = machine.cpu_busy(cpus.proxy), machine.read_cpu(proxy.pid)
    counters = run_wrk(wrk, script, f"http://127.0.0.1:{port}{workload.path}", connections=workload.connections,
                       seconds=seconds, cpu=cpus.load)
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

def ask(port: int, path: str = "/", timeout: float = 5.0) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
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
        status, body = ask(port, workload.path)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {type(error).__name__}"
    if status != 200:
        return f"answers {status}"
    return None if body == wanted else f"wrong body, {len(body)} bytes"
