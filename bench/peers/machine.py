"""The machine: which CPU does what, what a process has used, free ports, limits, and a description for the report.

Everything comes from /proc; nothing here knows of proxies or of load.
"""
from __future__ import annotations

import os
import platform
import random
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cpus:
    """One CPU for the proxy, one for the load generator and the backend."""

    proxy: int
    load: int

    @property
    def shared(self) -> bool:
        return self.proxy == self.load


def choose_cpus() -> Cpus:
    allowed = sorted(os.sched_getaffinity(0))
    return Cpus(allowed[0], allowed[1] if len(allowed) > 1 else allowed[0])


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """What is started inside inherits the CPU; the caller gets its own set back."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_descriptors(wanted: int) -> int:
    """The soft limit as high as allowed, the hard one too where we may; every process started inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (wanted, hard):
        if soft >= wanted:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
        except (OSError, ValueError):
            continue
        soft = limit
    return soft


class Ports:
    """Free ports below the kernel's range for outgoing connections, so that no client can take them first."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._given: set[int] = set()

    def take(self) -> int:
        lowest = int((PROC / "sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        top = lowest if lowest > 12000 else 65536
        for _ in range(1000):
            port = self._rng.randrange(10000, top)
            if port in self._given:
                continue
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            self._given.add(port)
            return port
        raise RuntimeError("no free port on 127.0.0.1")


# --- what processes use ---------------------------------------------------------------------------------------------

def _stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on (index 0 is `state`); None: the process is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def process_tree(root: int) -> list[int]:
    """`root` and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir(PROC):
        if entry.isdigit() and (fields := _stat_fields(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, ())
    return found


@dataclass(frozen=True, slots=True)
class CpuReading:
    """CPU time of a process tree so far.

    `threads` is exact (nanoseconds by the scheduler), but a thread that ends takes its account along; `user` and
    `system` (ticks) keep what threads and reaped children have used.
    """

    threads: dict[tuple[int, int], int]
    user: int
    system: int


def read_cpu(root: int) -> CpuReading:
    threads: dict[tuple[int, int], int] = {}
    user = system = 0
    for pid in process_tree(root):
        fields = _stat_fields(pid)
        if fields is None:
            continue
        user += int(fields[11]) + int(fields[13])
        system += int(fields[12]) + int(fields[14])
        tasks = PROC / str(pid) / "task"
        try:
            for tid in os.listdir(tasks):
                threads[pid, int(tid)] = int((tasks / tid / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return CpuReading(threads, user, system)


def cpu_between(before: CpuReading, after: CpuReading) -> int:
    """Nanoseconds of user and system time; by ticks if a thread has ended (or the kernel keeps no schedstat)."""
    ticks = (after.user + after.system - before.user - before.system) * TICK_NS
    if not after.threads or not before.threads.keys() <= after.threads.keys():
        return ticks
    return sum(after.threads.values()) - sum(before.threads.values())


def user_share(before: CpuReading, after: CpuReading) -> float:
    """Part of the CPU time that was spent outside the kernel, 0 to 1."""
    user, system = after.user - before.user, after.system - before.system
    return user / (user + system) if user + system else 0.0


def cpu_busy(cpu: int) -> int:
    """Nanoseconds this CPU was not idle since boot, whoever used it (stolen time included)."""
    for line in (PROC / "stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{cpu}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(t) for t in ticks[:8])
            return (user + nice + system + irq + softirq + steal) * TICK_NS
    raise RuntimeError(f"no cpu{cpu} in /proc/stat")


def memory(root: int) -> int:
    """Bytes that the process tree holds: PSS where the kernel tells, else RSS."""
    total = 0
    for pid in process_tree(root):
        for name, key in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
            try:
                lines = (PROC / str(pid) / name).read_text().splitlines()
            except OSError:
                continue
            found = [int(line.split()[1]) for line in lines if line.startswith(key)]
            if found:
                total += found[0] * 1024
                break
    return total


def describe() -> dict[str, str]:
    """CPU, number of CPUs, kernel: what a reader needs to judge the figures. No names of hosts or people."""
    model = "unknown CPU"
    for line in (PROC / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cpu": model, "cpus": str(os.cpu_count() or 1), "kernel": f"{platform.system()} {platform.release()}",
            "python": platform.python_version()}
