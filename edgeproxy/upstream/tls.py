"""TLS towards endpoints: what a service asks of theirs, and what a failed handshake is called.

Rules: contexts are built with the configuration, so that a file or setting that OpenSSL does not take is a fault of the
configuration and never of a request; a context is not changed afterwards. Certificates are verified unless the service
says otherwise. What is said of a failure goes into the log and to the client: it names no address.
"""
from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping

from edgeproxy.config.certificates import Certificate
from edgeproxy.config.model import Service
from edgeproxy.errors import Kind, ProxyError
from edgeproxy.net.certificates import load_pair
from edgeproxy.net.tls import TlsTransport
from edgeproxy.policy.endpoint import Endpoint

PROTOCOLS = {"https": "http/1.1", "h2": "h2"}
"""The protocols of a service that have TLS, as ALPN calls them."""

# An endpoint of TLS 1.3 can refuse the proxy's certificate only after the proxy takes the handshake for done.
_LATE = frozenset({"CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNSUPPORTED_CERTIFICATE", "CERTIFICATE_REVOKED",
                   "CERTIFICATE_EXPIRED", "CERTIFICATE_UNKNOWN", "UNKNOWN_CA", "ACCESS_DENIED"})


class ClientTls:
    """Of one service: its context, and the last connection to each endpoint, for its session."""

    __slots__ = ("context", "identity", "authorities", "_server_name", "_last")

    def __init__(self, context: ssl.SSLContext, server_name: str, identity: bytes, authorities: bytes = b"") -> None:
        self.context = context
        self.identity = identity
        """Digest of everything that it was made of: the same one means that nothing has changed."""
        self.authorities = authorities
        """Digest of the bundle that the service names; empty: it names none."""
        self._server_name = server_name
        self._last: dict[str, TlsTransport] = {}

    def name_for(self, endpoint: Endpoint) -> str:
        """What the certificate must be for. It is asked for by SNI, unless it is an IP address (RFC 6066 §3)."""
        return self._server_name or endpoint.name.removesuffix(".") or endpoint.host or "localhost"

    def session_for(self, endpoint: Endpoint) -> ssl.SSLSession | None:
        """To be resumed. Tickets come after the handshake: so it is asked of the last connection when it is needed."""
        last = self._last.get(endpoint.address)
        return last.session if last is not None else None

    def opened(self, endpoint: Endpoint, transport: TlsTransport) -> None:
        self._last[endpoint.address] = transport

    def forget(self, endpoint: Endpoint) -> None:
        """The endpoint has left the service."""
        self._last.pop(endpoint.address, None)


def build_tls(service: Service, certificates: Mapping[tuple[str, str], Certificate], before: ClientTls | None = None
              ) -> ClientTls | None:
    """None: the service has none. `before` is kept if nothing has changed, in the files either: then its sessions and
    connections are kept too. Raises OSError or `ssl.SSLError`."""
    alpn = PROTOCOLS.get(service.protocol)
    if alpn is None:
        return None
    tls = service.tls
    shown = None if tls.client_cert is None else certificates[tls.client_cert.cert, tls.client_cert.key]
    digest = hashlib.sha256(repr((alpn, tls)).encode())
    if shown is not None:
        digest.update(shown.chain_pem + shown.key_pem)
    authorities = b""
    if tls.ca is not None:
        with open(tls.ca, "rb") as bundle:
            authorities = hashlib.sha256(bundle.read()).digest()
        digest.update(authorities)
    identity = digest.digest()
    if before is not None and before.identity == identity:
        return before
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([alpn])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(tls.ca)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # who names an intermediate authority trusts that one
    if shown is not None:
        load_pair(context, shown)
    return ClientTls(context, tls.server_name or "", identity, authorities)


# ---- failures

def failure(error: Exception | None, http2: bool = False) -> ProxyError:
    """What a handshake that failed with `error` (None: the connection was closed) is called. `http2`: HTTP/2 was
    asked for in it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        # Of "IP address mismatch, certificate is not valid for '10.0.0.5'" the second half is nobody's business.
        reason = error.verify_message.partition(",")[0]
        return ProxyError(Kind.TLS_CERTIFICATE, f"the endpoint's certificate was refused: {reason.lower()}")
    if isinstance(error, ssl.SSLError):
        reason = error.reason or _read(str(error.args[-1]))
        _, alert, told = reason.partition("_ALERT_")
        if alert:
            hint = f"; is its protocol {'https' if http2 else 'h2'}?" if told == "NO_APPLICATION_PROTOCOL" else ""
            return ProxyError(Kind.TLS_ALERT, f"the endpoint refused the TLS handshake: {_words(told)}{hint}")
        if reason == "WRONG_VERSION_NUMBER":  # so OpenSSL calls it if the answer is no record of TLS at all
            return ProxyError(Kind.TLS_FAILED, "the endpoint did not answer with TLS; is its protocol "
                                               f"{'h2c' if http2 else 'http'}?")
        return ProxyError(Kind.TLS_FAILED, f"the TLS handshake failed: {_words(reason)}")
    return ProxyError(Kind.TLS_FAILED, "the endpoint closed the connection within the TLS handshake")


def late_refusal(error: Exception | None) -> ProxyError | None:
    """Whether a connection that ended with `error` before its first response was refused for the proxy's certificate:
    then the request was never looked at."""
    if isinstance(error, ssl.SSLError) and (error.reason or "").partition("_ALERT_")[2] in _LATE:
        return failure(error)
    return None


def _read(text: str) -> str:
    """The reason within `[SSL] tlsv1 alert no application protocol (_ssl.c:1006)`: not for all has Python a name."""
    return text.partition("] ")[2].partition(" (")[0].upper().replace(" ", "_") or "UNKNOWN"


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")
