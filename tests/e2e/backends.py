"""What stands behind the proxy: a real nginx, endpoints that run a script for each connection, and endpoints that the
test itself plays.
"""
from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from e2e.program import free_port
from e2e.waiting import PATIENCE, eventually
from e2e.wire import Cut, Wire, refused

_NGINX = """
daemon off; pid nginx.pid; error_log error.log warn; worker_processes 1; {user}
events {{ worker_connections 8192; }}
http {{
    access_log off; default_type text/plain; sendfile on; tcp_nopush on; gzip off; client_max_body_size 0;
    keepalive_requests 100000000; keepalive_timeout 600s; keepalive_time 24h; server_tokens off; lingering_timeout 1s;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    map $http_upgrade $upgrading {{ default upgrade; '' close; }}
{servers}
}}
"""
_SERVER = """    server {{ listen 127.0.0.1:{port} backlog=8192; root files;
        add_header X-Connection "$connection:$connection_requests"; add_header X-Server "{name}";
        location / {{ return 200 "{name}\\n"; }}
        location /files/ {{ alias files/; }}
        location /websocket {{ proxy_pass http://127.0.0.1:{behind}; proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $upgrading; }}
    }}
"""


class Nginx:
    """One nginx with several servers; each answers its own name, and which connection it was asked on (`X-Connection`).

    `/files/NAME` are files (see `file`); `/websocket` is passed on to `behind`.
    """

    def __init__(self, folder: Path, names: Sequence[str], more: str = "", ports: Mapping[str, int] | None = None) -> None:
        """`more` is the text of further servers, `ports` are theirs."""
        program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        assert program, "the end-to-end tests need nginx (Debian: apt-get install nginx)"
        self.folder = folder
        self.behind = free_port()
        self.ports = {name: free_port() for name in names}
        self._files = folder / "files"
        self._files.mkdir(parents=True)
        servers = "".join(_SERVER.format(name=name, port=port, behind=self.behind)
                          for name, port in self.ports.items()) + more
        self.ports |= ports or {}
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(_NGINX.format(user=user, servers=servers))
        with (folder / "stderr.txt").open("wb") as err:
            self.process = subprocess.Popen([program, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"],
                                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err)
        eventually(self._up, "nginx listens")

    def _up(self) -> bool:
        assert self.process.poll() is None, (self.folder / "stderr.txt").read_text()
        return not any(refused(port) for port in self.ports.values())

    def __getitem__(self, name: str) -> int:
        return self.ports[name]

    def file(self, name: str, size: int) -> str:
        """The path at which a file of that size is served; it has holes, so it takes no room."""
        with (self._files / name).open("wb") as file:
            file.truncate(size)
        return f"/files/{name}"

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def listening_socket(port: int = 0, backlog: int = 4096) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port or free_port()))
    sock.listen(backlog)
    return sock


class Stage:
    """An endpoint that the test plays itself, connection by connection."""

    def __init__(self, port: int = 0, small: bool = False) -> None:
        self._sock = listening_socket(port)
        if small:  # inherited by what is accepted
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        self.port: int = self._sock.getsockname()[1]
        self._wires: list[Wire] = []

    def accept(self, seconds: float = PATIENCE) -> Wire:
        self._sock.settimeout(seconds)
        sock, _ = self._sock.accept()
        wire = Wire(sock)
        self._wires.append(wire)
        return wire

    def untouched(self, seconds: float = 0.05) -> bool:
        """Whether nobody connects for that time."""
        try:
            self.accept(seconds)
        except TimeoutError:
            return True
        return False

    def stop(self) -> None:
        self._sock.close()
        for wire in self._wires:
            wire.close()


class Actor:
    """An endpoint that runs `script` for each connection, each in a thread of its own.

    A script ends when it wants to; the connection is closed behind it. A peer that goes away ends it too.
    """

    def __init__(self, script: Callable[[Wire], None], port: int = 0) -> None:
        self._script = script
        self._sock = listening_socket(port)
        self.port: int = self._sock.getsockname()[1]
        self.connections = 0
        self._faults: list[BaseException] = []
        self._wires: set[Wire] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._play, args=(Wire(sock, 60.0),), daemon=True).start()

    def _play(self, wire: Wire) -> None:
        with self._lock:
            self._wires.add(wire)
        try:
            self._script(wire)
        except (OSError, Cut):
            pass
        except BaseException as fault:
            self._faults.append(fault)
        finally:
            with self._lock:
                self._wires.discard(wire)
            wire.close()

    def stop(self) -> None:
        """No new connections; those that are there are closed."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join(PATIENCE)
        with self._lock:
            wires = list(self._wires)
        for wire in wires:
            with suppress(OSError):
                wire.sock.shutdown(socket.SHUT_RDWR)
        if self._faults:
            raise self._faults[0]


def answering(name: str) -> Callable[[Wire], None]:
    """A script: answers every request with `name`, and its own view of the request line in `X-Line`."""
    def script(wire: Wire) -> None:
        while True:
            request = wire.request()
            wire.answer(name.encode(), "200 OK", f"X-Line: {request.start}")
    return script


def echoing(wire: Wire) -> None:
    """A script: sends back what comes, byte for byte, and FIN behind FIN."""
    while wire.more():
        data, wire.buffer = wire.buffer, b""
        wire.send(data)
    wire.half_close()


class BlackHole:
    """A listener whose queue is full, so that nobody gets an answer to a SYN: a dial to it only ever times out."""

    def __init__(self) -> None:
        self._sock = listening_socket(backlog=0)
        self.port: int = self._sock.getsockname()[1]
        self._inside: list[socket.socket] = []
        while self._enter():
            assert len(self._inside) < 64, "the queue never fills"

    def _enter(self) -> bool:
        sock = socket.socket()
        sock.settimeout(0.1)
        self._inside.append(sock)
        try:
            sock.connect(("127.0.0.1", self.port))
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        for sock in (self._sock, *self._inside):
            sock.close()


class StartActor(Protocol):
    """The fixture `actor`."""

    def __call__(self, script: Callable[[Wire], None], port: int = 0) -> Actor: ...


class StartStage(Protocol):
    """The fixture `stage`."""

    def __call__(self, port: int = 0, small: bool = False) -> Stage: ...
