"""The small measurements beside the workloads: start-up, memory of idle connections, and growth of edgeproxy.

Each starts fresh processes, because one that has worked before has free memory, which hides what a connection needs.
"""
from __future__ import annotations

import socket
import ssl
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.peers import load, machine
from bench.peers.load import LoadError, Sample, Tools, Workload
from bench.peers.machine import Cpus
from bench.peers.processes import Processes, Running
from bench.peers.proxies import Launch, Place, Proxy, edgeproxy_launch
from tests.e2e.certs import Authority

IDLE_REQUEST = (b"GET / HTTP/1.1\r\nHost: bench.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n"
                b"Accept-Encoding: gzip\r\n\r\n")
HOSTS = 10_000
IDLE_TLS = 5_000
"""Idle connections over TLS are at most so many: the load holds their other ends, and needs as much for each."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start-up and memory of one proxy; `fault` says what could not be measured."""

    seconds: tuple[float, ...] = ()
    """Process start to first answered request, once for each start."""
    resident: int = 0
    """Bytes held after the first request."""
    idle: int = 0
    """Idle connections that were held."""
    per_connection: float = 0.0
    """Bytes for each of them."""
    per_tls: float = 0.0
    """Bytes for each idle connection over TLS."""
    fault: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Growth:
    """edgeproxy with more of something, beside itself with little of it, run in turns."""

    title: str
    key: str
    base: str
    """The key of the small case that it is compared with."""
    samples: list[Sample] = field(default_factory=list)
    start: float = 0.0
    fault: str = ""


@dataclass(slots=True)
class Site:
    """What every measurement needs: the processes, the CPUs, a way to find places, wrk."""

    processes: Processes
    cpus: Cpus
    folder: Path
    tools: Tools
    place: Callable[[str], Place]
    authority: Authority

    def start(self, place: Place, launch: Launch) -> Running:
        return self.processes.start(place.name, launch.command, cpu=self.cpus.proxy, folder=self.folder,
                                    env=launch.env or None, output=launch.output)


class IdleConnections:
    """Client connections that made one request each and now wait."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._tls = tls
        self._sockets: list[socket.socket] = []

    def open(self, count: int, deadline: float) -> int:
        """As many as asked for, or as were possible until the deadline; raises LoadError if one is refused."""
        while len(self._sockets) < count and time.monotonic() < deadline:
            try:
                client = socket.create_connection(("127.0.0.1", self._port), timeout=5)
                if self._tls is not None:
                    client = self._tls.wrap_socket(client)
                self._sockets.append(client)
                client.sendall(IDLE_REQUEST)
                if not client.recv(4096).startswith(b"HTTP/1.1 200"):
                    raise LoadError(f"connection {len(self._sockets)} was not answered with 200")
            except OSError as error:
                raise LoadError(f"connection {len(self._sockets) + 1}: {error.strerror or error}") from error
        return len(self._sockets)

    def close(self) -> None:
        for client in self._sockets:
            client.close()
        self._sockets.clear()


def start_and_idle(site: Site, proxy: Proxy, program: str, *, starts: int, connections: int) -> Start:
    """Start it a few times, then let the last one hold idle connections; and one more those over TLS."""
    seconds: list[float] = []
    resident = held = 0
    each = tls = 0.0
    try:
        for number in range(starts + 1):
            place = site.place(f"{proxy.key}-start{number}")
            launch = proxy.launch(program, place)
            begin = time.monotonic()
            running = site.start(place, launch)
            try:
                load.wait_for_answer(running, place.http, pause=0.002)
                seconds.append(time.monotonic() - begin)
                if number == starts - 1:
                    resident, held, each = _hold(running, place.http, min(connections, launch.clients))
                elif number == starts and launch.tls:
                    wanted = min(connections, launch.clients, IDLE_TLS)
                    tls = _hold(running, place.tls, wanted, load.unverified())[2]
            finally:
                site.processes.stop(running)
    except (LoadError, RuntimeError) as error:
        return Start(tuple(seconds), resident, held, each, tls, str(error))
    return Start(tuple(seconds), resident, held, each, tls)


def _hold(running: Running, port: int, connections: int, tls: ssl.SSLContext | None = None) -> tuple[int, int, float]:
    """(bytes before, connections held, bytes for each); a few connections first, for what is made only once."""
    first, idle = IdleConnections(port, tls), IdleConnections(port, tls)
    try:
        deadline = time.monotonic() + 15.0
        first.open(min(100, connections), deadline)
        before = _settled(running)
        held = idle.open(connections, deadline)
        after = _settled(running)
        return before, held, (after - before) / held if held else 0.0
    finally:
        first.close()
        idle.close()


def _rested(running: Running, patience: float = 40.0) -> None:
    """Until it does nothing any more: what it still prepares after its start is not what requests cost."""
    begin, before = time.monotonic(), machine.read_cpu(running.pid)
    while time.monotonic() - begin < patience:
        time.sleep(0.5)
        now = machine.read_cpu(running.pid)
        if machine.cpu_between(before, now) < 25_000_000:
            return
        before = now


def _settled(running: Running) -> int:
    """Memory once it has stopped moving, or after half a second."""
    last = machine.memory(running.pid)
    for _ in range(10):
        time.sleep(0.05)
        now = machine.memory(running.pid)
        if now == last:
            break
        last = now
    return last


# --- growth ---------------------------------------------------------------------------------------------------------

def many_hosts(place: Place) -> Path:
    """A configuration with 10 000 routes, one for each host."""
    lines = ["listeners:", f"  web: {{bind: \"127.0.0.1:{place.http}\", protocol: http}}", "routes:"]
    lines += [f"  - {{host: h{number:05}.example.com, service: backend}}" for number in range(HOSTS)]
    lines += ["  - {host: bench.example.com, service: backend}", "services:", "  backend:", "    endpoints:"]
    lines += [f"      - \"127.0.0.1:{port}\"" for port in place.backends]
    lines += [f"access_log: {{path: {place.log}}}"]
    path = place.folder / f"{place.name}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def many_certificates(place: Place, authority: Authority) -> Path:
    """A configuration with 10 000 certificates, one for each name."""
    pairs = authority.many(HOSTS, "example.com")
    lines = ["listeners:", f"  web: {{bind: \"127.0.0.1:{place.http}\", protocol: http}}", "  secure:",
             f"    bind: \"127.0.0.1:{place.tls}\"", "    protocol: https", "    tls:", "      certificates:"]
    lines += [f"        - {{cert: {pair.cert}, key: {pair.key}}}" for _, pair in pairs]
    lines += ["routes:", "  - {service: backend}", "services:", "  backend:", "    endpoints:"]
    lines += [f"      - \"127.0.0.1:{port}\"" for port in place.backends]
    lines += [f"access_log: {{path: {place.log}}}"]
    path = place.folder / f"{place.name}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass(slots=True)
class _Case:
    title: str
    key: str
    base: str
    workload: Workload
    config: Callable[[Place], Path] | None = None
    idle: int = 0
    running: Running | None = None
    place: Place | None = None
    connections: IdleConnections | None = None
    samples: list[Sample] = field(default_factory=list)
    start: float = 0.0
    fault: str = ""


def growth(site: Site, program: str, *, rounds: int, seconds: int, idle: int) -> list[Growth]:
    """The cost of the same work with one of each thing, and with thousands of it: hosts, connections, certificates."""
    requests = Workload("growth", "growth", "http")
    shakes = Workload("growth-tls", "growth", "tls", connections=8, generator="handshakes", unit="connection")
    many = replace(shakes, names=HOSTS)
    return [*_grow(site, program, [
        _Case("one route", "small", "small", requests),
        _Case(f"{HOSTS} hosts, a route for each", "hosts", "small", requests, many_hosts),
        _Case("idle connections beside", "idle", "small", requests, idle=idle),
    ], rounds, seconds), *_grow(site, program, [
        _Case("one certificate: TLS handshakes", "certificate", "certificate", shakes),
        _Case(f"{HOSTS} certificates: TLS handshakes", "certificates", "certificate", many,
              lambda place: many_certificates(place, site.authority)),
    ], rounds, seconds)]


def _grow(site: Site, program: str, cases: list[_Case], rounds: int, seconds: int) -> list[Growth]:
    script = load.write_script(site.folder, "headers", "hosts")
    try:
        for case in cases:
            _open(site, program, case)
        for number in range(rounds + 1):   # the first one only warms up
            for case in cases:
                if case.running is None or case.place is None or case.fault:
                    continue
                port = case.place.tls if case.workload.listener == "tls" else case.place.http
                try:
                    sample = load.measure(site.tools, script, case.running, port, case.workload,
                                          seconds=seconds if number else 1, cpus=site.cpus, log=case.place.log)
                except LoadError as error:
                    case.fault = str(error)
                    continue
                if number:
                    case.samples.append(sample)
    finally:
        for case in cases:
            if case.connections:
                case.connections.close()
            if case.running:
                site.processes.stop(case.running)
    return [Growth(case.title, case.key, case.base, case.samples, case.start, case.fault) for case in cases]


def _open(site: Site, program: str, case: _Case) -> None:
    case.place = site.place(f"growth-{case.key}")
    launch = edgeproxy_launch(program, case.place, config=case.config(case.place) if case.config else None)
    case.idle = min(case.idle, launch.clients)
    begin = time.monotonic()
    case.running = site.start(case.place, launch)
    try:
        load.wait_for_answer(case.running, case.place.http, patience=30.0)
        case.start = time.monotonic() - begin
        _rested(case.running)
        if case.idle:
            case.connections = IdleConnections(case.place.http)
            held = case.connections.open(case.idle, time.monotonic() + 15.0)
            case.title = f"{held} idle connections beside"
    except LoadError as error:
        case.fault = str(error)
