"""What one scalar may say: from its text to a value, with the words for messages and the JSON Schema of each form.

Rules: a form is named in `model.py` (`Form("duration")`) and known here, nowhere else; `ValueError` holds a whole
sentence for the user. Text is taken as written: no octal, no `yes`, no sexagesimal numbers.
"""
from __future__ import annotations

import os.path
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from edgeproxy.config import addresses
from edgeproxy.config.model import Bind, EndpointAddress, StatusRange
from edgeproxy.config.problem import quoted

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h)?", re.ASCII)
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = 8760 * 3600.0
_SIZE = re.compile(r"(\d{1,15})(B|KiB|MiB|GiB)?", re.ASCII)
_BYTES = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~]*")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")
_VARIABLE = re.compile(r"\$(\$)?\{([^}]*)(\})?")
_VARIABLE_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)

FRAMING = frozenset((
    "connection", "content-length", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade"))
"""Fields of one connection or of framing: the proxy writes them itself (RFC 9110 §7.6.1, RFC 9112 §6)."""


@dataclass(frozen=True, slots=True)
class ScalarForm:
    """How one scalar is read. `words` completes "expected …"; `schema` is what an editor should accept."""

    name: str
    words: str
    schema: dict[str, Any]
    parse: Callable[[str], Any]
    anchored: Callable[[Any, str], Any] | None = field(default=None)
    """Makes a relative path absolute: (value, folder) → value."""
    show: Callable[[Any], Any] = field(default=lambda value: value)
    """The value as it would be written."""


def expand(text: str, env: Callable[[str], str | None]) -> str:
    """`${NAME}` and `${NAME:-default}` from the environment, `$${` is `${`."""
    def one(match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:]
        if not match[3]:
            raise ValueError("${ is never closed by }; for ${ itself write $${")
        parts = _VARIABLE_NAME.fullmatch(match[2])
        if not parts:
            raise ValueError(f"{quoted(match[2])} is not the name of a variable; for ${{ itself write $${{")
        if parts[2] is not None and "${" in parts[2]:
            raise ValueError("a default cannot hold another ${…}")
        value = env(parts[1])
        if parts[2] is not None:
            return value or parts[2]
        if value is None:
            raise ValueError(f"the environment variable {parts[1]} is not set; "
                             f"set it, or give a default: ${{{parts[1]}:-default}}")
        return value
    return _VARIABLE.sub(one, text)


def duration(low: float, high: float = _LONGEST) -> Callable[[str], float]:
    def parse(text: str) -> float:
        match = _DURATION.fullmatch(text)
        if not match:
            if text.startswith("-"):
                raise ValueError("a duration cannot be negative")
            raise ValueError(f"{quoted(text)} is not a duration; write 250ms, 5s, 2m, 3h or a number of seconds")
        seconds = float(match[1]) * _SECONDS[match[2]]
        if seconds > _LONGEST:
            raise ValueError("a duration is at most 8760h, which is a year")
        if seconds > high:
            raise ValueError(f"this duration is at most {show_duration(high)}")
        if seconds == 0 and low > 0:
            raise ValueError("this duration cannot be 0")
        if 0 < seconds < 0.001:
            raise ValueError("a duration is at least 1ms" if low > 0 else "a duration is 0 or at least 1ms")
        if seconds < low:
            raise ValueError(f"this duration is at least {show_duration(low)}")
        return seconds
    return parse


def show_duration(seconds: float | None) -> str | int | None:
    if not seconds:
        return None if seconds is None else 0
    for unit in ("h", "m", "s"):
        if seconds % _SECONDS[unit] == 0:
            return f"{round(seconds / _SECONDS[unit])}{unit}"
    return f"{round(seconds * 1000)}ms"


def show_size(number: int) -> str | int:
    for unit in ("GiB", "MiB", "KiB"):
        if number and number % _BYTES[unit] == 0:
            return f"{number // _BYTES[unit]}{unit}"
    return number


def size(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        match = _SIZE.fullmatch(text)
        if not match:
            unit = re.fullmatch(r"(\d+) ?([kKmMgG])[iI]?[bB]?", text)
            if unit:
                guess = f"{unit[1]}{unit[2].upper()}iB"
                raise ValueError(f"{quoted(text)} is not a size, did you mean {quoted(guess)}?")
            raise ValueError(f"{quoted(text)} is not a size; write 512B, 16KiB, 1MiB or a number of bytes")
        return _within(int(match[1]) * _BYTES[match[2]], low, high, " bytes")
    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text):
            hint = "; write it without leading zeros" if re.fullmatch(r"0[0-9]+", text) else ""
            raise ValueError(f"{quoted(text)} is not a whole number{hint}")
        return _within(int(text), low, high, "")
    return parse


def _within(number: int, low: int, high: int, unit: str) -> int:
    if number < low:
        raise ValueError("this cannot be negative" if number < 0 else
                         "this cannot be 0" if low == 1 else f"this is at least {low}{unit}")
    if number > high:
        raise ValueError(f"this is at most {high}{unit}")
    return number


def boolean(text: str) -> bool:
    if text in ("true", "false"):
        return text == "true"
    raise ValueError(f"{quoted(text)} is neither true nor false")


def name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not a name: letters, digits, - _ . within, at most 64")
    return text


def token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not the name of a header: letters, digits and -")
    return text


def matched_field(text: str) -> str:
    lower = token(text).lower()
    if lower == "host":
        raise ValueError("to match the host use host")
    return lower


def edited_field(text: str) -> str:
    lower = token(text).lower()
    if lower == "host":
        raise ValueError("the host is changed by rewrite: {host: …}")
    if lower in FRAMING:
        raise ValueError(f"{text} belongs to the connection; the proxy writes it itself")
    return text


def probe_field(text: str) -> str:
    if token(text).lower() == "host":
        raise ValueError("the host that a probe asks for is its key host")
    return edited_field(text)


def cookie_name(text: str) -> str:
    """RFC 6265 §4.1.1: a token."""
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not the name of a cookie: letters, digits, - and _")
    return text


def secret(text: str) -> str:
    if not text.strip():
        raise ValueError("this secret is empty; leave it out for one of this machine")
    return text


def header_value(text: str) -> str:
    if not _VALUE.fullmatch(text):
        if any(char < " " or char == "\x7f" for char in text):
            raise ValueError("a header cannot hold control characters or line breaks")
        raise ValueError("a header holds ASCII only")
    if text != text.strip():
        raise ValueError("a header cannot begin or end with a blank")
    return text


def method(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not a method; write GET, HEAD, POST …")
    if text != text.upper():
        raise ValueError(f"methods are in capitals, did you mean {quoted(text.upper())}?")
    if text in ("CONNECT", "TRACE"):
        raise ValueError(f"{text} is always answered 405 by the proxy, so this would never match")
    return text


def probe_method(text: str) -> str:
    if text in ("CONNECT", "TRACE"):
        raise ValueError(f"{text} does not ask for anything; write GET, HEAD, OPTIONS …")
    return method(text)


def regex(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError("paths are compared percent-encoded; a regex for them is printable ASCII")
    if len(text) > 2000:
        raise ValueError("a regex has at most 2000 characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
    except re.error as error:
        place = f" at character {error.pos + 1}" if error.pos is not None else ""
        raise ValueError(f"this regex is not valid: {error.msg}{place}") from None
    except (OverflowError, RecursionError, MemoryError):
        raise ValueError("this regex is too large") from None
    return text


def plain(text: str) -> str:
    return text


def line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("this cannot hold control characters or line breaks")
    return text


def status(text: str) -> int:
    if not re.fullmatch(r"[2-5][0-9][0-9]", text):
        raise ValueError(f"{quoted(text)} is not a status; write a number from 200 to 599")
    return int(text)


def retry_condition(text: str) -> str | int:
    if text in ("connect", "reset", "timeout"):
        return text
    if re.fullmatch(r"[45][0-9][0-9]", text):
        return int(text)
    raise ValueError(f"{quoted(text)} is not a reason to retry; "
                     "write connect, reset, timeout or a status from 400 to 599")


def file_path(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("this is not the path of a file")
    return text


def https_port(text: str) -> bool | int:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[1-9][0-9]{0,4}", text) and int(text) < 65536:
        return int(text)
    raise ValueError(f"{quoted(text)} is neither true nor false nor a port")


def target(text: str) -> str:
    if not re.fullmatch(r"/[!-~]*", text) or "#" in text:
        raise ValueError(f"{quoted(text)} cannot be asked for; write a path, perhaps with a query: /healthz?deep=1")
    return text


def status_range(text: str) -> StatusRange:
    match = re.fullmatch(r"([2-5][0-9][0-9])(?:-([2-5][0-9][0-9]))?", text)
    if not match:
        raise ValueError(f"{quoted(text)} is not a status; write 200, or a range such as 200-399")
    if match[2] and int(match[2]) < int(match[1]):
        raise ValueError(f"this range is empty, did you mean {match[2]}-{match[1]}?")
    return StatusRange(int(match[1]), int(match[2] or match[1]))


def _anchored_file(text: str, folder: str) -> str:
    return text if text == "-" else os.path.join(folder, text)


def _anchored(text: str, folder: str) -> str:
    return os.path.join(folder, text)


def _anchored_socket(value: Bind | EndpointAddress, folder: str) -> Bind | EndpointAddress:
    if not value.path or os.path.isabs(value.path) or not folder:
        return value
    where = os.path.join(folder, value.path)
    addresses.check_socket_path(where)
    return replace(value, path=where)


_TEXT: dict[str, Any] = {"type": "string"}
_LOOSE: dict[str, Any] = {"type": ["string", "number", "boolean"]}
VARIABLE = {"$ref": "#/$defs/variable"}


def _or_variable(*schemas: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [*schemas, VARIABLE]}


def scalar_form(word: str, low: float, high: float) -> ScalarForm:
    """The form of that name; `low` and `high` bound numbers."""
    if word == "duration":
        return ScalarForm(word, "a duration such as 250ms, 5s, 2m, 3h or a number of seconds", _or_variable(
            {"type": "number", "minimum": low, "maximum": min(high, _LONGEST)},
            {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)?$"}), duration(low, high), show=show_duration)
    if word == "size":
        return ScalarForm(word, "a size such as 512B, 16KiB, 1MiB or a number of bytes", _or_variable(
            {"type": "integer", "minimum": int(low), "maximum": int(high)},
            {"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)?$"}), size(int(low), int(high)), show=show_size)
    if word == "whole":
        return ScalarForm(word, "a whole number", _or_variable(
            {"type": "integer", "minimum": int(low), "maximum": int(high)},
            {"type": "string", "pattern": "^(0|[1-9][0-9]*)$"}), whole(int(low), int(high)))
    return _FORMS[word]


_FORMS: dict[str, ScalarForm] = {form.name: form for form in (
    ScalarForm("boolean", "true or false", _or_variable({"type": "boolean"}, {"enum": ["true", "false"]}), boolean),
    ScalarForm("name", "a name", _LOOSE, name),
    ScalarForm("text", "text", _LOOSE, plain),
    ScalarForm("line", "text", _LOOSE, line),
    ScalarForm("file", "the path of a file", _LOOSE, file_path, _anchored_file),
    ScalarForm("file-path", "the path of a file", _LOOSE, file_path, _anchored),
    ScalarForm("bind", 'an address such as ":80", "127.0.0.1:8080", "[::1]:80" or "unix:/run/e.sock"', _TEXT,
               addresses.bind, _anchored_socket),
    ScalarForm("endpoint", 'an address such as "10.0.0.5:80", "db.internal:5432" or "unix:/run/app.sock"', _TEXT,
               addresses.endpoint, _anchored_socket),
    ScalarForm("dns-name", 'a name such as "web.dev.svc.cluster.local:8080"', _LOOSE, addresses.dns_source),
    ScalarForm("external-name", 'a name such as "www.example.com:443"', _LOOSE, addresses.external_name),
    ScalarForm("nameserver", 'an address such as "10.96.0.10" or "127.0.0.1:5353"', _LOOSE, addresses.nameserver),
    ScalarForm("target", "a path such as /healthz", _TEXT, target),
    ScalarForm("status-range", "a status such as 200, or a range such as 200-399", _LOOSE, status_range, show=str),
    ScalarForm("network", "a network such as 10.0.0.0/8", _TEXT, addresses.network),
    ScalarForm("sni-pattern", 'a server name, or "*" for the rest', _LOOSE, addresses.sni_pattern),
    ScalarForm("host-pattern", "a host name", _LOOSE, addresses.host_pattern),
    ScalarForm("host", "a host name", _LOOSE, addresses.host_name),
    ScalarForm("authority", "a host name, with or without a port", _LOOSE, addresses.authority),
    ScalarForm("path", "a path such as /app", _TEXT, addresses.path),
    ScalarForm("prefix", "a path such as /app", _TEXT, addresses.prefix),
    ScalarForm("regex", "a regular expression", _LOOSE, regex),
    ScalarForm("https-port", "true, false or a port", _or_variable(
        {"type": "boolean"}, {"type": "integer", "minimum": 1, "maximum": 65535}, {"enum": ["true", "false"]},
        {"type": "string", "pattern": "^[1-9][0-9]{0,4}$"}), https_port),
    ScalarForm("method", "a method such as GET", _LOOSE, method),
    ScalarForm("probe-method", "a method such as GET", _LOOSE, probe_method),
    ScalarForm("matched-field", "the name of a header", _LOOSE, matched_field),
    ScalarForm("edited-field", "the name of a header", _LOOSE, edited_field),
    ScalarForm("probe-field", "the name of a header", _LOOSE, probe_field),
    ScalarForm("field", "the name of a header", _LOOSE, token),
    ScalarForm("cookie-name", "the name of a cookie", _LOOSE, cookie_name),
    ScalarForm("secret", "text", _LOOSE, secret),
    ScalarForm("value", "text", _LOOSE, header_value),
    ScalarForm("status", "a status such as 200",
               _or_variable({"type": "integer", "minimum": 200, "maximum": 599}), status),
    ScalarForm(
        "retry-condition", "connect, reset, timeout or a status such as 503",
        _or_variable({"enum": ["connect", "reset", "timeout"]}, {"type": "integer", "minimum": 400, "maximum": 599}),
        retry_condition),
)}
