"""The closed vocabulary of what can go wrong and how things end.

An error is born with its kind, its side and its retry class; everything later (whether to try again, the status, the
log line, `Proxy-Status`) is derived from these and from nothing else. Nothing here imports the rest of the program.
"""
from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Side(Enum):
    CLIENT = "client"
    UPSTREAM = "upstream"
    PROXY = "proxy"


class RetryClass(Enum):
    """What a failure leaves open; `policy/retry.py` decides whether it is used."""

    NEVER = "never"
    CONNECT = "connect"  # nothing was sent, or nothing was looked at: safe for any method
    STALE = "stale"      # a reused idle channel died before the first response byte
    RESET = "reset"      # a fresh channel died before the first response byte
    TIMEOUT = "timeout"  # no response byte in time
    STATUS = "status"    # a whole response head whose status asks for another try


class Kind(Enum):
    """(word in logs and metrics, error type of RFC 9209 §2.3, status, side, retry class)."""

    BAD_REQUEST = ("bad_request", "http_request_error", 400, Side.CLIENT, RetryClass.NEVER)
    METHOD_REFUSED = ("method_refused", "http_request_denied", 405, Side.CLIENT, RetryClass.NEVER)
    REQUEST_TIMEOUT = ("request_timeout", "http_request_error", 408, Side.CLIENT, RetryClass.NEVER)
    BODY_TOO_LARGE = ("body_too_large", "http_request_error", 413, Side.CLIENT, RetryClass.NEVER)
    TARGET_TOO_LONG = ("target_too_long", "http_request_error", 414, Side.CLIENT, RetryClass.NEVER)
    EXPECTATION_FAILED = ("expectation_failed", "http_request_error", 417, Side.CLIENT, RetryClass.NEVER)
    MISDIRECTED = ("misdirected", "http_request_error", 421, Side.CLIENT, RetryClass.NEVER)
    BAD_PROXY_HEADER = ("bad_proxy_header", "connection_terminated", 400, Side.CLIENT, RetryClass.NEVER)  # only logged
    BAD_CLIENT_HELLO = ("bad_client_hello", "tls_protocol_error", 400, Side.CLIENT, RetryClass.NEVER)  # only logged
    HANDSHAKE_FAILED = ("handshake_failed", "tls_protocol_error", 400, Side.CLIENT, RetryClass.NEVER)  # only logged
    HANDSHAKE_TIMEOUT = ("handshake_timeout", "connection_timeout", 408, Side.CLIENT, RetryClass.NEVER)  # only logged
    HEAD_TOO_LARGE = ("head_too_large", "http_request_error", 431, Side.CLIENT, RetryClass.NEVER)
    CODING_UNKNOWN = ("coding_unknown", "http_request_error", 501, Side.CLIENT, RetryClass.NEVER)
    VERSION_REFUSED = ("version_refused", "http_request_error", 505, Side.CLIENT, RetryClass.NEVER)
    # A whole HTTP/2 connection; of an endpoint's connection its owner makes RESPONSE_BROKEN. Only logged.
    H2_BROKEN = ("h2_protocol_error", "http_protocol_error", 400, Side.CLIENT, RetryClass.NEVER)
    H2_FLOOD = ("h2_flood", "http_protocol_error", 400, Side.CLIENT, RetryClass.NEVER)
    CLIENT_GONE = ("client_gone", "connection_terminated", 499, Side.CLIENT, RetryClass.NEVER)  # only logged

    NO_ROUTE = ("no_route", "destination_not_found", 404, Side.PROXY, RetryClass.NEVER)
    INTERNAL = ("internal", "proxy_internal_error", 500, Side.PROXY, RetryClass.NEVER)
    NO_WEIGHT = ("no_weight", "proxy_configuration_error", 500, Side.PROXY, RetryClass.NEVER)
    DRAINING = ("draining", "destination_unavailable", 503, Side.PROXY, RetryClass.NEVER)
    EXHAUSTED = ("exhausted", "connection_limit_reached", 503, Side.PROXY, RetryClass.NEVER)  # our descriptors or ports
    QUEUE_FULL = ("queue_full", "connection_limit_reached", 503, Side.PROXY, RetryClass.NEVER)
    QUEUE_TIMEOUT = ("queue_timeout", "connection_limit_reached", 503, Side.PROXY, RetryClass.NEVER)
    DNS_FAILED = ("dns_failed", "dns_error", 503, Side.PROXY, RetryClass.NEVER)  # no name of the service was ever found
    UNAVAILABLE = ("unavailable", "destination_unavailable", 503, Side.PROXY, RetryClass.NEVER)
    TOTAL_TIMEOUT = ("total_timeout", "http_response_timeout", 504, Side.PROXY, RetryClass.NEVER)
    IDLE_TIMEOUT = ("idle_timeout", "connection_timeout", 504, Side.PROXY, RetryClass.NEVER)  # only logged

    CONNECT_REFUSED = ("connect_refused", "connection_refused", 502, Side.UPSTREAM, RetryClass.CONNECT)
    CONNECT_FAILED = ("connect_failed", "destination_ip_unroutable", 502, Side.UPSTREAM, RetryClass.CONNECT)
    CONNECT_TIMEOUT = ("connect_timeout", "connection_timeout", 504, Side.UPSTREAM, RetryClass.CONNECT)
    TLS_CERTIFICATE = ("tls_certificate", "tls_certificate_error", 502, Side.UPSTREAM, RetryClass.CONNECT)
    TLS_FAILED = ("tls_failed", "tls_protocol_error", 502, Side.UPSTREAM, RetryClass.CONNECT)
    TLS_ALERT = ("tls_alert", "tls_alert_received", 502, Side.UPSTREAM, RetryClass.CONNECT)
    # HTTP/2: the endpoint says that it has not looked at the request (RFC 9113 §8.7): any method may be repeated.
    GOAWAY = ("goaway", "connection_terminated", 502, Side.UPSTREAM, RetryClass.CONNECT)
    NOT_PROCESSED = ("not_processed", "connection_terminated", 502, Side.UPSTREAM, RetryClass.CONNECT)
    STALE = ("stale", "connection_terminated", 502, Side.UPSTREAM, RetryClass.STALE)
    RESET = ("reset", "connection_terminated", 502, Side.UPSTREAM, RetryClass.RESET)
    RESPONSE_TIMEOUT = ("response_timeout", "http_response_timeout", 504, Side.UPSTREAM, RetryClass.TIMEOUT)
    STATUS = ("status", "http_response_status", 502, Side.UPSTREAM, RetryClass.STATUS)
    RESPONSE_BROKEN = ("response_broken", "http_protocol_error", 502, Side.UPSTREAM, RetryClass.NEVER)
    RESPONSE_CUT = ("response_cut", "http_response_incomplete", 502, Side.UPSTREAM, RetryClass.NEVER)

    def __init__(self, word: str, error: str, status: int, side: Side, retry: RetryClass) -> None:
        self.word = word
        self.error = error
        self.status = status
        self.side = side
        self.retry = retry


# The status with which a parser refuses a request, and the kind it stands for.
CLIENT_FAULTS = {400: Kind.BAD_REQUEST, 405: Kind.METHOD_REFUSED, 408: Kind.REQUEST_TIMEOUT, 413: Kind.BODY_TOO_LARGE,
                 414: Kind.TARGET_TOO_LONG, 417: Kind.EXPECTATION_FAILED, 431: Kind.HEAD_TOO_LARGE,
                 501: Kind.CODING_UNKNOWN, 505: Kind.VERSION_REFUSED}


class ProxyError(Exception):
    """One failure, on its way to the place that decides what to do about it.

    `cause` is for the log and for `details` of Proxy-Status: plain words, no addresses of endpoints.
    """

    def __init__(self, kind: Kind, cause: str = "") -> None:
        super().__init__(cause or kind.word)
        self.kind = kind
        self.cause = cause

    @property
    def side(self) -> Side:
        return self.kind.side

    @property
    def retry(self) -> RetryClass:
        return self.kind.retry


class Truncated(ConnectionError):
    """A TLS peer closed without saying that it had said everything: what came may not be all of it."""


def status_for(error: ProxyError) -> int:
    """The status a client is given for a failure that the proxy answers itself."""
    return error.kind.status


class Phase(Enum):
    """Where an exchange or a connection was when it ended."""

    HANDSHAKE = "handshake"  # before the first request, or before a relay has begun
    HEAD = "head"          # the client's head was not complete
    ROUTE = "route"
    QUEUE = "queue"        # waiting for a place at an endpoint
    CONNECT = "connect"
    SEND = "send"          # the request was under way to the endpoint
    WAIT = "wait"          # for the response's head
    BODY = "body"
    TUNNEL = "tunnel"      # after an upgrade, or a tcp relay
    DONE = "done"


class Outcome(NamedTuple):
    """Why and in which phase something ended: one word each, everywhere the same. `ok` is a good end."""

    cause: str
    phase: Phase


OK = Outcome("ok", Phase.DONE)
