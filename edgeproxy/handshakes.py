"""What clients meet on an https listener before their first request: certificates, refusals, connections gone astray.

For `edgeproxy check` and `edgeproxy explain`. Rules: nothing is decided here; the certificate is looked up by the
`TlsServer` that a start would make, so that what is told is what happens.
"""
from __future__ import annotations

import os.path
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from edgeproxy.config import model
from edgeproxy.config.certificates import Certificate, in_days
from edgeproxy.config.check import Found
from edgeproxy.net.certificates import TlsServer
from edgeproxy.policy.sni import EVERY, covers


@dataclass(frozen=True, slots=True)
class Greeting:
    """What one client is shown."""

    sni: str
    """The server name it asks for; "" if it sends none, as for an address."""
    certificates: tuple[Certificate, ...] = ()
    """One for each kind of key; empty: the handshake is refused."""
    why: str = ""
    trusted: bool = False
    """Whether a certificate has the host's name; otherwise the client turns away, unless told not to."""
    asks: str = ""
    """About client certificates; "" if none is asked for."""
    speaks: str = ""

    def lines(self, now: float) -> Iterator[str]:
        for certificate in self.certificates:
            left = "expired" if certificate.not_after <= now else f"expires {in_days(certificate.days_left(now))}"
            yield (f"cert       {certificate.cert} ({_some(certificate.names)}; {certificate.key_type}, {left}): "
                   f"{self.why}")
        if not self.certificates:
            return
        if not self.trusted:
            yield "           a client that checks names turns away here (curl: -k goes on)"
        yield f"tls        {self.speaks}"
        if self.asks:
            yield f"clients    {self.asks}"

    def as_json(self, now: float) -> dict[str, Any]:
        return {"sni": self.sni or None, "refused": not self.certificates, "why": self.why, "trusted": self.trusted,
                "client_certificate": self.asks or None,
                "certificates": [{"cert": one.cert, "key": one.key, "names": list(one.names), "key_type": one.key_type,
                                  "days_left": one.days_left(now), "fingerprint": one.fingerprint}
                                 for one in self.certificates]}


def greeting(config: model.ListenerTls, tls: TlsServer, host: str) -> Greeting:
    """What a client is shown that goes to `https://host/`."""
    bare = host.strip("[]")
    sni = "" if is_address(bare) else bare.lower().removesuffix(".")
    told = f"no certificate is for {sni}" if sni else "clients send no server name for an address"
    found = tls.sites.match(sni)
    if found is None:
        return Greeting(sni, why=f"the handshake is refused (unrecognized_name): {told}, and there is no default")
    pattern, site = found
    why = f"the default, since {told}" if pattern == EVERY else "by its name" if pattern == sni else f"by {pattern}"
    auth = config.client_auth
    asks = "" if auth is None else ("must show a certificate" if auth.mode == "require" else
                                    "may show a certificate") + f" signed by one of {auth.ca}"
    newer = " or newer" if config.min_version != "1.3" else ""
    speaks = f"{config.min_version}{newer}, offers {', '.join(config.alpn)}"
    trusted = any(covers(one.names, bare) for one in site.certificates)
    return Greeting(sni, site.certificates, why, trusted, asks, speaks)


def astray(tls: TlsServer, sni: str, host: str) -> str:
    """Why a request for `host` is answered 421 on a connection that asked for `sni`; "" if it is not."""
    site = tls.sites.find(sni)
    if site is None or not tls.misdirected(site, host.strip("[]")):
        return ""
    right = tls.sites.find(host)
    cert = right.certificates[0].cert if right is not None else ""
    return f"misdirected: the connection is {sni or 'without a server name'}, and {cert} is the certificate for {host}"


# warnings

def doubts(config: model.Config, servers: Mapping[str, TlsServer]) -> Iterator[Found]:
    """What `check` warns of besides dates and modes: hosts without a certificate, certificates without a use.

    `servers` are those of the https listeners, by name.
    """
    for name, tls in servers.items():
        yield from _uncovered(config, config.listeners[name], tls)
        yield from _unused(config, config.listeners[name])


def _uncovered(config: model.Config, listener: model.Listener, tls: TlsServer) -> Iterator[Found]:
    assert listener.tls is not None
    names = {name for pair in listener.tls.certificates for name in config.certificates[pair.cert, pair.key].names}
    parents = {parent for name in names for parent in _parents(name)}
    for route in config.routes:
        if route.listeners is not None and listener.name not in route.listeners:
            continue
        for place, host in enumerate(route.host):
            if covers(names, host.strip("[]")) or (host.startswith("*") and _within(host, names, parents)):
                continue
            yield Found(model.Route, route.name, ("host", place),
                        f'no certificate of the listener "{listener.name}" is for {host}: {_follows(tls, host)}')


def _parents(name: str) -> Iterator[str]:
    """Domains that a name lies in: `a.b.example` and `*.b.example` are in b.example and in example."""
    _, _, parent = name.partition(".")
    while parent:
        yield parent
        _, _, parent = parent.partition(".")


def _within(pattern: str, names: set[str], parents: set[str]) -> bool:
    """Whether some host of the pattern has a certificate; for `*.` only names one label longer count."""
    suffix = pattern.lstrip("*.")
    if pattern.startswith("**."):
        return suffix in parents
    return suffix in parents and any(name.partition(".")[2] == suffix for name in names)


def _follows(tls: TlsServer, host: str) -> str:
    found = tls.sites.match("" if host.startswith("*") or is_address(host.strip("[]")) else host)
    if found is None:
        return "their handshakes are refused (unrecognized_name)"
    shown = os.path.basename(found[1].certificates[0].cert)
    return f"clients are shown the default, {shown}, and turn away"


def _unused(config: model.Config, listener: model.Listener) -> Iterator[Found]:
    """A certificate is never shown if others before it have all its names, with the same kind of key."""
    assert listener.tls is not None
    taken: dict[tuple[str, str], str] = {}
    for place, pair in enumerate(listener.tls.certificates):
        one = config.certificates[pair.cert, pair.key]
        others = [taken.setdefault((name, one.key_type), one.cert) for name in one.names]
        if others and pair.cert != listener.tls.default and one.cert not in others:
            yield Found(model.Listener, listener.name, ("tls", "certificates", place),
                        f"this certificate is never shown: {others[0]} comes first and has the same names")


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "no names"


def is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
