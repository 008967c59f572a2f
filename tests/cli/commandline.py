"""`edgeproxy …` as a subprocess: what it printed, how it ended."""
from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-m", "edgeproxy")
RUNTIME = tempfile.mkdtemp(prefix="ep-")
"""Where the proxies have their admin sockets: one that is killed leaves its own. Short: a socket's path has 107 bytes."""
atexit.register(shutil.rmtree, RUNTIME, ignore_errors=True)


class Done(NamedTuple):
    status: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EDGEPROXY_") or k in ("EDGEPROXY_PURE",
                                                                                         "EDGEPROXY_LOOP")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "RUNTIME_DIRECTORY": RUNTIME, **more}


def edgeproxy(*args: str, cwd: Path | str = "/", **env: str) -> Done:
    """Run to the end."""
    done = subprocess.run([*PROGRAM, *args], cwd=cwd, env=environment(**env), capture_output=True, text=True,
                          timeout=30, stdin=subprocess.DEVNULL)
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass
class Running:
    """A command that goes on until it is told to stop."""

    process: subprocess.Popen[str]
    lines: dict[str, list[str]] = field(default_factory=lambda: {"out": [], "err": []})
    _news: threading.Condition = field(default_factory=threading.Condition)
    _open: int = 2

    def read(self, stream: IO[str], name: str) -> None:
        for line in stream:
            with self._news:
                self.lines[name].append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._open -= 1
            self._news.notify_all()

    def line(self, text: str) -> str:
        """The first line, of either stream, that holds `text`; waits for it."""
        def found() -> str | None:
            return next((line for lines in self.lines.values() for line in lines if text in line), None)
        with self._news:
            self._news.wait_for(lambda: found() is not None or not self._open, 20)
            line = found()
        assert line is not None, f"no {text!r} in {self.lines}"
        return line

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(20)
        with self._news:
            self._news.wait_for(lambda: not self._open, 20)
        assert not any("Traceback" in line for line in self.lines["err"]), self.lines["err"]
        return status


@contextmanager
def running(*args: str, cwd: Path | str = "/", **env: str) -> Iterator[Running]:
    process = subprocess.Popen([*PROGRAM, *args], cwd=cwd, env=environment(**env), text=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    it = Running(process)
    assert process.stdout is not None and process.stderr is not None
    streams = ((process.stdout, "out"), (process.stderr, "err"))
    readers = [threading.Thread(target=it.read, args=pair) for pair in streams]
    for reader in readers:
        reader.start()
    try:
        yield it
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(20)
        for reader in readers:
            reader.join(20)
        process.stdout.close()
        process.stderr.close()
