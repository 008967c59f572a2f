"""The command line's side of the admin server: where a running proxy is asked, and the asking.

The default socket is found by the names of the configuration files: its folder depends on who runs the proxy, its name
is a hash of their absolute paths. Rules: what goes wrong is an `OSError` with one line for the user.
"""
from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlencode

from edgeproxy.config.model import Bind

Json = dict[str, Any]

PATIENCE = 15.0
SYSTEM = "/run/edgeproxy"


class Unanswered(OSError):
    """No proxy answers, or it refuses; the text is a line for the user."""


# ---- where

def socket_of(paths: Sequence[str]) -> str:
    """Where a proxy that this user starts now with these files listens."""
    return os.path.join(_folders()[0], socket_name(paths))


def unusable(bind: Bind) -> str | None:
    """Why a proxy of this user could not listen there, in the words that a start has for it; None: nothing against it.
    Nothing is made, and whether another listens there is not asked: it may be the proxy that is to reload."""
    folder = os.path.dirname(bind.path)
    if not bind.path:
        return None
    if not os.path.isdir(folder or "."):
        return "the directory does not exist; create it first"
    if os.path.lexists(bind.path) and not stat.S_ISSOCK(os.lstat(bind.path).st_mode):
        return "the path exists and is not a socket; remove it or choose another path"
    if not os.access(folder or ".", os.W_OK | os.X_OK):
        return "permission denied: the directory must be writable for the user edgeproxy runs as"
    return None


def socket_name(paths: Sequence[str]) -> str:
    whole = "\0".join(sorted(map(os.path.abspath, paths)))
    return hashlib.sha256(os.fsencode(whole)).hexdigest()[:16] + ".sock"


def _folders() -> list[str]:
    """Where a proxy of this user may have its socket: the one of its environment first. A service has another
    environment than the shell that asks for it, so who asks looks into all."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    temporary = os.path.join(tempfile.gettempdir(), f"edgeproxy-{os.geteuid()}")
    root = [SYSTEM] if os.geteuid() == 0 else []
    some = [given, os.path.join(own, "edgeproxy") if own else "", *root, temporary, SYSTEM]
    return list(dict.fromkeys(folder for folder in some if os.path.isabs(folder)))


def _ours(path: str) -> bool:
    """Whether a socket is of this user's or the system's making: in a folder for all, others may have put it there."""
    try:
        folder = os.stat(os.path.dirname(path), follow_symlinks=False)
    except PermissionError:
        return True  # to be told
    except OSError:
        return False
    if folder.st_mode & stat.S_IWOTH or stat.S_ISLNK(folder.st_mode):
        return False
    return not path.startswith(tempfile.gettempdir() + "/") or folder.st_uid in (os.geteuid(), 0)


def find(paths: Sequence[str], configured: Callable[[], Bind | None]) -> Remote:
    """The proxy that runs with these files. `configured`: what they say of `admin`, asked if nobody is at the default
    place. Raises Unanswered."""
    name = socket_name(paths)
    places = [os.path.join(folder, name) for folder in _folders()]
    denied = ""
    for path in places:
        if not _ours(path):
            continue
        try:
            return Remote(Bind(path=path))
        except PermissionError:
            denied = denied or path
        except OSError:
            continue
    bind = configured()
    if bind is not None:
        places = [bind.path or str(bind)]
        try:
            return Remote(bind)
        except PermissionError:
            denied = places[0]
        except OSError:
            pass
    if denied:
        raise Unanswered(f"{denied}: permission denied: run as the user of the proxy or root")
    there = f"nothing answers at {places[0]}" if os.path.exists(places[0]) or not places[0].startswith("/") \
        else f"no {places[0]}"
    raise Unanswered(f"no edgeproxy is running with {' '.join(paths)} ({there})")


# ---- asking

class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


class Remote:
    """A proxy that has taken the connection. The constructor raises OSError."""

    def __init__(self, bind: Bind) -> None:
        self.place = bind.path or str(bind)
        self._connection = _UnixConnection(bind.path) if bind.path else HTTPConnection(bind.host, bind.port,
                                                                                     timeout=PATIENCE)
        try:
            self._connection.connect()
        except BaseException:
            self._connection.close()
            raise

    def get(self, path: str, query: Mapping[str, str | list[str]] | None = None) -> Json:
        """Raises Unanswered."""
        return self._ask("GET", f"{path}?{urlencode(query, doseq=True)}" if query else path, None)

    def post(self, path: str, body: Json) -> Json:
        """Raises Unanswered."""
        return self._ask("POST", path, json.dumps(body).encode())

    def _ask(self, method: str, target: str, body: bytes | None) -> Json:
        try:
            self._connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
            answer = self._connection.getresponse()
            found = json.loads(answer.read())
        except TimeoutError:
            raise Unanswered(f"the proxy at {self.place} does not answer within {PATIENCE:g} s") from None
        except (OSError, HTTPException, ValueError) as error:
            raise Unanswered(f"{self.place} does not answer as an edgeproxy does: {error}") from None
        finally:
            self._connection.close()
        if not isinstance(found, dict):
            raise Unanswered(f"{self.place} does not answer as an edgeproxy does")
        if answer.status >= 400:
            raise Unanswered(str(found.get("detail") or f"the proxy answers {answer.status}"))
        return found
