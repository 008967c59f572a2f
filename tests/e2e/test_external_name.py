"""A service that is a name elsewhere: its alias moves, Host and SNI are the name, and the system's files have a say.

The files of /etc belong to the machine: tests that need their own give them to the proxy alone, in a mount namespace.
"""
from __future__ import annotations

import ctypes
import os
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from dnspeers import Knot, ScriptedDns, addresses, alias, nodata
from e2e.certs import Authority
from e2e.pods import QUICK, Pods, Visitors, named
from e2e.program import Edge, StartEdge, free_port
from e2e.waiting import eventually
from e2e.wire import Response, ask

NAME = "ext.pods.test"
SLACK = 0.4


@pytest.fixture
def place(stack: ExitStack) -> Callable[..., Pods]:
    """Opens pods."""
    def opened(port: int = 0, tls: ssl.SSLContext | None = None) -> Pods:
        pods = Pods(port, tls)
        stack.callback(pods.close)
        return pods
    return opened


def _tls(authority: Authority, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = authority.server(name)
    context.load_cert_chain(pair.cert, pair.key)
    return context


def _knot(stack: ExitStack, folder: Path, lines: list[str]) -> Knot:
    knot = Knot(folder / "knot", "pods.test", lines)
    stack.callback(knot.stop)
    return knot


def _got(answer: Response) -> tuple[int, str, str | None]:
    return answer.status, answer.text, answer.get("x-host")


# ---- the alias moves

def test_the_target_of_the_alias_moves(
        edge: StartEdge, place: Callable[..., Pods], stack: ExitStack, tmp_path: Path) -> None:
    pods = place()
    pods.start(1, 2)
    hosts = [f"a 600 A {pods.at(1)}", f"b 600 A {pods.at(2)}"]
    knot = _knot(stack, tmp_path, [*hosts, "ext 1 CNAME a"])
    port, relay = free_port(), free_port()
    proxy = edge(named(port, relay, f"external_name: '{NAME}:{pods.port}'", knot, "timeout: 300ms"))
    eventually(lambda: ask(port).status == 200, "the name is resolved")
    with Visitors(port) as web, Visitors(relay, clients=1, new_connections=True) as relayed:
        web.until_only(pods.at(1))
        knot.change([*hosts, "ext 1 CNAME b"])
        changed = time.monotonic()
        web.until_only(pods.at(2))
        relayed.until_only(pods.at(2))
        for visitors in (web, relayed):
            assert visitors.first_of(pods.at(2)) - changed < 2.0 + SLACK, "the least TTL of the chain, and a second"
            assert visitors.last_of(pods.at(1)) - changed < 2.0 + SLACK
            assert not visitors.failed
    assert proxy.errors.count("(1 new, 1 gone)") == 1
    assert _got(ask(port, host="client.invalid")) == (200, pods.at(2), f"{NAME}:{pods.port}")


# ---- Host, SNI and ports

def test_https_asks_for_the_name(edge: StartEdge, place: Callable[..., Pods], stack: ExitStack, tmp_path: Path,
                                 authority: Authority) -> None:
    """The certificate is that of the name, wherever the alias leads."""
    pods = place(tls=_tls(authority, NAME))
    pods.start(1, 2)
    hosts = [f"a 600 A {pods.at(1)}", f"b 600 A {pods.at(2)}"]
    knot = _knot(stack, tmp_path, [*hosts, "ext 1 CNAME a"])
    port = free_port()
    edge(named(port, 0, f"external_name: '{NAME}.:{pods.port}', protocol: https, "
                                  f"tls: {{ca: '{authority.pem}'}}", knot))
    answer = ask(port)
    assert (answer.status, answer.text) == (200, pods.at(1)), answer.text
    assert (answer.get("x-host"), answer.get("x-sni")) == (f"{NAME}:{pods.port}", NAME)
    knot.change([*hosts, "ext 1 CNAME b"])
    eventually(lambda: ask(port).text == pods.at(2), "the alias moves")
    assert ask(port).get("x-sni") == NAME


def test_https_with_the_certificate_of_another_name(edge: StartEdge, place: Callable[..., Pods], authority: Authority,
                                                    scripted: ScriptedDns) -> None:
    pods = place(tls=_tls(authority, "a.pods.test"))
    pods.start(1)
    scripted.says(NAME, "A", alias("a.pods.test"))
    scripted.says("a.pods.test", "A", addresses(pods.at(1)))
    port = free_port()
    edge(named(port, 0, f"external_name: '{NAME}.:{pods.port}', protocol: https, family: v4, "
                                  f"tls: {{ca: '{authority.pem}'}}", scripted))
    assert ask(port).status == 502, "the target's own name counts for nothing: who answers DNS chooses it"


@pytest.mark.parametrize("host", ["external", "pass"])
def test_whose_host_is_sent(edge: StartEdge, place: Callable[..., Pods], scripted: ScriptedDns, host: str) -> None:
    pods = place()
    pods.start(1)
    scripted.says(NAME, "A", addresses(pods.at(1)))
    scripted.says(NAME, "AAAA", nodata())
    port = free_port()
    edge(named(port, 0, f"external_name: '{NAME.upper()}:{pods.port}', host: {host}", scripted))
    wanted = "client.invalid" if host == "pass" else f"{NAME}:{pods.port}"
    assert _got(ask(port, host="client.invalid")) == (200, pods.at(1), wanted)


@pytest.mark.parametrize("protocol", ["http", "https"])
def test_the_port_follows_from_the_protocol(edge: StartEdge, place: Callable[..., Pods], authority: Authority,
                                            scripted: ScriptedDns, protocol: str) -> None:
    pods = place(443, _tls(authority, NAME)) if protocol == "https" else place(80)
    pods.start(1)
    scripted.says(NAME, "A", addresses(pods.at(1)))
    scripted.says(NAME, "AAAA", nodata())
    port = free_port()
    edge(named(port, 0, f"external_name: {NAME}, protocol: {protocol}"
                                  + f", tls: {{ca: '{authority.pem}'}}" * (protocol == "https"), scripted))
    assert _got(ask(port)) == (200, pods.at(1), NAME), "without the port, which is the usual one"


def test_an_address_is_not_asked_for(edge: StartEdge, place: Callable[..., Pods], scripted: ScriptedDns) -> None:
    pods = place()
    pods.start(1)
    port = free_port()
    edge(named(port, 0, f"external_name: '{pods.at(1)}:{pods.port}'", scripted))
    assert _got(ask(port)) == (200, pods.at(1), f"{pods.at(1)}:{pods.port}")
    assert not scripted.asked


# ---- the files of the system

_NEW_MOUNTS, _BIND, _PRIVATE_ALL = 0x00020000, 4096, (1 << 18) | 16384


class OwnEtc:
    """Files that the proxy, and nobody else, finds as /etc/hosts and /etc/resolv.conf."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.write("hosts", "127.0.0.1 localhost\n")
        self.write("resolv.conf", "nameserver 127.0.0.1\n")

    def write(self, name: str, text: str) -> None:
        """Into the same file: another one in its place would not be the one that is mounted."""
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, text.encode())
            os.ftruncate(descriptor, len(text))
        finally:
            os.close(descriptor)

    def enter(self) -> None:
        """In the process that is to have them."""
        steps: list[tuple[bytes | None, bytes, int]] = [(None, b"/", _PRIVATE_ALL)]
        steps += [(str(self._folder / name).encode(), f"/etc/{name}".encode(), _BIND)
                  for name in ("hosts", "resolv.conf")]
        if self._libc.unshare(_NEW_MOUNTS) or any(self._libc.mount(what, where, None, flags, None)
                                                  for what, where, flags in steps):
            raise OSError(ctypes.get_errno(), "no mount namespace")

    def possible(self) -> bool:
        child = os.fork()
        if child == 0:
            try:
                self.enter()
                os._exit(0)
            except BaseException:
                os._exit(1)
        return os.waitpid(child, 0)[1] == 0


@pytest.fixture
def etc(tmp_path: Path) -> OwnEtc:
    own = OwnEtc(tmp_path / "etc")
    if not own.possible():
        pytest.skip("needs the right to a mount namespace of its own")
    return own


own_etc = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


def _start(edge: StartEdge, etc: OwnEtc, port: int, service: str, resolver: str = f"{{{QUICK}}}") -> Edge:
    """With the nameservers of resolv.conf, unless `resolver` says."""
    return edge(f"listeners: {{web: {{bind: '127.0.0.1:{port}', protocol: http}}}}\nroutes: [{{service: app}}]\n"
                f"services: {{app: {{{service}}}}}\nresolver: {resolver}\n", None, etc.enter)


@own_etc
@pytest.mark.parametrize("kind", ["external_name", "endpoint"])
def test_the_hosts_file_goes_first_and_is_followed(
        edge: StartEdge, place: Callable[..., Pods], scripted: ScriptedDns, etc: OwnEtc, kind: str) -> None:
    pods = place()
    pods.start(1, 2, 3)
    scripted.says(NAME, "A", addresses(pods.at(3), ttl=1))
    scripted.says(NAME, "AAAA", nodata("pods.test", 1, 1))
    etc.write("hosts", f"127.0.0.1 localhost\n{pods.at(1)} other {NAME.upper()} # and a remark\n")
    port = free_port()
    service = f"external_name: '{NAME}:{pods.port}'" if kind == "external_name" else f"endpoints: ['{NAME}:{pods.port}']"
    proxy = _start(edge, etc, port, service, f"{{nameservers: ['{scripted}'], {QUICK}}}")
    assert ask(port).text == pods.at(1)
    assert not scripted.asked
    etc.write("hosts", f"127.0.0.1 localhost\n{pods.at(2)} {NAME}\n")
    eventually(lambda: ask(port).text == pods.at(2), "the file is followed", 8)
    etc.write("hosts", "127.0.0.1 localhost\n")
    eventually(lambda: ask(port).text == pods.at(3), "DNS is asked again", 8)
    assert proxy.errors.count(f"name {NAME} is ") == 3


@own_etc
def test_the_hosts_file_does_not_speak_for_dns(
        edge: StartEdge, place: Callable[..., Pods], scripted: ScriptedDns, etc: OwnEtc) -> None:
    """`dns:` is what DNS says."""
    pods = place()
    pods.start(1, 2)
    scripted.says(NAME, "A", addresses(pods.at(1)))
    scripted.says(NAME, "AAAA", nodata())
    etc.write("hosts", f"{pods.at(2)} {NAME}\n")
    port = free_port()
    _start(edge, etc, port, f"dns: '{NAME}:{pods.port}'", f"{{nameservers: ['{scripted}'], {QUICK}}}")
    assert ask(port).text == pods.at(1)


@own_etc
def test_resolv_conf_search_ndots_and_its_change(
        edge: StartEdge, place: Callable[..., Pods], stack: ExitStack, etc: OwnEtc) -> None:
    """Nameservers of resolv.conf are asked at port 53, each at an address of its own."""
    pods = place()
    pods.start(1, 2, 3, 4)
    try:
        first = stack.enter_context(ScriptedDns(pods.at(100), 53))
        second = stack.enter_context(ScriptedDns(pods.at(101), 53))
    except (AssertionError, OSError):
        pytest.skip("port 53 needs more rights")
    for server, name, number in ((first, "web.ns.cluster.test", 1), (first, "web.other.test", 2),
                                 (first, "web.ns", 4), (second, "web.other.test", 3)):
        server.says(name, "A", addresses(pods.at(number), ttl=1))
        server.says(name, "AAAA", nodata(name, 1, 1))
    etc.write("resolv.conf", f"nameserver {pods.at(100)}\nsearch svc.test cluster.test\noptions ndots:2 timeout:1\n")
    port = free_port()
    proxy = _start(edge, etc, port, f"dns: 'web.ns:{pods.port}'")
    assert ask(port).text == pods.at(1), "with fewer dots than ndots the search list goes first"
    asked = [each.name for each in first.asked if each.type == "A"]
    assert asked[:2] == ["web.ns.svc.test", "web.ns.cluster.test"]
    etc.write("resolv.conf", f"nameserver {pods.at(100)}\nsearch svc.test cluster.test\noptions ndots:1 timeout:1\n")
    eventually(lambda: ask(port).text == pods.at(4), "as it stands first")
    assert "stale" not in proxy.errors

    other = _start(edge, etc, second_port := free_port(), f"dns: 'web:{pods.port}'")
    assert ask(second_port).status == 503, "in neither domain"
    etc.write("resolv.conf", f"nameserver {pods.at(100)}\nsearch other.test\n")
    eventually(lambda: ask(second_port).text == pods.at(2), "another search list")
    etc.write("resolv.conf", f"nameserver {pods.at(101)}\nsearch other.test\n")
    eventually(lambda: ask(second_port).text == pods.at(3), "another nameserver")
    assert "stale" not in other.errors


@own_etc
def test_the_second_nameserver_of_resolv_conf(
        edge: StartEdge, place: Callable[..., Pods], stack: ExitStack, etc: OwnEtc) -> None:
    pods = place()
    pods.start(1)
    try:
        server = stack.enter_context(ScriptedDns(pods.at(101), 53))
    except (AssertionError, OSError):
        pytest.skip("port 53 needs more rights")
    server.says(NAME, "A", addresses(pods.at(1), ttl=1))
    server.says(NAME, "AAAA", nodata("pods.test", 1, 1))
    etc.write("resolv.conf", f"nameserver {pods.at(100)}\nnameserver {pods.at(101)}\noptions timeout:1\n")
    port = free_port()
    proxy = _start(edge, etc, port, f"external_name: '{NAME}:{pods.port}'")
    assert ask(port).text == pods.at(1), "nobody is at the first"
    assert "cannot" not in proxy.errors
