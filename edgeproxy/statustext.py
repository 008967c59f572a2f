"""The status of a running proxy as tables for people, and for grep: each line says of what it speaks.

    edgeproxy 0.1.0, pid 10399, up 6s, ready

    LISTENER  BIND             PROTOCOL  CONNECTIONS  LEADS TO
    web       127.0.0.1:28480  http                0  routes

    SERVICE  PICKER       READY  AFFINITY                PROBES       WAITING  WHY
    shop     round-robin  2/3    client_ip,3h,clients=1  tcp each 2s        0
    api      least-conn   1/1    -                       -                  0

    SERVICE  ENDPOINT         STATE  FOR  WEIGHT  SHARE  ACTIVE  TOTAL  FAILED  LATENCY  WHY
    shop     127.0.0.1:39395  up      6s       1    33%       0      0       0        -  its first probe passed
    shop     127.0.0.1:35457  up      6s       2    67%       0      1       0        -  its first probe passed
    shop     127.0.0.1:28493  down    2s  backup     0%       0      0       0        -  3 probes in a row failed: …
    api      127.0.0.1:35457  up      6s       1   100%       0      5       0        -  of web.dev.test

    SERVICE  NAME          TYPE  TTL  NEXT  FAILURES  SERVER         ANSWER
    api      web.dev.test  A     23s   20s         0  10.96.0.10:53  alias of web.internal; 127.0.0.1

    WHEN                  SERVICE  SUBJECT          EVENT
    2026-11-23T00:13:52Z  shop     127.0.0.1:28493  down: 3 probes in a row failed: timeout

Rules: columns are at least two spaces apart and hold no two spaces themselves; only the last one is ever cut, and only
to fit a terminal. What came from elsewhere (names of DNS, reasons) is printed without control characters.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import gmtime, strftime
from typing import Any

Json = dict[str, Any]
Paint = Callable[[str, str], str]
"""(text, colour of `ESC[…m`) -> the text in that colour, or as it is."""

COLOURS = {"up": "32", "checking": "33", "draining": "33", "disabled": "33", "down": "31", "ejected": "31"}
RIGHT = frozenset({"CONNECTIONS", "WEIGHT", "SHARE", "ACTIVE", "TOTAL", "FAILED", "LATENCY", "WAITING", "FOR", "TTL",
                   "NEXT", "DAYS", "FAILURES"})
"""Columns of numbers."""
_ENDPOINTS = ("SERVICE", "ENDPOINT", "STATE", "FOR", "WEIGHT", "SHARE", "ACTIVE", "TOTAL", "FAILED", "LATENCY", "WHY")
SHORTEST = 8
"""Characters that a cut column keeps, however narrow the terminal."""
GAP = "  "


def lines(report: Json, width: int | None = None, paint: Paint = lambda text, _: text) -> Iterator[str]:
    """`report`: of `/api/v1/status`; `width`: of the terminal, None for no cutting."""
    yield _title(report)
    blocks = [_listeners(report.get("listeners", [])), _services(report["services"]), _endpoints(report["services"]),
              _names(report["dns"]), _certificates(report.get("certificates", [])), _events(report["events"])]
    for head, rows in blocks:
        if rows:
            yield ""
            yield from table(head, rows, width, paint)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, paint: Paint) -> Iterator[str]:
    """The column STATE is coloured."""
    rows = [[plain(cell) or "-" for cell in row[:-1]] + [plain(row[-1])] for row in rows]
    sizes = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    room = None if width is None else max(SHORTEST, width - sum(sizes[:-1]) - len(GAP) * (len(sizes) - 1))
    for row in (head, *rows):
        cells = [cell.rjust(size) if name in RIGHT else cell.ljust(size)
                 for name, cell, size in zip(head, row, sizes, strict=True)]
        if room is not None and len(row[-1]) > room:
            cells[-1] = row[-1][:room - 1] + "…"
        cells[-1] = cells[-1].rstrip() if head[-1] not in RIGHT else cells[-1]
        if row is head:
            yield paint(GAP.join(cells).rstrip(), "1")
            continue
        for at, name in enumerate(head):
            if name == "STATE":
                cells[at] = paint(row[at], COLOURS.get(row[at], "0")) + " " * (len(cells[at]) - len(row[at]))
        yield GAP.join(cells).rstrip()


def _title(report: Json) -> str:
    state = "draining" if report["draining"] else "ready"
    text = f"edgeproxy {report['version']}, pid {report['pid']}, up {span(report['uptime'])}, {state}"
    if report["leaving_connections"]:
        count = report["leaving_connections"]
        text += f", {count} connection{'s' * (count != 1)} of listeners that are gone"
    if report["reload_refused"]:
        text += f"\nthe last reload was refused: {plain(report['reload_refused'].splitlines()[0])}"
    return text


Block = tuple[Sequence[str], list[list[str]]]


def _listeners(found: Sequence[Json]) -> Block:
    rows = [[one["name"], ",".join(one["bind"]), one["protocol"], _of(one["connections"], one["limit"]),
             one["leads_to"]] for one in found]
    return ("LISTENER", "BIND", "PROTOCOL", "CONNECTIONS", "LEADS TO"), rows


def _services(found: Sequence[Json]) -> Block:
    rows = [[one["name"], _picker(one), f"{one['ready']}/{one['size']}", affinity(one["affinity"]),
             _health(one["health"]), _of(one["waiting"], one["queue"]), _trouble(one)] for one in found]
    return ("SERVICE", "PICKER", "READY", "AFFINITY", "PROBES", "WAITING", "WHY"), rows


def _endpoints(services: Sequence[Json]) -> Block:
    rows = []
    for service in services:
        for one, leaving in [*((e, False) for e in service["endpoints"]), *((e, True) for e in service["leaving"])]:
            weight = "backup" if one["backup"] and one["weight"] == 1 else str(one["weight"])
            counts = [str(one[key]) for key in ("active", "total", "failed")]
            rows.append([service["name"], one["address"], one["state"], span(one["since"]), "" if leaving else weight,
                         f"{100 * one['share']:.0f}%", *counts, _latency(one["latency_ms"]), _why(one)])
    return _ENDPOINTS, rows


def _names(found: Sequence[Json]) -> Block:
    rows = []
    for one in found:
        told = [one["error"] or "", f"stale for {span(one['stale_for'])}" if one["stale_for"] else "",
                "alias of " + " -> ".join(one["chain"]) if one["chain"] else "", ",".join(one["addresses"])]
        told = list(filter(None, told)) or ["no address" if one["server"] else ""]
        rows.append([one["service"], one["name"], one["type"], span(one["ttl_left"]) if one["ttl_left"] else "",
                     span(one["next_in"]),
                     str(one["failures"]), one["server"] or "", "; ".join(told)])
    return ("SERVICE", "NAME", "TYPE", "TTL", "NEXT", "FAILURES", "SERVER", "ANSWER"), rows


def _certificates(found: Sequence[Json]) -> Block:
    rows = [[one["cert"], "expired" if one["expired"] else str(one["days_left"]), one["key_type"],
             ", ".join(one["used_by"]), ",".join(one["names"])] for one in found]
    return ("CERTIFICATE", "DAYS", "KEY", "USED BY", "NAMES"), rows


def _events(found: Sequence[Json]) -> Block:
    rows = [[strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(one["at"])), one["service"], one["subject"], one["text"]]
            for one in found]
    return ("WHEN", "SERVICE", "SUBJECT", "EVENT"), rows


# ---- cells

def _picker(service: Json) -> str:
    return f"hash:{service['hash_of'].replace(' ', ':')}" if service["hash_of"] else str(service["picker"])


def affinity(found: Json | None) -> str:
    if found is None:
        return ""
    text = str(found["by"])
    if found["timeout"]:
        text += f",{span(found['timeout'])}"
    return text + (f",clients={found['clients']}" if found["clients"] is not None else "")


def _health(found: Json | None) -> str:
    if found is None:
        return ""
    return " ".join(filter(None, (found["by"], found["path"], "each", span(found["interval"]))))


def _trouble(service: Json) -> str:
    if service["unresolved"]:
        return f"not resolved: {service['unresolved']}"
    if not service["size"]:
        return "no endpoints"
    return "" if service["ready"] else str(service["fallback"] or "no endpoint is ready")


def _why(endpoint: Json) -> str:
    told = [endpoint["reason"] or ""]
    if endpoint["ramp"] is not None and endpoint["ready"]:
        told.append(f"slow start at {100 * endpoint['ramp']:.0f} %")
    if endpoint["backup"] and endpoint["weight"] != 1:
        told.append("backup")
    if endpoint["name"]:
        told.append(f"of {endpoint['name']}")
    return "; ".join(filter(None, told))


def _of(count: int, limit: int | None) -> str:
    return f"{count}/{limit}" if limit else str(count)


def _latency(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.1f}ms" if milliseconds < 100 else f"{milliseconds:.0f}ms"


def span(seconds: float) -> str:
    """12s, 3m12s, 3h12m, 5d3h."""
    if seconds < 1:
        return f"{1000 * seconds:.0f}ms" if seconds > 0 else "0s"
    whole = int(seconds)
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size}{unit}{f'{rest}{small}' if rest else ''}"
    return f"{whole}s"


def plain(text: str) -> str:
    """Without what a terminal obeys, and in one line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
