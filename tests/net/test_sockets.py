"""Listening sockets, what accepted ones inherit, what is said when a bind fails, addresses as text."""
from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeproxy.config.model import Bind
from edgeproxy.net import sockets
from edgeproxy.net.sockets import BindError, close_listening, keepalive, listen, nodelay, peer_name, reset

KEEPALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    things: list[socket.socket] = []
    yield things
    for thing in things:
        thing.close()


def accept_from(listener: socket.socket, opened: list[socket.socket]) -> tuple[socket.socket, object]:
    name = listener.getsockname()
    client = socket.socket(listener.family)
    opened.append(client)
    client.connect(name)
    accepted, address = listener.accept()
    opened.append(accepted)
    return accepted, address


def test_accepted_sockets_inherit_what_a_connection_needs(opened: list[socket.socket]) -> None:
    (listener,) = listen(Bind("127.0.0.1", 0))
    opened.append(listener)
    assert listener.getblocking() is False
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
    accepted, address = accept_from(listener, opened)
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert [accepted.getsockopt(level, option) for level, option, _ in KEEPALIVE] == [v for *_, v in KEEPALIVE]
    assert peer_name(address) == "127.0.0.1"


@needs_ipv6
def test_no_host_is_every_address_of_both_families(opened: list[socket.socket]) -> None:
    (listener,) = listen(Bind("", 0))
    opened.append(listener)
    port = listener.getsockname()[1]
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        client = socket.socket(family)
        opened.append(client)
        client.connect((host, port))
        accepted, address = listener.accept()
        opened.append(accepted)
        assert peer_name(address) == host
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


@needs_ipv6
def test_both_families_can_be_bound_one_by_one(opened: list[socket.socket]) -> None:
    opened += listen(Bind("0.0.0.0", 0))
    port = opened[0].getsockname()[1]
    opened += listen(Bind("::", port))
    assert opened[1].getsockname()[:2] == ("::", port)


def test_without_ipv6_no_host_is_every_ipv4_address(opened: list[socket.socket], monkeypatch) -> None:
    real = sockets.socket.socket

    def no_ipv6(family: int = -1, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(sockets.socket, "socket", no_ipv6)
    opened += listen(Bind("", 0))
    assert opened[0].family == socket.AF_INET


# ---- what can go wrong

def fault(bind: Bind) -> str:
    with pytest.raises(BindError) as caught:
        listen(bind)
    return str(caught.value)


def test_address_in_use(opened: list[socket.socket]) -> None:
    opened += listen(Bind("127.0.0.1", 0))
    port = opened[0].getsockname()[1]
    assert fault(Bind("127.0.0.1", port)) == (
        f"127.0.0.1:{port}: already in use: another program listens there (`ss -ltnp 'sport = :{port}'` shows which); "
        "stop it or choose another port")
    assert fault(Bind("", port)).startswith(f":{port}: already in use")


def test_address_of_another_machine() -> None:
    assert fault(Bind("192.0.2.1", 0)) == (
        "192.0.2.1:0: address not available: no interface of this machine has it (`ip addr` lists them)")


def test_a_name_is_no_address() -> None:
    assert "write an IPv4 or IPv6 address" in fault(Bind("localhost.invalid", 80))


@pytest.mark.parametrize(("bind", "code", "text"), [
    (Bind("", 80), errno.EACCES, ":80: permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE"),
    (Bind("::1", 8080), errno.EACCES, "[::1]:8080: permission denied"),
    (Bind("::1", 80), errno.EAFNOSUPPORT, "[::1]:80: this machine has no IPv6"),
    (Bind(path="/run/x"), errno.EACCES,
     "unix:/run/x: permission denied: the directory must be writable for the user edgeproxy runs as"),
    (Bind("", 80), errno.EMFILE, ":80: no file descriptor left; raise the limit (`ulimit -n`, LimitNOFILE=)"),
    (Bind("", 80), errno.ENOBUFS, ":80: No buffer space available"),
])
def test_every_fault_names_the_remedy(bind: Bind, code: int, text: str) -> None:
    assert sockets._bind_fault(bind, OSError(code, os.strerror(code))) == text


def test_a_failed_listen_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for bind in (Bind("192.0.2.1", 0), Bind(path=str(tmp_path / "none" / "sock")), Bind(path=str(tmp_path))):
        fault(bind)
    assert len(os.listdir("/proc/self/fd")) == before


# ---- unix sockets

def test_unix_socket_has_its_mode_whatever_the_umask(tmp_path: Path, opened: list[socket.socket]) -> None:
    for number, mask in enumerate((0o000, 0o022, 0o077)):
        path = tmp_path / f"sock{number}"
        old = os.umask(mask)
        try:
            opened += listen(Bind(path=str(path)))
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    _, address = accept_from(opened[0], opened)
    assert peer_name(address) == "unix:"


def test_unix_socket_goes_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    (listener,) = listen(Bind(path=str(path)))
    assert path.exists()
    close_listening(listener)
    assert not path.exists()
    close_listening(listener)


def test_unix_socket_of_a_successor_stays(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = tmp_path / "sock"
    (old,) = listen(Bind(path=str(path)))
    path.unlink()
    opened += listen(Bind(path=str(path)))
    close_listening(old)
    assert path.exists()


def test_a_child_does_not_take_the_file_away(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    (listener,) = listen(Bind(path=str(path)))
    child = os.fork()
    if child == 0:
        close_listening(listener)
        os._exit(0)
    os.waitpid(child, 0)
    assert path.exists()
    close_listening(listener)


def test_a_stale_file_is_replaced(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    opened += listen(Bind(path=str(path)))
    accept_from(opened[0], opened)


def test_a_file_somebody_listens_on_is_not(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = tmp_path / "sock"
    opened += listen(Bind(path=str(path)), backlog=0)
    for _ in range(3):  # and neither if its queue is full
        assert fault(Bind(path=str(path))) == (
            f"unix:{path}: already in use: another program listens on this socket; stop it or choose another path")
    assert path.exists()


def test_a_file_that_is_no_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    assert fault(Bind(path=str(path))) == (
        f"unix:{path}: the path exists and is not a socket; remove it or choose another path")
    assert path.read_text() == "data"


def test_a_missing_directory(tmp_path: Path) -> None:
    path = tmp_path / "none" / "sock"
    assert fault(Bind(path=str(path))) == f"unix:{path}: the directory does not exist; create it first"


# ---- options and names

def test_reset_is_seen_by_the_peer() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            nodelay(accepted)
            keepalive(accepted)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            reset(accepted)
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_options_on_a_unix_socket_do_nothing() -> None:
    a, b = socket.socketpair()
    with b:
        nodelay(a)
        keepalive(a)
        reset(a)
        assert b.recv(1) == b""


@pytest.mark.parametrize(("address", "name"), [
    (("10.1.2.3", 5), "10.1.2.3"),
    (("::ffff:10.1.2.3", 5, 0, 0), "10.1.2.3"),
    (("2001:db8::1", 5, 0, 0), "2001:db8::1"),
    (("::ffff:1:2", 5, 0, 0), "::ffff:1:2"),
    ("", "unix:"),
    (b"\0abstract", "unix:"),
])
def test_names_of_peers(address: object, name: str) -> None:
    assert peer_name(address) == name
