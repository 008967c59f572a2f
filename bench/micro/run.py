"""Time the pieces of the warm path one by one: `python bench/micro/run.py --help`.

Each piece is a statement that timeit runs in a plain loop, measured in CPU time of this process; best and median of
several repetitions are shown, and the best is the one to compare. A piece that is not there (no native build, say) is
named and left out. Nothing here asserts a speed.
"""
from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import random
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

Setup = Callable[[], dict[str, Any]]

FIELDS = 100
HEAD = 64 * 1024
REQUEST = (
    b"GET /some/path/of/a/page?with=a&query=string HTTP/1.1\r\n"
    b"Host: www.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    b"Chrome/131.0.0.0 Safari/537.36\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.9,zh-CN;q=0.8\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; _ga=GA1.2.1234567890.1234567890\r\n"
    b"Cache-Control: max-age=0\r\n"
    b"Sec-Fetch-Dest: document\r\n"
    b"Sec-Fetch-Mode: navigate\r\n"
    b"Sec-Fetch-Site: none\r\n"
    b"Upgrade-Insecure-Requests: 1\r\n"
    b"Referer: https://example.com/some/path?with=query\r\n\r\n")
RESPONSE = (
    b"HTTP/1.1 200 OK\r\n"
    b"Server: nginx/1.31.3\r\n"
    b"Date: Sun, 22 Nov 2026 17:00:00 GMT\r\n"
    b"Content-Type: text/plain\r\n"
    b"Content-Length: 110\r\n"
    b"Connection: keep-alive\r\n\r\n")
CHUNK = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"


@dataclass(frozen=True, slots=True)
class Piece:
    """A statement and what it needs; `setup` may fail if the piece is not there."""

    name: str
    statement: str
    setup: Setup


@dataclass(frozen=True, slots=True)
class Timing:
    name: str
    best_ns: float = 0.0
    median_ns: float = 0.0
    missing: str = ""


# --- the pieces -----------------------------------------------------------------------------------------------------

def _part(name: str) -> Any:
    """A module of edgeproxy. Untyped on purpose: it may not be there."""
    return importlib.import_module(f"edgeproxy.{name}")


def _codec(engine: str) -> dict[str, Any]:
    codec = _part(f"codec._{engine}")
    return {
        "REQUEST": REQUEST, "RESPONSE": RESPONSE, "CHUNK": CHUNK, "identity": b"0123456789abcdef0123456789abcdef",
        "parse_request": codec.parse_request, "parse_response": codec.parse_response,
        "find_head_end": codec.find_head_end, "decoder": codec.ChunkDecoder(8192),
        "request": codec.parse_request(REQUEST, HEAD, FIELDS),
        "response": codec.parse_response(RESPONSE, False, HEAD, FIELDS),
        "forward": codec.Forward(b"192.0.2.1", b"http", b"80", False),
        "edits": codec.Edits([(b"x-env", b"prod")], [], [b"x-debug"])}


def _codec_pieces(engine: str) -> list[Piece]:
    def setup() -> dict[str, Any]:
        return _codec(engine)
    parse, build = f"parse_request(REQUEST, {HEAD}, {FIELDS})", "outbound(forward, identity, None, None, None)"
    statements = {
        "request: parse": parse,
        "request: build for the endpoint": f"request.{build}",
        "request: the same with edits": "request.outbound(forward, identity, None, None, edits)",
        "request: fields of the log": "request.log_fields()",
        "request: look up one field": "request.get(b'user-agent')",
        "request: parse, build, log": f"h = {parse}; h.{build}; h.log_fields()",
        "request: find its end": "find_head_end(REQUEST, 0)",
        "response: parse": f"parse_response(RESPONSE, False, {HEAD}, {FIELDS})",
        "response: build for the client": "response.inbound(1, False, None)",
        "response: parse, build": f"parse_response(RESPONSE, False, {HEAD}, {FIELDS}).inbound(1, False, None)",
        "chunked body: a chunk of 16 KiB": "decoder.feed(CHUNK)",
    }
    return [Piece(f"{engine}: {name}", statement, setup) for name, statement in statements.items()]


def _many_routes(count: int) -> Any:
    model = _part("config.model")
    web = model.Listener("web", (model.Bind("127.0.0.1", 80),), "http")
    names = [f"h{number:05}.example.com" for number in range(count)] if count > 1 else [""]
    routes = tuple(model.Route(name or "any", host=(name,) if name else (), service=(model.WeightedService("s"),))
                   for name in names)
    return model.Config(listeners={"web": web}, routes=routes, services={"s": model.Service("s")})


def _hosts_in_turn() -> Iterator[str]:
    """10 000 hosts in an order that caches do not like."""
    return cycle([f"h{number * 7919 % 10_000:05}.example.com" for number in range(10_000)])


def _router(count: int) -> Setup:
    def setup() -> dict[str, Any]:
        module = _part("router")
        config = _many_routes(count)
        return {"config": config, "build_router": module.build_router, "find": module.build_router(config, "web").find,
                "host": _hosts_in_turn().__next__,
                "head": _part("codec._pure").parse_request(REQUEST, HEAD, FIELDS)}
    return setup


def _text(count: int) -> dict[str, Any]:
    lines = ["listeners: {web: {bind: \"127.0.0.1:80\", protocol: http}}",
             "services: {s: {endpoints: [\"127.0.0.1:81\"]}}", "routes:",
             *(f"  - {{host: h{number:05}.example.com, service: s}}" for number in range(count))]
    return {"load_text": _part("config.load").load_text, "text": "\n".join(lines) + "\n"}


def _picker(kind: str, count: int) -> Setup:
    def setup() -> dict[str, Any]:
        endpoint, picker = _part("policy.endpoint"), _part("policy.picker")
        states = []
        for number in range(count):
            address = f"10.0.{number // 250}.{number % 250 + 1}:80"
            states.append(endpoint.EndpointState(endpoint.Endpoint(address, address[:-3], 80)))
        made = picker.build_picker(kind, states, random.Random(1))
        return {"first": made.first, "key": picker.hash_key(b"192.0.2.1"), "hash_key": picker.hash_key}
    return setup


def _service() -> dict[str, Any]:
    model = _part("config.model")
    addresses = tuple(model.EndpointAddress(f"127.0.0.{number}", 80) for number in range(1, 4))
    loop = asyncio.new_event_loop()
    service = _part("upstream.service").Service(loop, model.Service("s", addresses), random.Random(1))
    loop.close()
    return {"pick": service.pick, "service": service, "budget": service.budget, "member": service.pick()}


def _ended() -> Any:
    """An exchange as the access log sees it."""
    ended: Any = _part("session.record").ExchangeRecord()
    ended.started = time.monotonic()
    ended.ended = ended.started + 0.0012
    ended.client = "192.0.2.1:51234"
    ended.bytes_in, ended.bytes_out, ended.status = 0, 110, 200
    ended.queue_s = ended.connect_s = -1.0
    ended.first_byte_s = 0.0011
    ended.listener, ended.route, ended.service, ended.endpoint = "web", "www.example.com", "backend", "10.0.0.1:80"
    ended.attempts = []
    ended.reused = True
    ended.sni, ended.tls, ended.grpc_status = "", "", -1
    ended.request_id, ended.traceparent, ended.cause = "0123456789abcdef0000000000000001", "", ""
    return ended


def _log_line() -> dict[str, Any]:
    lines = _part("runtime.logline")
    ended = _ended()
    ended.outcome = _part("errors").OK
    ended.head = _part("codec._leaf").parse_request(REQUEST, HEAD, FIELDS)
    return {"json": lines.JsonLines(), "combined": lines.CombinedLines(), "ended": ended,
            "host": _hosts_in_turn().__next__}


def every_piece() -> list[Piece]:
    route = "find('h05000.example.com', '/some/path/of/a/page', 'GET', head)"
    picks = [("round-robin", 3), ("least-conn", 3), ("least-conn", 1000), ("source-hash", 1000), ("random", 1000),
             ("least-latency", 1000)]
    return [
        *_codec_pieces("native"), *_codec_pieces("pure"),
        Piece("route: find, one for all", route, _router(1)),
        Piece("route: find among 10 000 hosts", route, _router(10_000)),
        Piece("route: find, 10 000 hosts in turn", route.replace("'h05000.example.com'", "host()"), _router(10_000)),
        *(Piece(f"pick: {kind}, {count} endpoints", "first(key)", _picker(kind, count)) for kind, count in picks),
        Piece("pick: hash of a key", "hash_key(b'192.0.2.1')", _picker("source-hash", 3)),
        Piece("pick: service with 3 endpoints", "pick(0)", _service),
        Piece("service: enter and leave", "service.enter(member); service.leave(member)", _service),
        Piece("log line: JSON", "json.http(ended)", _log_line),
        Piece("log line: JSON, 10 000 routes in turn", "ended.route = host(); json.http(ended)", _log_line),
        Piece("log line: JSON of a connection", "json.tcp(ended)", _log_line),
        Piece("log line: combined", "combined.http(ended)", _log_line),
        Piece("once: compile 10 000 routes", "build_router(config, 'web')", _router(10_000)),
        Piece("once: read a file of 1 000 routes", "load_text(text)", lambda: _text(1000)),
    ]


# --- timing ---------------------------------------------------------------------------------------------------------

def time_piece(piece: Piece, least: float, repeats: int) -> Timing:
    """Loops of at least `least` seconds each; what is missing is said in the result."""
    try:
        timer = timeit.Timer(piece.statement, timer=time.process_time, globals=piece.setup())
        timer.timeit(1)
        number = 1
        while (spent := timer.timeit(number)) < least:
            number = max(number * 2, int(number * least / spent) + 1) if spent > least / 100 else number * 10
        loops = [timer.timeit(number) / number * 1e9 for _ in range(repeats)]
    except Exception as error:   # whatever a half-built piece does, the others can still be timed
        return Timing(piece.name, missing=f"{type(error).__name__}: {error}".partition("\n")[0])
    return Timing(piece.name, min(loops), statistics.median(loops))


def told(nanoseconds: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.2f} {unit}"
    return f"{nanoseconds:.0f} ns"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/micro/run.py", description="Time the pieces of the warm path.")
    parser.add_argument("--only", default="", metavar="WORD", help="only the pieces with this in their name")
    parser.add_argument("--quick", action="store_true", help="shorter and fewer loops")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too (nanoseconds)")
    options = parser.parse_args(arguments)
    least, repeats = (0.004, 5) if options.quick else (0.02, 11)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    timings = []
    print(f"{'piece':48} {'best':>10} {'median':>10}")
    for piece in every_piece():
        if options.only not in piece.name:
            continue
        gc.collect()
        timing = time_piece(piece, least, repeats)
        timings.append(timing)
        if not timing.missing:
            print(f"{timing.name:48} {told(timing.best_ns):>10} {told(timing.median_ns):>10}", flush=True)
    for reason in dict.fromkeys(timing.missing for timing in timings if timing.missing):
        names = [timing.name for timing in timings if timing.missing == reason]
        more = f" and {len(names) - 2} more" if len(names) > 3 else ""
        print(f"not there ({reason}): {', '.join(names[:2] if more else names)}{more}")
    if options.json:
        figures = {timing.name: {"best_ns": timing.best_ns, "median_ns": timing.median_ns}
                   for timing in timings if not timing.missing}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
