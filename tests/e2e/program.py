"""The proxy as a process: started from a configuration's text, spoken to by signals, watched through /proc.

Nothing is taken from inside the program: only its command line, what it prints, its access log and its sockets. Every
process ends with the test, and its error output must hold no traceback, whatever the test was about.
"""
from __future__ import annotations

import atexit
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from e2e.waiting import PATIENCE, eventually

Line = dict[str, Any]

_FAULTS = re.compile(r"Traceback|never retrieved|never awaited|please report it|internal error|double free|Segmentation")
_RELOADED = re.compile(r"configuration reloaded|reload refused|reload failed")
_BELOW_EPHEMERAL = (20000, 32000)
_reserved: deque[socket.socket] = deque()
_RESERVED = 500  # more than one test uses


def free_port() -> int:
    """A port nobody uses; below the range of outgoing connections, so that none of those takes it meanwhile.

    It may be used late or never (an endpoint that refuses). So that another run of these tests does not get it, a name
    stands for it among the kernel's abstract unix sockets; such names go with their process.
    """
    while True:
        port = random.randrange(*_BELOW_EPHEMERAL)
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0edgeproxy-tests-{port}")
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("", port))
        except OSError:
            reservation.close()
            continue
        _reserved.append(reservation)
        if len(_reserved) > _RESERVED:
            _reserved.popleft().close()
        return port


RUNTIME = tempfile.mkdtemp(prefix="ep-")
"""Where the proxies have their admin sockets: one that is killed leaves its own. Short: a socket's path has 107 bytes."""
atexit.register(shutil.rmtree, RUNTIME, ignore_errors=True)


@atexit.register
def _give_back() -> None:
    for reservation in _reserved:
        reservation.close()


def web(port: int, *endpoints: int | str, listener: str = "", route: str = "", service: str = "") -> str:
    """One http listener, one route, one service; the rest are further keys, such as `balance: random`."""
    return (f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http{_and(listener)}}}}}\n"
            f"routes: [{{service: app{_and(route)}}}]\n"
            f"services: {{app: {{endpoints: {addresses(*endpoints)}{_and(service)}}}}}\n")


def tcp(port: int, *endpoints: int | str, listener: str = "", service: str = "") -> str:
    """One tcp listener and its service."""
    return (f"listeners: {{relay: {{bind: '127.0.0.1:{port}', protocol: tcp, service: app{_and(listener)}}}}}\n"
            f"services: {{app: {{endpoints: {addresses(*endpoints)}{_and(service)}}}}}\n")


def addresses(*endpoints: int | str) -> str:
    """Ports of this machine, or endpoints as they are written in the file."""
    return "[" + ", ".join(f"'127.0.0.1:{e}'" if isinstance(e, int) else e for e in endpoints) + "]"


def _and(more: str) -> str:
    return f", {more}" if more else ""


def command() -> list[str]:
    return [sys.executable, "-m", "edgeproxy"]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, with the package under test importable from anywhere."""
    spec = importlib.util.find_spec("edgeproxy")
    assert spec is not None and spec.origin is not None
    folders = [str(Path(spec.origin).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders), "PYTHONUNBUFFERED": "1",
                         "NO_COLOR": "1", "RUNTIME_DIRECTORY": RUNTIME} | (dict(more) if more else {})


class Edge:
    """A running proxy."""

    def __init__(self, folder: Path, text: str, env: Mapping[str, str] | None = None,
                 before: Callable[[], None] | None = None) -> None:
        """`before` runs in the child before the program, to limit it. The access log is JSON unless `text` says."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = folder / "edgeproxy.yaml"
        self.log = folder / "access.json"
        self.write(text)
        self._out = folder / "stdout.txt"
        self._err = folder / "stderr.txt"
        self._ending = False  # it was told to end, and may be about to
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen([*command(), "-c", str(self.file)], stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=err, cwd=folder, env=environment(env), preexec_fn=before)
        self.pid = self.process.pid

    def write(self, text: str) -> None:
        """A new configuration file; it is read at the next reload."""
        if "access_log:" not in text:
            text += "access_log: {path: access.json}\n"
        temporary = self.file.with_suffix(".new")
        temporary.write_text(text)
        temporary.replace(self.file)

    def ready(self) -> Edge:
        """Wait until it has printed all its listeners."""
        text = self.file.read_text()
        ports = re.findall(r":(\d{4,5})\b", " ".join(re.findall(r"bind: *(\[[^]]*\]|'[^']*'|\"[^\"]*\"|\S+)", text)))

        def printed() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the proxy ended with {self.process.returncode}:\n{self.errors}\n{text}")
            told = self.errors  # not its standard output: that belongs to the access log
            return all(f":{port} " in told for port in ports)

        eventually(printed, f"listeners {ports} printed", seconds=10)
        return self

    # ---- what it says

    @property
    def output(self) -> str:
        return self._out.read_text()

    @property
    def errors(self) -> str:
        return self._err.read_text()

    def lines(self) -> list[Line]:
        """The access log so far, whole lines only."""
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def logged(self, count: int = 1, wanted: Callable[[Line], bool] = lambda line: True) -> list[Line]:
        """The lines that are wanted, as soon as there are `count` of them; no more than that may be there."""
        found: list[Line] = []

        def enough() -> bool:
            found[:] = [line for line in self.lines() if wanted(line)]
            return len(found) >= count

        try:
            eventually(enough, f"{count} such lines in the access log")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.lines()[-5:]}") from None
        assert len(found) == count, found
        return found

    def entry(self) -> Line:
        """The only line of the access log."""
        return self.logged(1)[0]

    # ---- what it is told

    def signal(self, number: signal.Signals) -> None:
        self._ending = self._ending or number in (signal.SIGTERM, signal.SIGINT)
        self.process.send_signal(number)

    def reload(self, text: str | None = None) -> str:
        """SIGHUP, with a new file if there is one; what the log says about it."""
        if text is not None:
            self.write(text)
        before = len(_RELOADED.findall(self.errors))
        self.signal(signal.SIGHUP)
        try:
            eventually(lambda: not self.alive or len(_RELOADED.findall(self.errors)) > before, "a word about the reload")
            assert self.alive, f"SIGHUP ended the proxy with {self.process.returncode}"
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.errors}") from None
        return self.errors[[found.start() for found in _RELOADED.finditer(self.errors)][before]:]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It stands still meanwhile: everything that happens in the block happens to it at one moment."""
        self.signal(signal.SIGSTOP)
        eventually(lambda: self.state == "T", "the proxy stands still")
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit status."""
        self._ending = True
        return self.process.wait(seconds)

    def stop(self) -> None:
        """End it at once and cleanly; nothing it printed may tell of a fault."""
        try:
            if self.alive:
                self.signal(signal.SIGCONT)
                self._interrupt()
            assert self._ending, f"the proxy ended by itself with {self.process.returncode}:\n{self.errors}"
            assert not _FAULTS.search(self.errors), self.errors
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def _interrupt(self) -> None:
        limit = time.monotonic() + PATIENCE
        # A signal in the last moment of an end that was under way finds no handler any more.
        fair = (0, 3, -signal.SIGINT) if self._ending else (0,)
        while time.monotonic() < limit:
            self.signal(signal.SIGINT)  # the second one ends it at once
            try:
                status = self.process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            assert status in fair, f"exit status {status} after SIGINT:\n{self.errors}"
            return
        raise AssertionError("SIGINT did not end the proxy")

    # ---- what it uses

    @property
    def state(self) -> str:
        """`R` or `S` if it runs or sleeps, `T` if it was stopped."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {key} in /proc/{self.pid}/status")

    @property
    def memory(self) -> int:
        """Bytes resident now."""
        return self._status("VmRSS")

    @property
    def peak_memory(self) -> int:
        """The most bytes that were resident since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5\n")

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def sockets(self) -> int:
        """How many of its descriptors are sockets: pipes and files may be kept for the next use."""
        folder = Path(f"/proc/{self.pid}/fd")
        number = 0
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):
                number += os.readlink(folder / name).startswith("socket:")
        return number

    @property
    def cpu(self) -> float:
        """Seconds of CPU it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


class StartEdge(Protocol):
    """The fixture `edge`."""

    def __call__(self, text: str, env: Mapping[str, str] | None = None,
                 before: Callable[[], None] | None = None) -> Edge: ...
