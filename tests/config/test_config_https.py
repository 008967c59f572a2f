"""https and tls listeners, TLS to endpoints, PROXY protocol: values, and the exact words when something is wrong."""
from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pems import DAY, NOW, pem

from edgeproxy.config.check import warnings
from edgeproxy.config.delta import delta
from edgeproxy.config.load import ConfigError, load, load_text, read
from edgeproxy.config.model import CertificatePair, ClientAuth, Config, ListenerTls, ServiceTls

A = pem("a.example", "*.a.example")
B = pem("b.example", number=1)
SERVICES = 'services: {app: {endpoints: ["10.0.0.1:443"]}, hashed: {endpoints: [], balance: {hash: path}}}\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with two pairs and a bundle."""
    monkeypatch.chdir(tmp_path)
    A.write(tmp_path, "a")
    B.write(tmp_path, "b")
    (tmp_path / "ca.pem").write_bytes(A.cert)
    return tmp_path


def one(text: str) -> Config:
    return load_text(text + SERVICES, "c.yaml", now=NOW)


def told(text: str, services: str = SERVICES) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_text(text + services, "c.yaml", now=NOW)
    return [problem.headline().removeprefix("c.yaml:") for problem in error.value.problems]


def listener(keys: str, protocol: str = "https") -> str:
    return f'listeners:\n  l: {{bind: ":443", protocol: {protocol}, {keys}}}\n'


def test_a_whole_https_listener(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "c.yaml").write_text("""\
listeners:
  web: {bind: ":80", protocol: http, redirect_to_https: true}
  secure:
    bind: ":443"
    protocol: https
    tls:
      certificates: [{cert: ../a.crt, key: ../a.key}, {cert: ../b.crt, key: ../b.key}]
      default: ../b.crt
      min_version: "1.3"
      alpn: [http/1.1]
      client_auth: {ca: ../ca.pem, mode: optional}
    proxy_protocol: {from: [10.0.0.0/8, "::1"]}
    trusted_proxies: [10.0.0.0/8]
    timeouts: {handshake: 3s, header: 5s}
""")
    config = load([here / "sub" / "c.yaml"], now=NOW)
    secure, folder = config.listeners["secure"], here / "sub" / ".."
    pairs = tuple(CertificatePair(f"{folder}/{n}.crt", f"{folder}/{n}.key") for n in "ab")
    assert secure.tls == ListenerTls(pairs, pairs[1].cert, "1.3", ("http/1.1",), ClientAuth(f"{folder}/ca.pem", "optional"))
    assert secure.proxy_protocol is not None
    assert secure.proxy_protocol.trusted == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert (secure.timeouts.handshake, secure.timeouts.header, secure.idle_or_default) == (3.0, 5.0, 75.0)
    assert [one.names for one in config.certificates.values()] == [("a.example", "*.a.example"), ("b.example",)]
    assert list(config.certificates) == [(pair.cert, pair.key) for pair in pairs]
    assert config.listeners["web"].redirect_to_https is True
    assert [one.routed for one in config.listeners.values()] == [True, True]


def test_defaults(here: Path) -> None:
    found = one(listener("tls: {certificates: [{cert: a.crt, key: a.key}]}")).listeners["l"]
    assert found.tls == ListenerTls((CertificatePair("a.crt", "a.key"),), None, "1.2", ("h2", "http/1.1"), None)
    assert (found.proxy_protocol, found.timeouts.handshake, found.redirect_to_https) == (None, 10.0, False)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("8443", 8443), ("1", 1), ("null", False)])
def test_redirect_to_https(text: str, value: object) -> None:
    found = one(listener(f"redirect_to_https: {text}", "http")).listeners["l"].redirect_to_https
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["yes", "0", "65536", "-1", "08443", "''", "[443]", "True"])
def test_not_redirect_to_https(text: str) -> None:
    assert told(listener(f"redirect_to_https: {text}", "http"))


def test_a_tls_listener() -> None:
    found = one(listener('sni: {DB.example.com.: app, "*.x.example": app, "*": app}', "tls")).listeners["l"]
    assert found.sni == (("db.example.com", "app"), ("*.x.example", "app"), ("*", "app"))
    assert found.idle_or_default == 3600.0 and not found.routed


def test_services(here: Path) -> None:
    services = one(listener("service: app", "tcp") + """\
services:
  app: {endpoints: ["10.0.0.1:443"]}
  all:
    endpoints: ["10.0.0.1:443", "unix:/x"]
    protocol: h2
    tls: {verify: true, ca: ca.pem, server_name: Inner.example, client_cert: {cert: a.crt, key: a.key}}
  none: {protocol: https, tls: {verify: true, ca: null, server_name: ~, client_cert: null}, send_proxy_protocol: v1}
  off: {protocol: h2c, tls: null, send_proxy_protocol: null}
  open: {protocol: https, tls: {verify: false}, endpoints: ["unix:/x"]}
#""").services
    assert services["all"].tls == ServiceTls(True, "ca.pem", "inner.example", CertificatePair("a.crt", "a.key"))
    assert [services[name].protocol for name in services] == ["http", "h2", "https", "h2c", "https"]
    assert services["none"].tls == services["off"].tls == ServiceTls()
    assert services["none"].send_proxy_protocol == "v1"


def test_null_is_as_if_it_were_left_out() -> None:
    plain = 'listeners: {l: {bind: ":80", protocol: http}}\nroutes: [{service: app}]\n' + SERVICES
    full = ('listeners: {l: {bind: ":80", protocol: http, limits: null, timeouts: ~, tls: null, sni: null, service: null,\n'
            "  trusted_proxies: null}}\n"
            "routes: [{service: app, redirect: null, respond: null, host: null, path: null, name: null, rewrite: null}]\n"
            "access_log: null\nshutdown: {drain: null}\n" + SERVICES)
    assert load_text(plain) == load_text(full)


@pytest.mark.parametrize(("text", "problems"), [
    (listener(""), ["2:6: an https listener needs a certificate: write tls: {certificates: [{cert: FILE, key: FILE}]}"]),
    (listener("tls: null"),
     ["2:6: an https listener needs a certificate: write tls: {certificates: [{cert: FILE, key: FILE}]}"]),
    (listener("tls: {}"), ['2:43: "certificates" is missing here']),
    (listener("tls: {certificates: []}"), ["2:58: this list is empty; write a value or leave the key out"]),
    (listener("tls: {certificates: [{cert: a.crt}]}"), ['2:59: "key" is missing here']),
    (listener("tls: {certificates: [{cert: a.crt, key: a.key}, {cert: a.crt, key: a.key}]}"),
     ['2:86: "a.crt" is in the list already, in line 2']),
    (listener("tls: {certificates: [{cert: a.crt, key: a.key}], default: b.crt}"),
     ['2:96: default is the cert of one of this listener\'s certificates, did you mean "a.crt"?']),
    (listener("tls: {certificates: [{cert: a.crt, key: a.key}], default: x}"),
     ['2:96: default is the cert of one of this listener\'s certificates, such as "a.crt"']),
    (listener("tls: {certificates: [{cert: a.crt, key: a.key}], min_version: 1.1, alpn: [h3, h2, h2]}"),
     ['2:100: unknown value "1.1"; write 1.2 or 1.3', '2:112: unknown value "h3"; write h2 or http/1.1',
      '2:120: "h2" is in the list already, in line 2']),
    (listener("tls: {certificates: [{cert: a.crt, key: a.key}], client_auth: {mode: requir}}"),
     ['2:100: "ca" is missing here', '2:107: unknown value "requir", did you mean "require"?']),
    (listener("tls: {certificates: [{cert: a.crt, key: a.key}], alpn: []}"),
     ["2:93: this list is empty; write a value or leave the key out"]),
    (listener("redirect_to_https: true, tls: {certificates: [{cert: a.crt, key: a.key}]}, sni: {}, service: app"),
     ['2:38: "redirect_to_https" is for http listeners, this one is https already',
      '2:113: "sni" is for tls listeners, this one is https',
      '2:122: "service" is for tcp listeners, this one is https; write routes that lead to services']),
    (listener("tls: {certificates: [{cert: a.crt, key: a.key}]}", "http"),
     ['2:37: "tls" is for https listeners, this one is http; is protocol: https meant?']),
    (listener("tls: {certificates: [{cert: a.crt, key: a.key}]}, service: app", "tls"),
     ["2:6: a tls listener leads to services by the server name that the client asks for: write sni: {a.example.com: NAME}",
      '2:36: "tls" is for https listeners, this one is tls, and decrypts nothing; is protocol: https meant?',
      '2:86: "service" is for tcp listeners, this one is tls; write sni: {"*": NAME}']),
    (listener("sni: {}", "tls"),
     ["2:41: a tls listener leads to services by the server name that the client asks for: write sni: {a.example.com: NAME}"]),
    (listener('sni: {a.example: ap, "*": hashed, x.example: [app]}', "tls"),
     ["2:81: expected a name, found a list"]),
    (listener('sni: {A.example: ap, "*": hashed}', "tls"),
     ['2:53: no service is named "ap", did you mean "app"?',
      '2:62: the service "hashed" balances by path, which only requests have; use source-hash for tls']),
    (listener('sni: {"**.a.example": app, "a*.example": app, "*.*.example": app, 10.0.0.1: app, "[::1]": app, '
              '"a b": app, "a:443": app}', "tls"),
     ['2:42: a wildcard stands for one label; write "*.a.example", or "*" for the rest',
      '2:63: a * stands for the whole first label: "*.example.com", or "*" alone for the rest',
      '2:82: a * stands for the whole first label: "*.example.com", or "*" alone for the rest',
      '2:102: clients send no server name for an address; "*" takes those that send none',
      '2:117: clients send no server name for an address; "*" takes those that send none',
      '2:131: "a b" is not a host name: letters, digits, - and _ between dots',
      '2:143: hosts are compared without the port; write "a"']),
    (listener("sni: {a.example: app, A.EXAMPLE: app}", "tls"), ['2:58: "a.example" is given twice, first in line 2']),
    (listener("service: app, timeouts: {handshake: 5s, header: 5s}", "tcp"),
     ["2:61: this tcp listener has no handshake: the key is for https, tls, and listeners with proxy_protocol",
      '2:76: "header" is for http and https listeners, this one is tcp']),
    (listener("service: app, proxy_protocol: {}", "tcp"), ['2:66: "from" is missing here']),
    (listener("service: app, proxy_protocol: {from: [10.0.0.1/8, x]}", "tcp"),
     ['2:74: "10.0.0.1/8" has bits set behind the mask, did you mean "10.0.0.0/8"?',
      '2:86: "x" is not a network; write 10.0.0.0/8, fd00::/8 or one address']),
    (listener("service: app, proxy_protocol: {from: []}", "tcp"),
     ["2:73: this list is empty; write a value or leave the key out"]),
])
def test_listeners(here: Path, text: str, problems: list[str]) -> None:
    assert told(text) == problems


def test_proxy_protocol_has_a_handshake() -> None:
    text = listener("service: app, timeouts: {handshake: 5s}, proxy_protocol: {from: [10.0.0.0/8]}", "tcp")
    assert one(text).listeners["l"].timeouts.handshake == 5.0


@pytest.mark.parametrize(("keys", "problems"), [
    ("tls: {ca: ca.pem}", ["3:16: tls is for services with protocol: https or h2; this one speaks http, which is not encrypted"]),
    ("protocol: h2c, tls: {verify: false}",
     ["3:31: tls is for services with protocol: https or h2; this one speaks h2c, which is not encrypted"]),
    ("protocol: https, tls: {verify: false, ca: ca.pem}", ["3:54: with verify: false nothing is checked, and ca has no effect"]),
    ("protocol: https, tls: {client_cert: {cert: a.crt}}", ['3:52: "key" is missing here']),
    ("protocol: h2, tls: {server_name: 'a:1'}", ['3:49: hosts are compared without the port; write "a"']),
    ('protocol: https, endpoints: ["10.0.0.1:1", {address: "unix:/x"}]',
     ["3:69: a unix socket has no name to check in the certificate; write tls: {server_name: NAME}"]),
    ("protocol: h2, send_proxy_protocol: v2",
     ["3:30: a connection of HTTP/2 carries requests of many clients, and a PROXY header names one; leave it out, or do "
      "without h2"]),
    ("protocol: h3", ['3:26: unknown value "h3"; write http, https, h2 or h2c']),
    ("send_proxy_protocol: v3", ['3:37: unknown value "v3"; write v1 or v2']),
    ("mirror: {}", [
        '3:16: unknown key "mirror"; known here: endpoints, dns, external_name, host, nameservers, family, refresh, on_empty, '
        "protocol, tls, send_proxy_protocol, balance, affinity, health, panic, slow_start, drain, eject, limits, timeouts, pool"]),
])
def test_services_that_will_not_do(here: Path, keys: str, problems: list[str]) -> None:
    assert told('listeners: {l: {bind: ":80", protocol: http}}\n', f"services:\n  a: {{         {keys}}}\n") == problems


def test_routes_name_https_listeners_too(here: Path) -> None:
    text = ('listeners:\n  web: {bind: ":80", protocol: http}\n'
            '  s: {bind: ":443", protocol: https, tls: {certificates: [{cert: a.crt, key: a.key}]}}\n'
            '  p: {bind: ":444", protocol: tls, sni: {"*": app}}\n')
    assert one(text + "routes: [{service: app, listeners: [web, s]}]\n").routes[0].listeners == ("web", "s")
    assert told(text + "routes: [{service: app, listeners: [p]}]\n") == [
        '5:37: routes are for http and https listeners; "p" is a tls listener']
    assert told(text + "routes: [{service: app, listeners: [s]}, {service: app}]\n") == [
        "5:42: the same match as the route in line 5; join the two, or give one a further condition"]


def test_every_file_is_told_where_it_is_named(here: Path) -> None:
    (here / "b.key").write_bytes(A.key())
    text = """\
listeners:
  l:
    bind: ":443"
    protocol: https
    tls:
      certificates:
        - {cert: a.crt, key: a.key}
        - {cert: no.crt, key: no.key}
        - {cert: b.crt, key: b.key}
        - {cert: a.key, key: a.crt}
      client_auth: {ca: a.key}
      defaul: a.crt
  m: {bind: ":444", protocol: https, tls: {certificates: [{cert: no.crt, key: no.key}]}}
services: {s: {protocol: h2, tls: {ca: no.pem, client_cert: {cert: b.crt, key: b.key}}}}
#"""
    assert told(text) == [
        '8:18: no.crt: no such file; "edgeproxy cert self-signed" makes a pair to try with',
        "8:31: no.key: no such file",
        "9:30: b.key: this key does not belong to the certificate b.crt; which of the two is old?",
        "10:18: a.key: this is the private key, and the other file the certificate: cert and key are swapped",
        "11:25: a.key: there is a private key in it, but no certificate; is it the file for key?",
        '12:7: unknown key "defaul", did you mean "default"?',
        '13:66: no.crt: no such file; "edgeproxy cert self-signed" makes a pair to try with',
        "13:79: no.key: no such file",
        "14:40: no.pem: no such file",
        "14:80: b.key: this key does not belong to the certificate b.crt; which of the two is old?"]


def test_a_file_is_read_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real: Callable[..., int] = os.open

    def note(path: Any, *args: Any, **more: Any) -> int:
        opened.append(str(path))
        return real(path, *args, **more)
    monkeypatch.setattr(os, "open", note)
    pair = "tls: {certificates: [{cert: a.crt, key: a.key}], client_auth: {ca: ca.pem}}"
    one(f'listeners:\n  l: {{bind: ":443", protocol: https, {pair}}}\n  m: {{bind: ":444", protocol: https, {pair}}}\n')
    assert opened == ["a.crt", "a.key", "ca.pem"]


def test_variables_in_server_names_keep_the_place_of_the_map() -> None:
    text = listener('sni: {"${X:-a.example}": ap}', "tls")
    assert told(text) == ['2:41: no service is named "ap", did you mean "app"?']


# what is only unwise

def warned(folder: Path, text: str, now: float = NOW) -> list[str]:
    (folder / "c.yaml").write_text(text)
    loaded = read(["c.yaml"], now=now)
    return [problem.headline().removeprefix("c.yaml:").replace(f"{folder}/", "")
            for problem in warnings(loaded.config, loaded.places, now)]


PAIR = "tls: {certificates: [{cert: a.crt, key: a.key}]}"
SECURE = f'listeners:\n  s: {{bind: ":443", protocol: https, {PAIR}}}\n'
APP = "services: {app: {endpoints: [\"10.0.0.1:80\"]}}\n"


def test_what_certificates_are_warned_of(here: Path) -> None:
    text = SECURE + "routes: [{service: app}]\n" + APP
    assert warned(here, text) == []
    assert warned(here, text, NOW + 80 * DAY) == ["2:59: warning: the certificate a.crt expires in 10 days: renew it"]
    os.chmod("a.key", 0o644)
    assert warned(here, text) == ["2:59: warning: every user of this machine may read the key a.key: chmod 600, or 640 "
                                  "with the proxy's group"]
    pem(cn="no host").write(here, "a")
    assert "2:59: warning: the certificate a.crt has no names: it fits no host" in warned(here, text)


def test_redirects(here: Path) -> None:
    web = '  web: {bind: ":80", protocol: http, redirect_to_https: true}\n'
    routes = "routes: [{service: app}]\n" + APP
    assert warned(here, SECURE + web + routes) == []
    assert warned(here, (SECURE + web + routes).replace(":443", ":8443")) == [
        "3:57: warning: clients are sent to port 443, where nothing listens; is redirect_to_https: 8443 meant?"]
    assert warned(here, (SECURE + web + routes).replace(":443", ":8443").replace(":80\", p", ":8080\", p")) == []
    alone = "listeners:\n" + web
    assert warned(here, alone) == [
        "2:57: warning: nothing here speaks https: if a balancer in front of this listener does, its requests are redirected "
        "in circles"]
    assert warned(here, SECURE + web + 'routes: [{service: app, listeners: [web], path: /x}, {service: app}]\n' + APP) == [
        "4:36: warning: this route is never asked: its listener redirects all requests to https"]


def test_services_that_have_no_use_for_what_they_say(here: Path) -> None:
    tls = 'listeners:\n  p: {bind: ":443", protocol: tls, sni: {"*": app}}\n'
    assert warned(here, tls + APP) == []
    assert warned(here, tls + "services: {app: {protocol: h2c, endpoints: [\"10.0.0.1:80\"]}}\n") == [
        '3:28: warning: only relaying listeners use the service "app": they pass on what clients send, and protocol has no '
        "effect"]
    assert warned(here, SECURE + "routes: [{service: app}]\nservices: {app: {protocol: https, tls: {verify: false}, "
                                 "endpoints: [\"10.0.0.1:80\"]}}\n") == [
        "4:49: warning: the endpoints' certificates are not checked: who answers in their place may read and change "
        "everything"]


def test_a_relay_that_leads_to_itself(here: Path) -> None:
    assert warned(here, 'listeners:\n  p: {bind: ":443", protocol: tls, sni: {"*": app}}\n'
                        'services: {app: {endpoints: ["127.0.0.1:443"]}}\n') == [
        '3:30: warning: 127.0.0.1:443 is our own listener "p", which leads back to the service "app": requests would go in '
        "circles"]


def test_a_renewed_certificate_is_a_change(here: Path) -> None:
    text = SECURE + SERVICES
    before = load_text(text, now=NOW)
    assert not delta(before, load_text(text, now=NOW))
    pem("a.example", number=7).write(here, "a")
    after = load_text(text, now=NOW)
    assert before == after and str(delta(before, after)) == "~ certificate a.crt"
