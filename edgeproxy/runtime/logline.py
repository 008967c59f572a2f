"""The lines of the access log: one per exchange (http) or connection (tcp), in JSON or as nginx's `combined`.

Rules of this file:
* No byte from outside can break a line: what a client or a configuration chose goes through an escaper; numbers and
  addresses that the proxy printed itself do not. Lines are printable ASCII and end with a newline.
* The methods run once per exchange and are measured (0.9 µs): no float is formatted where a table will do, and what
  seldom changes (the second, the names, how a good exchange ends) is made once and kept.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING

from edgeproxy.errors import OK, Kind, Outcome

if TYPE_CHECKING:
    from edgeproxy.codec._leaf import RequestHead
    from edgeproxy.session.record import ConnectionRecord, ExchangeRecord

_quote: Callable[[str], str] = encode_basestring_ascii


def wall_offset() -> float:
    """Seconds from the monotonic clock to UTC."""
    return time.time() - time.monotonic()


class _Stamp:
    """The text of a second, made once per second; the offset is taken anew, so a stepped clock is followed."""

    __slots__ = ("base", "prefix", "_offset")

    def __init__(self, offset: Callable[[], float] = wall_offset) -> None:
        self._offset = offset
        self.base = 1 << 62
        """Monotonic milliseconds at which the second of `prefix` began."""
        self.prefix = ""

    def turn(self, when: float) -> int:
        """Make `prefix` that of the second of `when`; the milliseconds into it."""
        offset = self._offset()
        second = int(when + offset)
        self.base = int((second - offset) * 1000.0)
        self.prefix = self.render(second)
        return min(max(int(when * 1000.0) - self.base, 0), 999)

    def render(self, second: int) -> str:
        raise NotImplementedError


_MILLIS = tuple(f"{i:03d}Z" for i in range(1000))
_SHORT = tuple(f"{i / 1000:.3f}" for i in range(10_000))
"""Milliseconds with three decimals, by microseconds: to format a float costs 110 ns, twice a line; this 0.6 MB."""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000.0:.3f}" if seconds >= 0.0 else "null"


def _attempts(attempts: Sequence[tuple[str, str]]) -> str:
    return ",".join(f'{{"endpoint":{_quote(endpoint)},"reason":{_quote(reason)}}}' for endpoint, reason in attempts)


def _outcome(outcome: Outcome) -> str:
    return f'"outcome":{_quote(outcome.cause)},"phase":"{outcome.phase.value}"'


def _told(name: str, value: str) -> str:
    """A key that only lines with something to tell have."""
    return f',"{name}":{_quote(value)}' if value else ""


_NO_PHASES = '"queue_ms":null,"connect_ms":null'
_GOOD = {reused: f'"attempts":[],"reused":{str(reused).lower()},{_outcome(OK)}' for reused in (False, True)}
"""How nearly every line ends, ready-made."""


class JsonLines(_Stamp):
    """One JSON object a line. `http` is one expression on purpose: no intermediate strings."""

    __slots__ = ("_places",)
    PLACES = 4096

    def __init__(self, offset: Callable[[], float] = wall_offset) -> None:
        super().__init__(offset)
        self._places: dict[tuple[str, str, str, str], str] = {}

    def render(self, second: int) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))

    def http(self, x: ExchangeRecord) -> str:
        ended = x.ended
        ms = int(ended * 1000.0) - self.base
        if not 0 <= ms < 1000:
            ms = self.turn(ended)
        took = int((ended - x.started) * 1e6)
        first = int(x.first_byte_s * 1e6)
        head = x.head
        trace = x.traceparent
        phases = _NO_PHASES if x.queue_s < 0.0 and x.connect_s < 0.0 else self._phases(x)
        end = _GOOD[x.reused] if x.outcome is OK and not x.attempts else self._end(x)
        place = self._places.get((x.listener, x.route, x.service, x.endpoint)) or self._place(x)
        return (
            f'{{"ts":"{self.prefix}{_MILLIS[ms]}","kind":"http","client":"{x.client}",'
            f'{"" if head is None else head.log_fields() + ","}"status":{x.status},'
            f'"bytes_in":{x.bytes_in or "0"},"bytes_out":{x.bytes_out},'
            f'"duration_ms":{_SHORT[took] if 0 <= took < 10_000 else _ms(ended - x.started)},{phases},'
            f'"first_byte_ms":{_SHORT[first] if 0 <= first < 10_000 else _ms(x.first_byte_s)},'
            f'{place},{end}{_secure(x) if x.tls else ""}{_grpc(x) if x.grpc_status >= 0 else ""},'
            f'"request_id":{_quote(x.request_id)},"traceparent":{_quote(trace) if trace else _EMPTY}}}\n'
        )

    def tcp(self, x: ConnectionRecord) -> str:
        ended = x.ended
        ms = int(ended * 1000.0) - self.base
        if not 0 <= ms < 1000:
            ms = self.turn(ended)
        return (
            f'{{"ts":"{self.prefix}{_MILLIS[ms]}","kind":"tcp","client":"{x.client}",'
            f'"bytes_in":{x.bytes_in},"bytes_out":{x.bytes_out},"duration_ms":{_ms(ended - x.started)},'
            f'{self._phases(x)},"listener":{_quote(x.listener)},"service":{_quote(x.service)},'
            f'"endpoint":{_quote(x.endpoint)},"attempts":[{_attempts(x.attempts)}],{_outcome(x.outcome)}'
            f'{_told("sni", x.sni)}{_told("detail", x.cause)}}}\n'
        )

    def _phases(self, x: ConnectionRecord) -> str:
        return f'"queue_ms":{_ms(x.queue_s)},"connect_ms":{_ms(x.connect_s)}'

    def _end(self, x: ExchangeRecord) -> str:
        detail = f',"detail":{_quote(x.cause)}' if x.cause else ""
        return f'"attempts":[{_attempts(x.attempts)}],"reused":{str(x.reused).lower()},{_outcome(x.outcome)}{detail}'

    def _place(self, x: ExchangeRecord) -> str:
        if len(self._places) >= self.PLACES:  # names of configurations long gone, or more routes than it pays to keep
            self._places.clear()
        key = x.listener, x.route, x.service, x.endpoint
        text = (f'"listener":{_quote(x.listener)},"route":{_quote(x.route)},'
                f'"service":{_quote(x.service)},"endpoint":{_quote(x.endpoint)}')
        self._places[key] = text
        return text


def _secure(x: ExchangeRecord) -> str:
    return f',"tls":"{x.tls}","sni":{_quote(x.sni)}'


def _grpc(x: ExchangeRecord) -> str:
    return f',"grpc_status":{x.grpc_status}'


_EMPTY = '""'


def _version(head: RequestHead) -> str:
    return "HTTP/2.0" if head.major == 2 else f"HTTP/1.{head.minor}"


def _nginx_quote(value: bytes | str | None) -> str:
    """`value` in quotes as nginx writes it: `\\xHH` for quotes, backslashes, control and non-ASCII bytes; `-` for none.

    The JSON escaper is the fast test: its escapes make the text longer, and it leaves alone what nginx does.
    """
    if not value:
        return '"-"'
    text = value if isinstance(value, str) else value.decode("latin-1")
    quoted = _quote(text)
    if len(quoted) == len(text) + 2:
        return quoted
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\x{ord(c):02X}" for c in text) + '"'


_STATUS = {"ok": 200} | {kind.word: kind.status for kind in Kind}


class CombinedLines(_Stamp):
    """nginx's `combined`, and for tcp the format `basic` of nginx's stream module.

    The user name is always `-`: the proxy checks no passwords, and a name nobody has checked is not logged as if true.
    """

    __slots__ = ()

    def render(self, second: int) -> str:
        return time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(second))

    def http(self, x: ExchangeRecord) -> str:
        if not 0 <= int(x.ended * 1000.0) - self.base < 1000:
            self.turn(x.ended)
        head = x.head
        if head is None:
            return f'{x.client} - - [{self.prefix}] "-" {x.status} {x.bytes_out} "-" "-"\n'
        request = _nginx_quote(f"{head.method} {head.target} {_version(head)}")
        return (f'{x.client} - - [{self.prefix}] {request} {x.status} {x.bytes_out} '
                f'{_nginx_quote(head.get(b"referer"))} {_nginx_quote(head.get(b"user-agent"))}\n')

    def tcp(self, x: ConnectionRecord) -> str:
        if not 0 <= int(x.ended * 1000.0) - self.base < 1000:
            self.turn(x.ended)
        return (f'{x.client} [{self.prefix}] TCP {_STATUS.get(x.outcome.cause, 500)} {x.bytes_out} {x.bytes_in} '
                f'{x.ended - x.started:.3f}\n')
