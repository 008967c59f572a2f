"""The certificates of one https listener, and the OpenSSL contexts made of them.

Rules: never changed after it is built; a new certificate or setting is a new `TlsServer`, so that a handshake sees one
state from beginning to end, and a ticket of the old one resumes nothing (its key was the old context's). A context is
made when the first client asks for its name, or by `warm` before that: one costs 0.7 ms and 20 KiB, so ten thousand
would hold up the start for seconds.
Each set of certificates has a context, and so tickets, of its own: no session is carried from one name to another.
"""
from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from edgeproxy.codec.clienthello import NO_APPLICATION_PROTOCOL, UNRECOGNIZED_NAME, ClientHello
from edgeproxy.config.certificates import Certificate
from edgeproxy.config.model import ClientAuth, ListenerTls
from edgeproxy.policy.sni import EVERY, NameTable, covers

# Mozilla's "intermediate" list, guideline 6.0; those of TLS 1.3 are OpenSSL's own, and the same.
CIPHERS = ("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
           "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305")
TRIED = 20
"""New contexts that are made at once, and so tried, when a listener is built: 14 ms at most."""
PRIORITIZE_CHACHA = 1 << 21  # SSL_OP_PRIORITIZE_CHACHA, to which Python gives no name
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Settings(NamedTuple):
    """What every context of a listener has in common."""

    min_version: str
    alpn: tuple[str, ...]
    client_auth: ClientAuth | None
    ca: bytes
    """The bundle that `client_auth` names, as it was read; empty without."""


class Site:
    """The certificates that are offered together for some names: one of each kind of key."""

    __slots__ = ("certificates", "_settings", "_names", "_context")

    def __init__(self, certificates: tuple[Certificate, ...], settings: Settings) -> None:
        self.certificates = certificates
        self._settings = settings
        self._names = [frozenset(certificate.names) for certificate in certificates]
        self._context: ssl.SSLContext | None = None

    def covers(self, host: str) -> bool:
        """Whether `host` may be asked for on a connection that was shown one of these."""
        return all(covers(names, host) for names in self._names)

    def context(self) -> ssl.SSLContext:
        context = self._context
        if context is None:
            context = server_context(self._settings, self.certificates)
            if self._context is not None:  # another thread was quicker, and may have given tickets
                return self._context
            self._context = context
        return context


class TlsServer:
    __slots__ = ("client_auth", "sites", "_settings", "_alpn", "_known")

    def __init__(self, config: ListenerTls, certificates: Mapping[tuple[str, str], Certificate],
                 before: TlsServer | None = None) -> None:
        """`certificates`: what was read, by the paths of certificate and key. What is the same as `before` is taken
        over with its tickets. Raises OSError or `ssl.SSLError` for what only OpenSSL finds."""
        self.client_auth = auth = config.client_auth
        self._settings = Settings(config.min_version, config.alpn, auth, Path(auth.ca).read_bytes() if auth else b"")
        self._alpn = frozenset(config.alpn)
        self._known: dict[tuple[Certificate, ...], Site] = {}
        if before is not None and before._settings == self._settings:
            self._known = before._known.copy()
        kept = frozenset(self._known)
        shown = [certificates[pair.cert, pair.key] for pair in config.certificates]
        self.sites = self._table(config, shown)
        used = {site.certificates for site in self.sites.values()}
        self._known = {key: site for key, site in self._known.items() if key in used}
        new = (site for key, site in self._known.items() if key not in kept)
        for site in islice(new, TRIED):  # a cipher, a bundle or a key that OpenSSL does not take is told now
            site.context()

    @property
    def authorities(self) -> bytes:
        """The bundle that clients' certificates are checked by, as it was read; empty: they are not."""
        return self._settings.ca

    def cold(self) -> list[Site]:
        """Those that have no context yet."""
        return [site for site in self._known.values() if site._context is None]

    def choose(self, hello: ClientHello) -> tuple[Site, ssl.SSLContext] | int:
        """What to answer a client with, or the alert to refuse it with."""
        site = self.sites.find(hello.sni)
        if site is None:
            return UNRECOGNIZED_NAME
        if hello.alpn and self._alpn.isdisjoint(hello.alpn):  # RFC 7301 §3.2
            return NO_APPLICATION_PROTOCOL
        return site, site.context()

    def misdirected(self, site: Site, host: str) -> bool:
        """Whether a connection that was shown `site` is the wrong one for `host`: there is a right one (RFC 9110
        §15.5.20)."""
        if site.covers(host):
            return False
        other = self.sites.match(host)
        return other is not None and other[0] != EVERY and other[1].certificates != site.certificates

    def _table(self, config: ListenerTls, shown: list[Certificate]) -> NameTable[Site]:
        """Each name with all certificates that have it, the first of each kind of key."""
        by_name: dict[str, dict[str, Certificate]] = {}
        default: dict[str, Certificate] = {}
        for certificate in shown:
            for name in certificate.names:
                by_name.setdefault(name, {}).setdefault(certificate.key_type, certificate)
        for certificate in shown:
            if certificate.cert == config.default:  # with its like of another kind of key
                beside = by_name[certificate.names[0]] if certificate.names else {}
                default = beside | {certificate.key_type: certificate} | default
        entries = [(name, self._site(group)) for name, group in by_name.items()]
        return NameTable(entries, self._site(default) if default else None)

    def _site(self, group: dict[str, Certificate]) -> Site:
        certificates = tuple(group.values())
        found = self._known.get(certificates)
        if found is None:
            found = self._known[certificates] = Site(certificates, self._settings)
        return found


def server_context(settings: Settings, certificates: tuple[Certificate, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[settings.min_version]
    context.set_ciphers(CIPHERS)
    # Every cipher of the list is good. In our order, as scanners ask for, but ChaCha20 for a client that puts it first
    # because AES is dear for it: that is why Mozilla leaves the order to clients.
    context.options |= (ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
                        | PRIORITIZE_CHACHA)
    context.num_tickets = 1  # as Go's servers; OpenSSL's two cost a handshake 4 % more, and each resumption brings one
    context.set_alpn_protocols(list(settings.alpn))
    for certificate in certificates:
        load_pair(context, certificate)
    if settings.client_auth is not None:
        context.load_verify_locations(cadata=settings.ca.decode("ascii", "ignore"))
        context.verify_mode = ssl.CERT_REQUIRED if settings.client_auth.mode == "require" else ssl.CERT_OPTIONAL
    return context


def try_out(certificate: Certificate) -> None:
    """Raises OSError or `ssl.SSLError` if OpenSSL does not take it."""
    load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate)


def load_pair(context: ssl.SSLContext, certificate: Certificate) -> None:
    """From memory, so that it is what was checked, whatever lies in the files by now. OpenSSL only takes paths."""
    with _in_memory(certificate.chain_pem) as chain, _in_memory(certificate.key_pem) as key:
        context.load_cert_chain(chain, key, password=_no_passphrase)


def _no_passphrase() -> str:
    return ""  # OpenSSL would ask the terminal otherwise


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path that leads to `data`, for as long as the block lasts."""
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
