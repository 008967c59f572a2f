"""Starting processes and stopping exactly those: by their ids, whatever happens, ctrl-C included."""
from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from bench.peers.machine import pinned, process_tree


class Running:
    """One started process with its children, and the files that take its output."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self.process = process
        self.errors = errors

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def complaint(self, limit: int = 300) -> str:
        """The end of what it wrote to standard error, on one line."""
        text = self.errors.read_text(errors="replace") if self.errors.exists() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return (lines[-1] if "Traceback" in text else " / ".join(lines)[-limit:]) if lines else "it said nothing"

    def stop(self, patience: float = 3.0) -> None:
        """SIGTERM, then SIGKILL for what is left of the tree."""
        tree = process_tree(self.pid) if self.alive else []
        if self.alive:
            self.process.terminate()
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._kill_orphans(tree[1:])

    def _kill_orphans(self, children: list[int]) -> None:
        deadline = time.monotonic() + 1.0
        while children and time.monotonic() < deadline:
            children = [pid for pid in children if _in_session(pid, self.pid)]
            time.sleep(0.01 if children else 0)
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _in_session(pid: int, session: int) -> bool:
    """Still there, and still the one we mean: every process we start is a session of its own, named by its id."""
    try:
        return os.getsid(pid) == session
    except ProcessLookupError:
        return False


class Processes:
    """All that was started; leaving the block stops every one of them."""

    def __init__(self) -> None:
        self._running: list[Running] = []

    def start(self, name: str, command: Sequence[str], *, cpu: int, folder: Path, env: Mapping[str, str] | None = None,
              output: Path | None = None) -> Running:
        """`output` takes standard output (appending, so the file can be truncated under the writer)."""
        errors = folder / f"{name}.stderr"
        with pinned(cpu), open(output or os.devnull, "ab") as out, open(errors, "wb") as err:
            # A session of its own: ctrl-C at the terminal reaches us alone, and we stop the rest in order.
            process = subprocess.Popen(command, cwd=folder, env=dict(env) if env is not None else None,
                                       stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
            running = Running(process, errors)
            self._running.append(running)
        return running

    def stop(self, running: Running) -> None:
        running.stop()
        self._running.remove(running)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        # A second ctrl-C must not leave half of them running.
        before = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            for running in reversed(self._running):
                running.stop()
            self._running.clear()
        finally:
            for number, action in before:
                signal.signal(number, action)
