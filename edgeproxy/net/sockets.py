"""Raw sockets: those that listen, the options of those that dial, addresses as text.

Rules: every socket here is non-blocking. What accepted sockets need (TCP_NODELAY, keepalive) is set on the listening
socket, because Linux hands it on to them and a connection then costs no system call for it. What goes wrong at a bind
becomes one `BindError` that names the place and the remedy.
"""
from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from edgeproxy.config.model import Bind

BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn
KEEPALIVE = 60  # seconds of silence before the first probe
PROBE_EVERY, PROBES = 20, 3  # so a peer that has vanished is noticed after two minutes
UNIX_MODE = 0o660
_SO_ATTACH_FILTER = 26

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with time 0: close() sends RST and drops what was not sent yet
_KEEPALIVE_OPTIONS = ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                      (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE),
                      (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY),
                      (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES))


class BindError(Exception):
    """An address could not be listened on. The text says which, why, and what to do."""


# ---- listening

class _UnixListener(socket.socket):
    """A listening unix socket that takes its file away when the process that made it closes it."""

    __slots__ = ("_path", "_identity")

    _path: str
    _identity: tuple[int, int, int]

    def own(self, path: str) -> None:
        self._path = path
        self._identity = (os.getpid(), *_identity(path))

    def close(self) -> None:
        if self.fileno() >= 0 and hasattr(self, "_identity"):
            try:
                # Not the file of a program that has taken the place since, and not a parent's when a child ends.
                if (os.getpid(), *_identity(self._path)) == self._identity:
                    os.unlink(self._path)
            except OSError:
                pass
        super().close()


def listen(bind: Bind, backlog: int = BACKLOG, mode: int = UNIX_MODE) -> list[socket.socket]:
    """The listening sockets for one address, at present always one; `mode`: of the file of a unix socket. Raises
    BindError."""
    if bind.path:
        return [_listen_unix(bind, backlog, mode)]
    if bind.host:
        family, address = _numeric(bind)
        return [_listen_tcp(bind, family, address, backlog)]
    if socket.has_ipv6:
        try:
            return [_listen_tcp(bind, socket.AF_INET6, ("::", bind.port, 0, 0), backlog, dual=True)]
        except BindError as error:
            # IPv6 is compiled out, or switched off by sysctl: then IPv4 is every address there is.
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
    return [_listen_tcp(bind, socket.AF_INET, ("0.0.0.0", bind.port), backlog)]


def is_local(host: str) -> bool:
    """Whether the IP address is one of this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0))
    except OSError:
        return False
    return True


def close_listening(sock: socket.socket) -> None:
    """Close a socket that `listen` gave; the file of a unix socket goes with it."""
    sock.close()


def refuse_new(sock: socket.socket) -> None:
    """Let nobody new into the queue of a listening socket that is about to be closed.

    Between the last `accept` and `close` a handshake may end, and that client would be reset. So the kernel drops SYNs
    first, by a classic BPF filter (it sees the TCP header): their clients come again after a second, to a closed port
    or to who has taken it over. Best effort: a handshake that is half done, or where filters are not allowed, is lost.
    """
    if sock.family == socket.AF_UNIX:
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in (
        (0x30, 0, 0, 13),         # load the byte with the flags
        (0x45, 0, 1, 0x02),       # SYN?
        (0x06, 0, 0, 0),          # then drop it
        (0x06, 0, 0, 0xFFFFFFFF),  # else let it pass
    )))
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 4, ctypes.addressof(code)))


def _numeric(bind: Bind) -> tuple[int, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM,
                                   flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE)
    except OSError as error:
        raise BindError(f"{bind}: {bind.host!r} is not an IP address of this machine; write an IPv4 or IPv6 address, "
                        f"or \":{bind.port}\" for every address") from error
    return found[0][0], found[0][4]


def _listen_tcp(bind: Bind, family: int, address: tuple[Any, ...], backlog: int, dual: bool = False) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise BindError(_bind_fault(bind, error)) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `[::]:80` next to `0.0.0.0:80` must be possible, so only ":port" takes both families.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keepalive(sock)
        sock.bind(address)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise BindError(_bind_fault(bind, error)) from error
    return sock


def _listen_unix(bind: Bind, backlog: int, mode: int) -> socket.socket:
    path = bind.path
    sock = _UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear_stale(bind)
        os.fchmod(sock.fileno(), mode)  # bind() gives the file this less the umask: at no moment too open
        sock.bind(path)
        sock.own(path)
        os.chmod(path, mode)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise BindError(_bind_fault(bind, error)) from error
    except BindError:
        sock.close()
        raise
    return sock


def _clear_stale(bind: Bind) -> None:
    """Remove the socket file that a program left when it was killed; never one that somebody listens on."""
    try:
        mode = os.stat(bind.path, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BindError(f"{bind}: the path exists and is not a socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(bind.path)
    if code == errno.ECONNREFUSED:
        os.unlink(bind.path)
    elif code != errno.ENOENT:
        raise BindError(_bind_fault(bind, OSError(errno.EADDRINUSE if code in (0, errno.EAGAIN) else code, "")))


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path, follow_symlinks=False)
    return found.st_dev, found.st_ino


def _bind_fault(bind: Bind, error: OSError) -> str:
    code = error.errno
    if code in (errno.EACCES, errno.EPERM):
        if bind.path:
            return f"{bind}: permission denied: the directory must be writable for the user edgeproxy runs as"
        if 0 < bind.port < 1024:
            return f"{bind}: permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE"
        return f"{bind}: permission denied"
    if code == errno.EADDRINUSE:
        if bind.path:
            return f"{bind}: already in use: another program listens on this socket; stop it or choose another path"
        return (f"{bind}: already in use: another program listens there (`ss -ltnp 'sport = :{bind.port}'` shows "
                "which); stop it or choose another port")
    if code == errno.EADDRNOTAVAIL:
        return f"{bind}: address not available: no interface of this machine has it (`ip addr` lists them)"
    if code == errno.EAFNOSUPPORT:
        return f"{bind}: this machine has no {'IPv6' if ':' in bind.host else 'such address family'}"
    if bind.path and code in (errno.ENOENT, errno.ENOTDIR):
        return f"{bind}: the directory does not exist; create it first"
    if code in (errno.EMFILE, errno.ENFILE):
        return f"{bind}: no file descriptor left; raise the limit (`ulimit -n`, LimitNOFILE=)"
    return f"{bind}: {error.strerror or error}"


# ---- options and addresses

def nodelay(sock: socket.socket) -> None:
    """Send small pieces at once. A unix socket always does."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def keepalive(sock: socket.socket) -> None:
    """Notice a peer that has vanished: probes after KEEPALIVE seconds of silence. Nothing on a unix socket."""
    if sock.family != socket.AF_UNIX:
        for level, option, value in _KEEPALIVE_OPTIONS:
            sock.setsockopt(level, option, value)


close: Callable[[socket.socket], None] = socket.SocketType.close
"""As `sock.close()`, without the bookkeeping of file objects made from the socket, of which there are none."""


def reset(sock: socket.socket) -> None:
    """Close with RST: the peer sees that this was no orderly end. On a unix socket a plain close."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    except OSError:
        pass
    close(sock)


def peer_name(address: Any) -> str:
    """A client's address as it is logged, hashed and forwarded: no port, IPv4 in its own form, `unix:` for a unix peer.

    `address` is what `accept` or `getpeername` gave.
    """
    if not isinstance(address, tuple):
        return "unix:"
    host: str = address[0]
    return host[7:] if host.startswith("::ffff:") and "." in host else host
