"""/etc/hosts and /etc/resolv.conf: what they say, and that a change of them is seen whatever way it is made."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeproxy.config.model import Nameserver
from edgeproxy.upstream.hosts import HostsFile, ResolvConf, ResolvConfFile, TextFile, plain_address, read_resolv_conf

HOSTS = """\
127.0.0.1\tlocalhost
# 10.0.0.1 commented
10.0.0.1  db.internal db   # 10.0.0.9 web
10.0.0.2 db.internal
2001:DB8:0:0::2 db.internal
not-an-address db.internal
10.0.0.2 db.internal Upper.Example.
10.0.0.3 mydb.internal db.internal.example
10.0.0.300 db.internal
10.0.0.4"""


@pytest.fixture
def hosts(tmp_path: Path) -> HostsFile:
    (tmp_path / "hosts").write_text(HOSTS)
    return HostsFile(str(tmp_path / "hosts"))


@pytest.mark.parametrize(("name", "found"), [
    ("db.internal", ("10.0.0.1", "10.0.0.2", "2001:db8::2")),
    ("DB.Internal.", ("10.0.0.1", "10.0.0.2", "2001:db8::2")),
    ("db", ("10.0.0.1",)),
    ("upper.example", ("10.0.0.2",)),
    ("mydb.internal", ("10.0.0.3",)),
    ("internal", ()),
    ("commented", ()),
    ("web", ()),
    ("10.0.0.1", ()),
    ("", ()),
    (".", ()),
    ("localhost", ("127.0.0.1",)),
    ("api.localhost", ("127.0.0.1", "::1")),
    ("API.LocalHost.", ("127.0.0.1", "::1")),
    ("notlocalhost", ()),
])
def test_hosts_file(hosts: HostsFile, name: str, found: tuple[str, ...]) -> None:
    assert hosts.addresses(name) == found


def test_localhost_without_a_file(tmp_path: Path) -> None:
    hosts = HostsFile(str(tmp_path / "none"))
    assert hosts.addresses("localhost") == ("127.0.0.1", "::1")
    assert hosts.addresses("db") == ()


def test_a_changed_hosts_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hosts = HostsFile(str(path))
    assert hosts.addresses("db") == ()
    path.write_text("10.0.0.1 db\n")
    assert hosts.addresses("db") == ("10.0.0.1",)
    path.write_text("10.0.0.2 db\n")  # the same size, within one step of the file system's clock, the same inode
    assert hosts.addresses("db") == ("10.0.0.2",)
    path.unlink()
    assert hosts.addresses("db") == ()


def test_a_file_is_not_read_while_it_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    os.utime(path, (1e9, 1e9))
    file = TextFile(str(path))
    assert file.changed()
    assert not file.changed()
    assert file.text == "a"


def test_a_turned_symlink_is_seen(tmp_path: Path) -> None:
    for name, server in (("old", "10.0.0.1"), ("new", "10.0.0.2")):
        (tmp_path / name).write_text(f"nameserver {server}\n")
        os.utime(tmp_path / name, (1e9, 1e9))
    link = tmp_path / "resolv.conf"
    link.symlink_to("old")
    file = ResolvConfFile(str(link))
    assert file.now().nameservers == (Nameserver("10.0.0.1"),)
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(link)
    assert file.now().nameservers == (Nameserver("10.0.0.2"),)
    link.unlink()
    assert file.now().nameservers == (Nameserver("127.0.0.1"),)


def test_a_file_of_other_bytes_is_read_as_far_as_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_bytes(b"\xff\xfe\n10.0.0.1 db\n\0\n")
    assert HostsFile(str(tmp_path / "hosts")).addresses("db") == ("10.0.0.1",)
    assert HostsFile(str(tmp_path)).addresses("db") == ()  # a folder


def conf(text: str, hostname: str = "box") -> ResolvConf:
    return read_resolv_conf(text, hostname)


def test_resolv_conf_of_a_pod() -> None:
    assert conf("search dev.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n") \
        == ResolvConf((Nameserver("10.96.0.10"),), ("dev.svc.cluster.local", "svc.cluster.local", "cluster.local"), 5)


@pytest.mark.parametrize(("text", "servers"), [
    ("", ["127.0.0.1"]),
    ("nameserver 10.0.0.1\nnameserver 10.0.0.2", ["10.0.0.1", "10.0.0.2"]),
    ("nameserver\t2001:DB8::1\n", ["2001:db8::1"]),
    ("nameserver fe80::1%eth0\n", ["fe80::1%eth0"]),
    ("nameserver 10.0.0.1%eth0\nnameserver fe80::1%\n", ["127.0.0.1"]),
    ("# nameserver 10.0.0.1\n; nameserver 10.0.0.2\n", ["127.0.0.1"]),
    ("nameserver dns.example\nnameserver\nnameserver 10.0.0.1 # a comment\n", ["10.0.0.1"]),
    ("".join(f"nameserver 10.0.0.{n}\n" for n in range(1, 6)), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
    ("nonsense\nnameserver 10.0.0.1\n", ["10.0.0.1"]),
])
def test_nameservers(text: str, servers: list[str]) -> None:
    assert conf(text).nameservers == tuple(Nameserver(server) for server in servers)


@pytest.mark.parametrize(("text", "hostname", "search"), [
    ("", "box", ()),
    ("", "box.corp.example", ("corp.example",)),
    ("search a.example b.example.", "box.corp.example", ("a.example", "b.example")),
    ("search a.example\ndomain b.example", "box", ("b.example",)),
    ("domain b.example c.example\n", "box", ("b.example",)),
    ("search .\n", "box.corp.example", ()),
])
def test_search_list(text: str, hostname: str, search: tuple[str, ...]) -> None:
    assert conf(text, hostname).search == search


@pytest.mark.parametrize(("text", "ndots", "timeout", "attempts"), [
    ("", 1, None, 2),
    ("options ndots:5 timeout:1 attempts:3 rotate edns0", 5, 1, 3),
    ("options ndots:99 timeout:99 attempts:99", 15, 30, 5),
    ("options ndots:0 timeout:0 attempts:0", 0, 1, 1),
    ("options ndots:x timeout: attempts:-1", 1, None, 2),
    ("options ndots:2\noptions timeout:3", 2, 3, 2),
])
def test_options(text: str, ndots: int, timeout: float | None, attempts: int) -> None:
    read = conf(text)
    assert (read.ndots, read.timeout, read.attempts) == (ndots, timeout, attempts)


@pytest.mark.parametrize(("name", "ndots", "candidates"), [
    ("web", 1, ["web.a.example", "web.b", "web"]),
    ("web.", 1, ["web"]),
    ("web.x", 1, ["web.x", "web.x.a.example", "web.x.b"]),
    ("web.x.", 5, ["web.x"]),
    ("web.dev", 5, ["web.dev.a.example", "web.dev.b", "web.dev"]),
    ("a.b.c.d.e.f", 5, ["a.b.c.d.e.f", "a.b.c.d.e.f.a.example", "a.b.c.d.e.f.b"]),
    ("web", 0, ["web", "web.a.example", "web.b"]),
])
def test_candidates(name: str, ndots: int, candidates: list[str]) -> None:
    assert ResolvConf(search=("a.example", "b"), ndots=ndots).candidates(name) == tuple(candidates)


@pytest.mark.parametrize(("text", "plain"), [
    ("10.0.0.1", "10.0.0.1"), ("2001:DB8::0:1", "2001:db8::1"), ("010.0.0.1", ""), ("10.0.1", ""), ("::1%lo", ""),
    ("", ""), ("a\0b", ""), ("1.2.3.4\n", ""),
])
def test_plain_address(text: str, plain: str) -> None:
    assert plain_address(text) == plain
