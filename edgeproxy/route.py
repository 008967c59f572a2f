"""One route, compiled: what it asks of a request beside host and path, and what it leads to.

A route is immutable and holds everything in the form in which a request needs it: conditions and fields as bytes, a
weighted choice among services, the pieces of a new path. Which route a request takes is `router.py`.

Rules: no I/O, no clock, no chance of its own. Paths that come in are normalised ones, so they hold no dot segment and
no encoded unreserved character; a new path is made of what was matched, never of something a server reads otherwise.
"""
from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Literal, NamedTuple, Protocol
from urllib.parse import parse_qsl, quote

from edgeproxy.config import model
from edgeproxy.errors import Kind, ProxyError

_DEFAULT_PORTS = {"http": 80, "https": 443}
_TRIPLET = re.compile("%(?:(2[DdEe]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])|[0-9A-Fa-f]{2})")
_DOT_SEGMENT = re.compile("/(?:[.]|%2e){1,2}(?:/|$)", re.IGNORECASE)
_GROUP = re.compile(r"\$(\d+)")

Pairs = tuple[tuple[bytes, bytes], ...]
FieldEdits = tuple[Pairs, Pairs, tuple[bytes, ...]]
"""(set, add, remove), as the codec wants them."""


class Head(Protocol):
    """What conditions look at in a request's head; asked only when a route that fits host and path has any."""

    @property
    def query(self) -> str: ...

    def get(self, name: bytes, /) -> bytes | None: ...


class Asked:
    """A request as conditions see it; the query is taken apart at most once, whatever the number of routes."""

    __slots__ = ("method", "head", "_parameters")

    def __init__(self, method: str, head: Head) -> None:
        self.method = method
        self.head = head
        self._parameters: dict[str, str] | None = None

    def parameter(self, name: str) -> str | None:
        """The decoded value; of a parameter given several times the first counts."""
        found = self._parameters
        if found is None:
            found = self._parameters = {}
            for key, value in parse_qsl(self.head.query, keep_blank_values=True):
                found.setdefault(key, value)
        return found.get(name)


class Split:
    """A choice among services by weight."""

    __slots__ = ("_names", "_bounds", "_total", "_last")

    def __init__(self, services: Sequence[model.WeightedService]) -> None:
        some = [s for s in services if s.weight > 0]
        self._names = tuple(s.name for s in some)
        self._bounds = tuple(accumulate(s.weight for s in some))
        self._total = self._bounds[-1] if some else 0
        self._last = len(some) - 1

    def choose(self, rng: Random) -> str | None:
        """The name of a service; None when every weight is 0 (500, `Kind.NO_WEIGHT`)."""
        if self._last < 0:
            return None
        return self._names[bisect(self._bounds, rng.random() * self._total, 0, self._last)]


class LocalReply(NamedTuple):
    """An answer of the proxy's own, ready to be sent."""

    status: int
    body: bytes
    content_type: bytes


class PathEdit:
    """A new path for a request: a whole one (with the groups of the route's regex) or another prefix."""

    __slots__ = ("_literal", "_pieces", "_pattern", "_replacement", "_matched", "_elements")

    def __init__(self, match: model.PathMatch, *, whole: str | None, prefix: str | None, groups: bool) -> None:
        self._literal: str | None = None
        self._pieces: tuple[str | int, ...] = ()
        self._pattern = re.compile(match.value) if groups and match.kind == "regex" else None
        self._replacement = ""
        matched = _canonical(match.value).rstrip("/")
        self._matched = len(matched)
        self._elements = matched.count("/")
        if whole is not None:
            if self._pattern is None:
                self._literal = _rooted(_wire(whole))
            else:
                self._pieces = _template(whole, self._pattern)
            return
        if match.kind != "prefix":
            raise ValueError("a prefix can be replaced only where a prefix is matched")
        self._replacement = _rooted(_wire(prefix or "")).rstrip("/")

    def apply(self, path: str, raw: str) -> str:
        """`path` is what was matched, `raw` the same path as it was sent ("" if that is not known).

        Raises ProxyError when a group of the regex would make the new path climb.
        """
        if self._literal is not None:
            return self._literal
        if self._pattern is None:
            return self._replacement + self._rest(path, raw) or "/"
        found = self._pattern.search(path)
        assert found is not None, "only a path that the route matched is rewritten"
        new = _rooted("".join(p if isinstance(p, str) else found[p] or "" for p in self._pieces))
        # `^/v1(.*)` with `/x/$1` would turn `/v1../secret` into `/x/../secret`: the trap of nginx's `alias`.
        if _DOT_SEGMENT.search(new):
            raise ProxyError(Kind.BAD_REQUEST, "the rewritten path would climb")
        return new

    def _rest(self, path: str, raw: str) -> str:
        """What follows the matched prefix, as it was sent where that is sure to be what was matched.

        Decoding leaves the number of slashes alone, and removing dot segments always lowers it (but for one `.` at the
        end, which does no harm); so with as many slashes in both the rest as sent begins after as many elements as the
        prefix has. Else `/foo/../foo/x` rewritten as it came would leave the new prefix, and the normalised path, which
        means the same, goes out. So it does for a target in absolute form.
        """
        if path == raw or not raw.startswith("/") or raw.count("/") != path.count("/"):
            return path[self._matched:]
        parts = raw.split("/", self._elements + 1)
        return "/" + parts[-1] if len(parts) > self._elements + 1 else ""


class Route:
    """A compiled route: what it asks of a request, and what it leads to."""

    __slots__ = ("config", "name", "index", "kind", "path", "pattern", "plain", "service", "split", "redirect",
                 "respond", "retry", "response_timeout", "total_timeout", "request_edits", "response_edits",
                 "rewrite_host", "rewrites", "_methods", "_headers", "_query", "_rewrite", "_location")

    def __init__(self, config: model.Route, index: int) -> None:
        self.config = config
        self.name = config.name
        self.index = index
        """Place in the file."""
        self.kind = config.path.kind
        self.path = config.path.value
        self.pattern = re.compile(self.path) if self.kind == "regex" else None
        if self.kind != "regex":
            self.path = _canonical(self.path)
        if self.kind == "prefix":
            self.path = self.path.rstrip("/")
        self._methods = frozenset(config.methods)
        self._headers = tuple((name.lower().encode(), value.encode()) for name, value in config.headers)
        self._query = config.query
        self.plain = not (self._methods or self._headers or self._query)
        """It has no conditions beside host and path."""
        self._lead_to(config)
        self.retry = config.retry
        self.response_timeout = config.timeouts.response
        self.total_timeout = config.timeouts.total
        self.request_edits = _field_edits(config.request_headers)
        self.response_edits = _field_edits(config.response_headers)

    def _lead_to(self, config: model.Route) -> None:
        some = [s.name for s in config.service if s.weight > 0]
        self.service: str | None = some[0] if len(some) == 1 else None
        self.split = Split(config.service) if config.service and self.service is None else None
        """Set where `service` is None and the route neither redirects nor responds."""
        self.redirect = config.redirect
        self._location: PathEdit | None = None
        move = config.redirect
        if move is not None and (move.path is not None or move.prefix is not None):
            self._location = PathEdit(config.path, whole=move.path, prefix=move.prefix, groups=False)
        self.respond: LocalReply | None = None
        if config.respond is not None:
            reply = config.respond
            self.respond = LocalReply(reply.status, reply.body.encode(), reply.content_type.encode())
        new = config.rewrite
        self.rewrite_host = new.host.encode() if new.host is not None else None
        self.rewrites = new.path is not None or new.prefix is not None
        """The path changes: the request goes out with `target_for`, else with the target as it came."""
        self._rewrite = PathEdit(config.path, whole=new.path, prefix=new.prefix, groups=True) if self.rewrites else None

    def rank(self, order: int) -> tuple[int | bool, ...]:
        """Least first is the order of preference among the routes of one host; `order` ranks regexes, else 0."""
        kind = ("exact", "prefix", "regex").index(self.kind)
        length = len(self.path) if self.kind == "prefix" else 0
        return kind, -length, order, not self._methods, -len(self._headers), -len(self._query), self.index

    def refusal(self, asked: Asked) -> Literal["method", "header", "query"] | None:
        """The first condition that the request does not meet; None: it meets them all."""
        if self._methods and asked.method not in self._methods:
            return "method"
        for field, wanted in self._headers:
            if asked.head.get(field) != wanted:
                return "header"
        for name, value in self._query:
            if asked.parameter(name) != value:
                return "query"
        return None

    def target_for(self, path: str, query: str, raw_target: str) -> bytes:
        """The request target for the endpoint, in origin form; only where `rewrites`.

        `path` and `query` are those of the head, `raw_target` is the target as it was sent, in any form.
        Raises ProxyError(BAD_REQUEST) when the rewritten path would hold a dot segment.
        """
        assert self._rewrite is not None
        new = self._rewrite.apply(path, raw_target.partition("?")[0])
        return (f"{new}?{query}" if query else new).encode("latin-1")

    def location_for(self, scheme: str, host: str, port: int, path: str, query: str) -> str:
        """The Location of the redirect; what the redirect does not name is kept from the arguments.

        A scheme that is named without a port means its default port; default ports are left out. Without any host
        (HTTP/1.0) it is relative, and never one that begins with two slashes: that would name another host.
        """
        move = self.redirect
        assert move is not None
        if self._location is not None:
            path = self._location.apply(path, "")
        if query:
            path = f"{path}?{query}"
        new_scheme = move.scheme or scheme
        host = move.host or host
        if not host:
            return "/" + path.lstrip("/")
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        if move.port is not None:
            port = move.port
        elif move.scheme is not None:
            port = _DEFAULT_PORTS[new_scheme]
        if port != _DEFAULT_PORTS.get(new_scheme):
            host = f"{host}:{port}"
        return f"{new_scheme}://{host}{path}"

    def __repr__(self) -> str:
        return f"<Route {self.name}>"


def _wire(text: str) -> str:
    """Configured text as it stands in a request target: what may not stand there is percent-encoded UTF-8."""
    return quote(text, safe="/%:@!$&'()*+,;=?[]~|^`{}\"\\<>")


def _canonical(path: str) -> str:
    """A configured path as normalised request paths write it (RFC 3986 §6.2.2): unreserved characters decoded, other
    triplets in upper case."""
    return _TRIPLET.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[0].upper(), _wire(path))


def _rooted(path: str) -> str:
    return path if path.startswith("/") else "/" + path


def _template(text: str, pattern: re.Pattern[str]) -> tuple[str | int, ...]:
    """The literal pieces and the group numbers of `/x/$1`."""
    pieces = [int(p) if i % 2 else _wire(p) for i, p in enumerate(_GROUP.split(text))]
    if any(isinstance(p, int) and p > pattern.groups for p in pieces):
        raise ValueError(f"{text!r} names a group that the regex does not have")
    return tuple(p for p in pieces if p != "")


def _field_edits(edits: model.HeaderEdits) -> FieldEdits | None:
    if not (edits.set or edits.add or edits.remove):
        return None
    return (tuple((n.encode(), v.encode()) for n, v in edits.set),
            tuple((n.encode(), v.encode()) for n, v in edits.add),
            tuple(n.encode() for n in edits.remove))
