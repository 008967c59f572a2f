"""Who reads that it listens may send a signal at once: the handlers are there before the first line is printed."""
from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from e2e.program import command, environment, free_port, web
from e2e.wire import ask


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_the_first_line(tmp_path: Path, number: signal.Signals) -> None:
    for _ in range(5):
        port = free_port()
        file = tmp_path / "conf.yaml"
        file.write_text(web(port, 1) + "access_log: {format: 'off'}\n")
        with subprocess.Popen([*command(), "-c", str(file)], env=environment(), stdin=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                line = process.stderr.readline()
                process.send_signal(number)
                assert "listening on" in line
                if number in (signal.SIGHUP, signal.SIGUSR1):
                    assert ask(port).status == 502, "it is still there"
                    process.terminate()
                _, rest = process.communicate(timeout=5)
                assert process.returncode == 0, rest
                assert "Traceback" not in rest
            finally:
                process.kill()
