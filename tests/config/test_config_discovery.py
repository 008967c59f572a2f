"""Names, probes, affinity, resolver and admin: values, and the exact words when something is wrong."""
from __future__ import annotations

from pathlib import Path

import pytest

from edgeproxy.config.check import warnings
from edgeproxy.config.delta import delta
from edgeproxy.config.load import ConfigError, load, load_text, read_text
from edgeproxy.config.model import (
    Admin,
    Affinity,
    AffinityCookie,
    Balance,
    Bind,
    ClientIp,
    Config,
    DnsSource,
    EndpointAddress,
    ExternalName,
    GrpcProbe,
    Health,
    HttpProbe,
    Nameserver,
    Resolver,
    Service,
    StatusRange,
    TcpProbe,
)

WEB = 'listeners: {l: {bind: ":80", protocol: http}}\n'


def service(keys: str) -> Service:
    return load_text(f"{WEB}services:\n  s: {{{keys}}}\n", "c.yaml", env={"PORT": "8080", "WHO": "system"}).services["s"]


def told(keys: str, before: str = WEB) -> list[str]:
    """Problems in a service that begins at 3:7."""
    with pytest.raises(ConfigError) as error:
        load_text(f"{before}services:\n  s: {{{keys}}}\n", "c.yaml", env={})
    return [problem.headline().removeprefix("c.yaml:") for problem in error.value.problems]


def told_of(line: str) -> list[str]:
    """Problems in a line before everything else."""
    with pytest.raises(ConfigError) as error:
        load_text(f"{line}\n{WEB}", "c.yaml", env={})
    return [problem.headline().removeprefix("c.yaml:") for problem in error.value.problems]


def warned(text: str) -> list[str]:
    loaded = read_text(text, "c.yaml", env={})
    return [problem.headline().removeprefix("c.yaml:") for problem in warnings(loaded.config, loaded.places)]


# ---- values

@pytest.mark.parametrize(("text", "expected"), [
    ("'db.internal:5432'", EndpointAddress("db.internal", 5432)), ("'DB.Internal.:5432'", EndpointAddress("db.internal.", 5432)),
    ("tomcat:8080", EndpointAddress("tomcat", 8080)), ("'_x.y-z:1'", EndpointAddress("_x.y-z", 1)),
    ("10a.0.0.1:80", EndpointAddress("10a.0.0.1", 80)), ("'tomcat:${PORT}'", EndpointAddress("tomcat", 8080)),
    ("{address: 'a.b:80', weight: 2, backup: true}", EndpointAddress("a.b", 80, weight=2, backup=True)),
])
def test_endpoints_may_be_names(text: str, expected: EndpointAddress) -> None:
    assert service(f"endpoints: [{text}]").endpoints == (expected,)
    assert expected.named


def test_addresses_and_sockets_are_not_names() -> None:
    found = service("endpoints: ['10.0.0.1:80', '[::1]:80', 'unix:/run/a.sock', 'LocalHost:80']").endpoints
    assert [one.named for one in found] == [False] * 4
    assert found[3] == EndpointAddress("127.0.0.1", 80)


@pytest.mark.parametrize(("text", "expected"), [
    ("web.dev.svc.cluster.local:8080", DnsSource("web.dev.svc.cluster.local", 8080)),
    ("'Web.Example.COM.:80'", DnsSource("web.example.com.", 80)), ("'web:${PORT}'", DnsSource("web", 8080)),
    ("{name: 'web:80'}", DnsSource("web", 80)), ("{name: web, port: 80}", DnsSource("web", 80)),
    ("{name: 'web:80', port: 80, type: A}", DnsSource("web", 80)),
    ("{name: _ldap._tcp.example.com, type: SRV}", DnsSource("_ldap._tcp.example.com", None, "SRV")),
    ("{name: 'a:1', family: v6, refresh: 5s, on_empty: keep}", DnsSource("a", 1, "A", "v6", 5.0, "keep")),
])
def test_dns(text: str, expected: DnsSource) -> None:
    assert service(f"dns: {text}").dns == service(f"dns: [{text}]").dns == (expected,)


def test_dns_may_be_a_list() -> None:
    assert service("dns: ['a:80', 'a:81', {name: a, type: SRV}]").dns == (
        DnsSource("a", 80), DnsSource("a", 81), DnsSource("a", None, "SRV"))


@pytest.mark.parametrize(("text", "expected", "host", "written"), [
    ("www.baidu.com:443", ExternalName("www.baidu.com", 443), "www.baidu.com", "www.baidu.com:443"),
    ("WWW.Baidu.com.", ExternalName("www.baidu.com."), "www.baidu.com", "www.baidu.com."),
    ("'[0::1]:443'", ExternalName("::1", 443), "[::1]", "[::1]:443"), ("'[::1]'", ExternalName("::1"), "[::1]", "[::1]"),
    ("10.0.0.1", ExternalName("10.0.0.1"), "10.0.0.1", "10.0.0.1"),
    ("10.0.0.1:80", ExternalName("10.0.0.1", 80), "10.0.0.1", "10.0.0.1:80"),
    ("localhost:80", ExternalName("localhost", 80), "localhost", "localhost:80"),
])
def test_external_name(text: str, expected: ExternalName, host: str, written: str) -> None:
    found = service(f"external_name: {text}").external_name
    assert found == expected
    assert (found.host, str(found), found.is_address) == (host, written, expected.name in ("::1", "10.0.0.1"))


def test_what_is_said_of_names() -> None:
    found = service("external_name: a.b, host: pass, nameservers: ['10.0.0.1', '[::1]:5353'], family: v4, refresh: 1m, "
                    "on_empty: keep, drain: 0")
    assert found.nameservers == (Nameserver("10.0.0.1"), Nameserver("::1", 5353))
    assert (found.host, found.family, found.refresh, found.on_empty, found.drain) == ("pass", "v4", 60.0, "keep", 0.0)
    assert service("dns: 'a:1', nameservers: fd00::1").nameservers == (Nameserver("fd00::1"),)


@pytest.mark.parametrize(("text", "health"), [
    ("tcp: {}", Health(tcp=TcpProbe())), ("http: {}", Health(http=HttpProbe())),
    ("grpc: {service: a.B}, interval: 5s, timeout: 500ms, fall: 1, rise: 9, initial: down",
     Health(grpc=GrpcProbe("a.B"), interval=5.0, timeout=0.5, fall=1, rise=9, initial="down")),
    ("http: {path: '/h?a=1', method: HEAD, host: 'a.b:1', headers: {X-A: b}, status: [200, 301-302]}, tcp: null",
     Health(http=HttpProbe("/h?a=1", "HEAD", "a.b:1", (("X-A", "b"),), (StatusRange(200, 200), StatusRange(301, 302))))),
    ("http: {status: 204, body: 'ok'}", Health(http=HttpProbe(status=(StatusRange(204, 204),), body="ok"))),
])
def test_health(text: str, health: Health) -> None:
    found = service(f"protocol: h2c, panic: true, health: {{{text}}}")
    assert found.health == health and found.panic


@pytest.mark.parametrize(("text", "affinity"), [
    ("{client_ip: {}}", Affinity(client_ip=ClientIp(10800.0))), ("{client_ip: {timeout: 24h}}", Affinity(ClientIp(86400.0))),
    ("{cookie: {}}", Affinity(cookie=AffinityCookie("edge", 0.0, None))),
    ("{cookie: {name: __Host-x, ttl: 1h, secret: 0123456789abcdef}}",
     Affinity(cookie=AffinityCookie("__Host-x", 3600.0, "0123456789abcdef"))),
])
def test_affinity(text: str, affinity: Affinity) -> None:
    assert service(f"affinity: {text}").affinity == affinity


@pytest.mark.parametrize(("text", "prefix"), [("source-hash", 128), ("{source-hash: {}}", 128),
                                              ("{source-hash: {ipv6_prefix: 64}}", 64), ("{source-hash: {ipv6_prefix: 1}}", 1)])
def test_source_hash(text: str, prefix: int) -> None:
    assert service(f"balance: {text}").balance == Balance("source-hash", ipv6_prefix=prefix)


@pytest.mark.parametrize(("text", "resolver"), [
    ("{}", Resolver()), ("{nameservers: system}", Resolver()), ("{nameservers: '${WHO}', timeout: 1s}", Resolver(timeout=1.0)),
    ("{nameservers: 10.0.0.1, min_ttl: 5s, max_ttl: 5s}", Resolver((Nameserver("10.0.0.1"),), min_ttl=5.0, max_ttl=5.0)),
    ("{nameservers: ['127.0.0.1:5353', '::1', localhost]}",
     Resolver((Nameserver("127.0.0.1", 5353), Nameserver("::1"), Nameserver("127.0.0.1")))),
])
def test_resolver(text: str, resolver: Resolver) -> None:
    assert load_text(f"{WEB}resolver: {text}\n", env={"WHO": "system"}).resolver == resolver


@pytest.mark.parametrize(("text", "bind"), [
    ("unix:/run/a.sock", Bind(path="/run/a.sock")), ("127.0.0.1:9900", Bind("127.0.0.1", 9900)),
    ("127.1.2.3:1", Bind("127.1.2.3", 1)), ("'[::1]:9900'", Bind("::1", 9900)), ("localhost:0", Bind("127.0.0.1", 0)),
])
def test_admin(text: str, bind: Bind) -> None:
    assert load_text(f"{WEB}admin: {{bind: {text}}}\n").admin == Admin(bind)


def test_a_relative_socket_of_admin_is_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f'{WEB}admin: {{bind: "unix:a.sock"}}\n')
    assert load([tmp_path / "c.yaml"]).admin == Admin(Bind(path=f"{tmp_path}/a.sock"))


# ---- what will not do

LETTERS = "is not a name that DNS knows: letters, digits, - and _ between dots, at most 63 in a row and 253 in all"
NO_NAME = "is about names that are resolved, and this service has none"


@pytest.mark.parametrize(("keys", "problems"), [
    ("dns: web.example.com", ['3:12: which port? write "web.example.com:8080", for example, or port: 8080']),
    ("dns: ['a:1', {type: A, name: b}]", ['3:36: which port? write "b:8080", for example, or port: 8080']),
    ("dns: _ldap._tcp.a.b",
     ['3:12: which port? write "_ldap._tcp.a.b:8080", for example, or port: 8080; or type: SRV, whose records bring theirs']),
    ("dns: {name: '_a._tcp.b:389', type: SRV}", ["3:19: SRV records bring their ports with them; leave 389 out"]),
    ("dns: {name: _a._tcp.b, port: 389, type: SRV}", ["3:30: SRV records bring their ports with them; leave 389 out"]),
    ("dns: {name: 'a:80', port: 81}", ["3:27: the name says port 80; leave out one of the two"]),
    ("dns: {port: 80}", ['3:12: "name" is missing here']), ("dns: []", ["3:12: this list is empty; write a value or leave the key out"]),
    ("dns: {name: a, prot: 80}", ['3:22: unknown key "prot", did you mean "port"?']),
    ("dns: {name: a, type: SVR}", ['3:28: unknown value "SVR", did you mean "SRV"?']),
    ("dns: {name: a, port: 0}", ["3:28: this cannot be 0"]),
    ("dns: ['a:80', {name: A, port: 80}]", ['3:21: "a:80" is in the list already, in line 3']),
    ("dns: '10.0.0.1:80'", ['3:12: "10.0.0.1" is an address and needs no DNS; write it into endpoints']),
    ("dns: ['::1', '[::1]:80', '[::1]']", [
        f'3:{column}: "{said}" is an address and needs no DNS; write it into endpoints'
        for column, said in ((13, "::1"), (20, "[::1]"), (32, "[::1]"))]),
    ("dns: 'http://a.b/c'", ['3:12: a name to resolve is no URL; write "a.b"']),
    ("dns: 'a.b/c:80'", ['3:12: "a.b/c" is not a name that DNS knows; a path and a scheme are left out']),
    ("dns: 'a b:80'", [f'3:12: "a b" {LETTERS}']), ("dns: 'a..:80'", [f'3:12: "a.." {LETTERS}']),
    ("dns: '*.a.b:80'", [f'3:12: "*.a.b" {LETTERS}']), (f"dns: '{'a' * 64}.b:80'", [f'3:12: "{"a" * 60}…" {LETTERS}']),
    ("dns: 'bücher.de:80'", ['3:12: "bücher.de" is not ASCII; DNS knows it as "xn--bcher-kva.de"']),
    ("dns: '10.0.0:80'", ['3:12: "10.0.0" is neither a name nor an IP address']),
    ("dns: 'a:http'", ['3:12: "http" is not a port; ports are 1 to 65535']),
    ("dns: ':80'", ['3:12: "" is neither a name nor an IP address']),
])
def test_dns_that_will_not_do(keys: str, problems: list[str]) -> None:
    assert told(keys) == problems


@pytest.mark.parametrize(("text", "problem"), [
    ("'http://a.b/c'", 'an external name is no URL; write "a.b"'),
    ("'unix:/x'", "an external name is the name of a host elsewhere; write a socket into endpoints"),
    ("'a.b:80/c'", "an external name has no path; to change the path use rewrite in the route"),
    ("'a.b/c'", '"a.b/c" is not a name that DNS knows; a path and a scheme are left out'),
    ("'::1:443'", '"::1:443": an IPv6 address is in brackets, such as [::1]:80'),
    ("'::1'", '"::1": an IPv6 address is in brackets, such as [::1]:80'),
    ("'[::1'", '"[::1" has no port; an IPv6 address with a port is written [::1]:80'),
    ("'[a.b]:80'", 'brackets are for IPv6 addresses; write "a.b:80"'),
    ("'[fe80::1%eth0]:80'", '"fe80::1%eth0": an address with a zone means something on one machine only; write another'),
    ("'a.b:0'", '"0" is not a port; ports are 1 to 65535'), ("':80'", 'the name is missing; write "www.example.com:80"'),
    ("'0.0.0.0:80'", "0.0.0.0 can be listened on but not connected to; write 127.0.0.1 for this machine"),
    ("'1.2.3:80'", '"1.2.3" is not an IP address: four numbers from 0 to 255, without leading zeros'),
    ("'a_b:c:80'", '"a_b:c:80": an IPv6 address is in brackets, such as [::1]:80'),
])
def test_not_external_names(text: str, problem: str) -> None:
    assert told(f"external_name: {text}") == [f"3:22: {problem}"]


@pytest.mark.parametrize(("keys", "problems"), [
    ("host: pass, endpoints: ['a.b:80']",
     ["3:7: host: pass is for services with external_name; endpoints of others get the client's Host in any case"]),
    ("endpoints: ['10.0.0.1:80'], nameservers: 10.0.0.1, family: v4, refresh: 1s, on_empty: keep", [
        f"3:35: nameservers {NO_NAME}", f"3:58: family {NO_NAME}", f"3:70: refresh {NO_NAME}", f"3:83: on_empty {NO_NAME}"]),
    ("external_name: '10.0.0.1:80', on_empty: keep", [f"3:37: on_empty {NO_NAME}"]),
    ("dns: 'a b:1', external_nam: a, family: v4, host: pass",
     [f'3:12: "a b" {LETTERS}', '3:21: unknown key "external_nam", did you mean "external_name"?']),
    ("dns: 'a:1', nameservers: [system, dns.example, 0.0.0.0, '10.0.0.1:', 10.0.0.2, 10.0.0.2]", [
        '3:33: system goes into resolver, alone: nameservers: system, which is the default, too',
        '3:41: "dns.example" is a name: a nameserver is an IP address, since it is what names are asked of',
        "3:54: 0.0.0.0 cannot be asked; write 127.0.0.1 for this machine", '3:63: "" is not a port; ports are 1 to 65535',
        '3:86: "10.0.0.2:53" is in the list already, in line 3']),
])
def test_what_is_said_of_names_needs_a_name(keys: str, problems: list[str]) -> None:
    assert told(keys) == problems


def test_defaults_about_names_say_nothing_and_are_taken() -> None:
    assert service("host: external, family: both, on_empty: drop, refresh: null, panic: false") == Service("s")


@pytest.mark.parametrize(("keys", "problems"), [
    ("health: {}", ["3:15: health says how endpoints are asked: write tcp: {}, http: {path: /healthz} or grpc: {}"]),
    ("health: {interval: 1s, tcp: null}",
     ["3:15: health says how endpoints are asked: write tcp: {}, http: {path: /healthz} or grpc: {}"]),
    ("health: {http: {}, tcp: {}}", ["3:16: endpoints are asked in one way; tcp is there already"]),
    ("health: {tcp: {}, grpc: {}}, protocol: h2", ["3:25: endpoints are asked in one way; tcp is there already"]),
    ("health: {htpp: {}}, panic: true", ['3:16: unknown key "htpp", did you mean "http"?']),
    ("health: {tcp: {port: 1}}", ['3:22: unknown key "port"; nothing goes here']),
    ("health: {tcp: }", ["3:21: expected {}, found no value"]),
    ("health: {grpc: {}}", ["3:16: gRPC is spoken by HTTP/2: write protocol: h2c, or h2 with TLS; this service speaks http"]),
    ("protocol: https, health: {grpc: {}}",
     ["3:33: gRPC is spoken by HTTP/2: write protocol: h2c, or h2 with TLS; this service speaks https"]),
    ("protocol: h3, health: {grpc: {}}", ['3:17: unknown value "h3"; write http, https, h2 or h2c']),
    ("panic: true", ["3:7: panic is about what probes say, and this service is not probed; write health: {http: {path: /healthz}}"]),
    ("health: {http: {method: HEAD, body: ok}}", ["3:37: an answer to HEAD has no body; write method: GET"]),
    ("health: {http: {method: get}}", ['3:31: methods are in capitals, did you mean "GET"?']),
    ("health: {http: {method: CONNECT}}", ["3:31: CONNECT does not ask for anything; write GET, HEAD, OPTIONS …"]),
    ("health: http", ["3:15: expected a map with tcp, http, grpc, interval, timeout, fall, rise, initial, found \"http\"; "
                      "write {http: {path: /healthz}}"]),
    ("health: icmp", ['3:15: expected a map with tcp, http, grpc, interval, timeout, fall, rise, initial, found "icmp"']),
    ("health: {http: /healthz}", ['3:22: expected a map with path, method, host, headers, status, body, found "/healthz"; '
                                  "write {path: /healthz}"]),
    ("health: {http: {path: healthz}}", ['3:29: "healthz" cannot be asked for; write a path, perhaps with a query: /healthz?deep=1']),
    ("health: {http: {path: '/a b'}}", ['3:29: "/a b" cannot be asked for; write a path, perhaps with a query: /healthz?deep=1']),
    ("health: {http: {headers: {Host: a}}}", ["3:33: the host that a probe asks for is its key host"]),
    ("health: {http: {headers: {Content-Length: 1}}}", ["3:33: Content-Length belongs to the connection; the proxy writes it itself"]),
    ("health: {http: {status: [200, 399-200, 2xx, 101]}}", [
        "3:37: this range is empty, did you mean 200-399?",
        '3:46: "2xx" is not a status; write 200, or a range such as 200-399',
        '3:51: "101" is not a status; write 200, or a range such as 200-399']),
    ("health: {tcp: {}, interval: 0, timeout: 0, fall: 0, rise: 1001, initial: checking}", [
        "3:35: this duration cannot be 0", "3:47: this duration cannot be 0", "3:56: this cannot be 0",
        "3:65: this is at most 1000", '3:80: unknown value "checking"; write up or down']),
])
def test_health_that_will_not_do(keys: str, problems: list[str]) -> None:
    assert told(keys) == problems


@pytest.mark.parametrize(("keys", "problems"), [
    ("affinity: cookie", ['3:17: expected {client_ip: …} or {cookie: …}, found "cookie"; write {cookie: {}}']),
    ("affinity: sticky", ['3:17: expected {client_ip: …} or {cookie: …}, found "sticky"']),
    ("endpoints: [web.dev.internal]", ['3:19: "web.dev.internal" has no port; write "web.dev.internal:80"']),
    ("affinity: {}", ["3:17: expected exactly one of client_ip, cookie"]),
    ("affinity: {client_ip: {}, cookie: {}}", ["3:17: expected exactly one of client_ip, cookie"]),
    ("affinity: {clientip: {}}", ['3:18: unknown key "clientip", did you mean "client_ip"?']),
    ("affinity: {client_ip: {timeout: 24.1h}}", ["3:39: this duration is at most 24h"]),
    ("affinity: {client_ip: {timeout: 0}}", ["3:39: this duration cannot be 0"]),
    ("affinity: {client_ip: {timeout: 500ms}}", ["3:39: this duration is at least 1s"]),
    ("affinity: {cookie: {name: 'a=b', secret: ''}}", [
        '3:33: "a=b" is not the name of a cookie: letters, digits, - and _',
        "3:48: this secret is empty; leave it out for one of this machine"]),
    ("balance: {hash: {cookie: 'a;b'}}", ['3:32: "a;b" is not the name of a cookie: letters, digits, - and _']),
    ("balance: {source-hash: {ipv6_prefix: 129}}", ["3:44: this is at most 128"]),
    ("balance: {source-hash: {ipv6_prefix: 0}}", ["3:44: this cannot be 0"]),
    ("balance: {source-hash: {prefix: 64}}", ['3:31: unknown key "prefix", did you mean "ipv6_prefix"?']),
    ("balance: {source-hash: 64}", ['3:30: expected a map with ipv6_prefix, found "64"']),
    ("balance: {source-hash: {}, hash: path}", ["3:16: expected exactly one of hash, source-hash"]),
    ("balance: hash", ['3:16: unknown value "hash"; write round-robin, least-conn, source-hash, random or least-latency, '
                       "or {hash: …} or {source-hash: …}"]),
    ("balance: fastest", ['3:16: unknown value "fastest"; write round-robin, least-conn, source-hash, random or least-latency, '
                          "or {hash: …} or {source-hash: …}"]),
])
def test_affinity_and_balance_that_will_not_do(keys: str, problems: list[str]) -> None:
    assert told(keys) == problems


@pytest.mark.parametrize(("line", "problems"), [
    ("resolver: {min_ttl: 2m}", ["1:21: min_ttl is 2m and max_ttl 1m: no time is between these"]),
    ("resolver: {max_ttl: 500ms}", ["1:21: min_ttl is 1s and max_ttl 500ms: no time is between these"]),
    ("resolver: {max_ttl: 5s, min_ttl: 6s}", ["1:34: min_ttl is 6s and max_ttl 5s: no time is between these"]),
    ("resolver: {min_ttl: 2m, max_tll: 3m}", ['1:25: unknown key "max_tll", did you mean "max_ttl"?']),
    ("resolver: {nameservers: [system]}",
     ["1:26: system goes into resolver, alone: nameservers: system, which is the default, too"]),
    ("resolver: {nameservers: []}", ["1:25: this list is empty; write a value or leave the key out"]),
    ("resolver: {nameservers: sytem}", ['1:25: unknown value "sytem", did you mean "system"?']),
    ("resolver: {nameservers: dns.example}",
     ['1:25: "dns.example" is a name: a nameserver is an IP address, since it is what names are asked of']),
    ("admin: {}", ['1:8: "bind" is missing here']),
    ("admin: 127.0.0.1:9900", ['1:8: expected a map with bind, found "127.0.0.1:9900"']),
    ("admin: {bind: ['127.0.0.1:1']}", ['1:15: expected an address such as ":80", "127.0.0.1:8080", "[::1]:80" or '
                                        '"unix:/run/e.sock", found a list']),
    *((f"admin: {{bind: '{text}'}}", [
        f"1:15: {text} can be reached from other machines, and there is no password; write 127.0.0.1:9900, or a socket such "
        "as unix:/run/edgeproxy.sock"])
      for text in (":9900", "0.0.0.0:9900", "[::]:9900", "10.0.0.5:9900", "[fd00::1]:9900", "[::2]:9900")),
])
def test_resolver_and_admin_that_will_not_do(line: str, problems: list[str]) -> None:
    assert told_of(line) == problems


@pytest.mark.parametrize(("bind", "admin", "problem"), [
    ("127.0.0.1:80", "127.0.0.1:80", '127.0.0.1:80 is taken by the listener "l" in line 2'),
    (":80", "127.0.0.1:80", '127.0.0.1:80 and :80 cannot both be listened on, and :80 is taken by the listener "l" in line 2'),
    ("0.0.0.0:80", "127.0.0.2:80",
     '127.0.0.2:80 and 0.0.0.0:80 cannot both be listened on, and 0.0.0.0:80 is taken by the listener "l" in line 2'),
    ("unix:/x", "unix:/x", 'unix:/x is taken by the listener "l" in line 2'),
])
def test_admin_and_listeners_keep_apart(bind: str, admin: str, problem: str) -> None:
    listeners = f'listeners:\n  l: {{bind: "{bind}", protocol: http}}\n'
    with pytest.raises(ConfigError) as error:
        load_text(f'{listeners}admin: {{bind: "{admin}"}}', "c.yaml")
    assert [one.headline() for one in error.value.problems] == [f"c.yaml:3:15: {problem}"]
    for other in ("[::1]:81", "127.0.0.1:0", "unix:/y"):
        load_text(f'{listeners}admin: {{bind: "{other}"}}')


def test_resolver_is_given_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{WEB}resolver: {{}}\n")
    (tmp_path / "b.yaml").write_text("resolver: {min_ttl: 9m}\n")
    with pytest.raises(ConfigError, match=r'b.yaml:1:1: "resolver" is given twice, first in .*a.yaml:2:1') as error:
        load([tmp_path])
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(("keys", "tcp", "tls"), [
    ("affinity: {cookie: {}}",
     'the service "s" knows clients by a cookie, which only requests have; use affinity: {client_ip: {}} for tcp',
     'the service "s" knows clients by a cookie, which only requests have; use affinity: {client_ip: {}} for tls'),
    ("external_name: a.b.", 'which port? external_name of the service "s" says none, and tcp has no port of its own; write '
     '"a.b.:443", for example', 'which port? external_name of the service "s" says none, and tls has no port of its own; '
     'write "a.b.:443", for example'),
])
def test_what_relayed_connections_do_not_have(keys: str, tcp: str, tls: str) -> None:
    assert told(keys, 'listeners: {l: {bind: ":1", protocol: tcp, service: s}}\n') == [f"1:53: {tcp}"]
    assert told(keys, "listeners: {l: {bind: ':1', protocol: tls, sni: {'*': s}}}\n") == [f"1:55: {tls}"]
    assert load_text(f"{WEB}routes: [{{service: s}}]\nservices: {{s: {{{keys}}}}}").routes


def test_everything_at_once() -> None:
    assert told("dns: [web, {name: x, port: 1, type: SRV}], health: {http: {}, grpc: {}}, affinity: {cookie: {}}",
                'listeners: {l: {bind: ":1", protocol: tcp, service: s}}\n') == [
        '1:53: the service "s" knows clients by a cookie, which only requests have; use affinity: {client_ip: {}} for tcp',
        '3:13: which port? write "web:8080", for example, or port: 8080',
        "3:28: SRV records bring their ports with them; leave 1 out",
        "3:69: endpoints are asked in one way; http is there already"]


# ---- what is only unwise

def routed(keys: str, more: str = "") -> list[str]:
    return warned(f"{WEB}routes: [{{service: s}}]\nservices:\n  s: {{{keys}}}\n{more}")


EMPTY = '4:6: warning: the service "s" has no endpoints: what needs it is answered 503, or closed'
BY_ADDRESS = ("4:{}: warning: its endpoints' certificates must be for their IP addresses, as few of public authorities are: "
              "tls.server_name says which name they are for")


@pytest.mark.parametrize(("keys", "said"), [
    ("", [EMPTY]), ("endpoints: []", ["4:18" + EMPTY[3:]]), ("dns: 'a:1'", []), ("external_name: a", []),
    ("endpoints: ['a:1']", []),
    ("endpoints: [{address: 'a:1', weight: 0}]",
     ["4:18: warning: every weight is 0: no endpoint of this service takes anything"]),
    ("endpoints: [{address: 'a:1', weight: 0}], dns: 'b:1'", []),
    ("dns: 'a:1', health: {tcp: {}, interval: 1s, timeout: 1500ms}",
     ["4:60: warning: a probe may take 1500ms, longer than the interval of 1s: a silent endpoint is found out later than the "
      "interval promises"]),
    ("dns: 'a:1', health: {tcp: {}, interval: 500ms}",
     ["4:27: warning: a probe may take 1s, longer than the interval of 500ms: a silent endpoint is found out later than the "
      "interval promises"]),
    ("dns: 'a:1', health: {tcp: {}, interval: 1s, timeout: 1s}", []),
    ("protocol: https, endpoints: ['a:1']", []), ("protocol: h2, dns: 'a:1'", []), ("protocol: https, external_name: a", []),
    ("protocol: https, endpoints: ['a:1', '10.0.0.1:1']", [BY_ADDRESS.format(17)]),
    ("protocol: https, external_name: 10.0.0.1", [BY_ADDRESS.format(17)]),
    ("protocol: https, endpoints: ['10.0.0.1:1'], tls: {server_name: a}", []),
    ("external_name: 'a:443'", ["4:22: warning: http is spoken to port 443; is protocol: https meant?"]),
    ("external_name: 'a:80', protocol: h2", ["4:22: warning: h2 is spoken to port 80; is protocol: http meant?"]),
    ("external_name: 'a:8443'", []), ("external_name: 'a:443', protocol: https", []),
    ("dns: 'a:1', affinity: {cookie: {secret: short}}",
     ["4:47: warning: a secret this short can be guessed: who does so chooses the endpoint; write 16 characters or more"]),
    ("dns: 'a:1', affinity: {cookie: {}}", []),
])
def test_warnings(keys: str, said: list[str]) -> None:
    assert routed(keys) == said


def test_protocol_has_an_effect_where_probes_speak_it() -> None:
    text = 'listeners: {{l: {{bind: ":1", protocol: tcp, service: s}}}}\nservices: {{s: {{dns: "a:443", protocol: https{}}}}}'
    assert warned(text.format(", health: {tcp: {}}")) == []
    assert warned(text.format("")) == ['2:40: warning: only relaying listeners use the service "s": they pass on what clients '
                                       "send, and protocol has no effect"]


def test_a_name_is_no_circle() -> None:
    assert warned('listeners: {l: {bind: ":80", protocol: http}}\nroutes: [{service: s}]\nservices: {s: {endpoints: ["a:80"]}}') == []


@pytest.mark.parametrize(("first", "second", "hosts", "clash"), [
    ("{cookie: {}}", "{cookie: {}}", ("a.example", "a.example"), True),
    ("{cookie: {}}", "{cookie: {}}", ("a.example", ""), True),
    ("{cookie: {}}", "{cookie: {}}", ("a.example", "b.example"), False),
    ("{cookie: {}}", "{cookie: {name: other}}", ("a.example", "a.example"), False),
    ("{cookie: {}}", "{client_ip: {}}", ("a.example", "a.example"), False),
])
def test_cookies_that_overwrite_each_other(first: str, second: str, hosts: tuple[str, str], clash: bool) -> None:
    routes = ", ".join(f"{{path: /{name}, service: {name}{host and f', host: {host}'}}}"
                       for name, host in zip("xy", hosts, strict=True))
    text = ('listeners: {l: {bind: ":1", protocol: http}}\n' f"routes: [{routes}]\n"
            f'services: {{x: {{dns: "a:1", affinity: {first}}}, y: {{dns: "b:1", affinity: {second}}}}}')
    told = warned(text)
    assert bool(told) is clash
    assert not clash or 'the service "x" sets a cookie "edge" on the same host' in told[0]


# ---- what a reload changes

def changed(old: str, new: str, old_rest: str = "", new_rest: str = "") -> str:
    def config(keys: str, rest: str) -> Config:
        return load_text(f"{WEB}services: {{s: {{{keys}}}}}\n{rest}")
    return str(delta(config(old, old_rest), config(new, new_rest)))


@pytest.mark.parametrize(("old", "new", "said"), [
    ("dns: 'a:1'", "dns: 'a:2'", "~ service s: dns"), ("external_name: a", "external_name: b", "~ service s: external_name"),
    ("dns: 'a:1'", "dns: 'a:1', nameservers: 10.0.0.1, family: v4, refresh: 1s, on_empty: keep",
     "~ service s: nameservers, family, refresh, on_empty"),
    ("", "affinity: {cookie: {}}, health: {tcp: {}}, panic: true, slow_start: 1s, drain: 1s",
     "~ service s: affinity, health, panic, slow_start, drain"),
    ("balance: source-hash", "balance: {source-hash: {ipv6_prefix: 64}}", "~ service s: balance"),
    ("balance: source-hash", "balance: {source-hash: {}}", "nothing changed"),
    ("endpoints: ['a:1']", "endpoints: ['b:1'], dns: 'c:1'", "~ service s: dns; + endpoint s b:1; - endpoint s a:1"),
])
def test_changes_of_a_service(old: str, new: str, said: str) -> None:
    assert changed(old, new) == said


def test_changes_of_resolver_and_admin() -> None:
    rest = "resolver: {timeout: 1s}\nadmin: {bind: 'unix:/x'}"
    assert changed("", "", "", rest) == changed("", "", rest) == "~ resolver; ~ admin"
    assert changed("", "", "resolver: {nameservers: system}", "") == "nothing changed"
